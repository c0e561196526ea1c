//! Times and durations for people.

use std::time::{Duration, SystemTime};

use imsup_wire::{Cause, CauseKind};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A duration with three significant digits or two units: `812 µs`, `14.2 ms`, `2.35 s`, `3 min 5
/// s`, `2 h 10 min`, `4 d 3 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let micros = duration.as_micros();
    match (micros, seconds) {
        (0..1_000, _) => format!("{micros} µs"),
        (1_000..10_000, _) => format!("{:.2} ms", duration.as_secs_f64() * 1e3),
        (10_000..100_000, _) => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        (100_000..1_000_000, _) => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        (_, 0..10) => format!("{:.2} s", duration.as_secs_f64()),
        (_, 10..60) => format!("{:.1} s", duration.as_secs_f64()),
        (_, 60..3_600) => format!("{} min {} s", seconds / 60, seconds % 60),
        (_, 3_600..86_400) => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A duration for a sentence, no more exact than is worth reading: `80 ms`, `3.1 s`, `12 s`, then
/// as [`duration`].
pub fn span(length: Duration) -> String {
    match length.as_millis() {
        millis @ 0..100 => format!("{millis} ms"),
        100..9_950 => format!("{:.1} s", length.as_secs_f64()),
        9_950..59_500 => format!("{:.0} s", length.as_secs_f64()),
        _ => duration(length),
    }
}

/// Memory times time, given in byte-milliseconds: `12.3 MiB·s`, `4.5 GiB·s`, `6.7 GiB·h`.
pub fn memory_time(byte_ms: u128) -> String {
    let (mebibytes, gibibytes) = (mebibyte_seconds(byte_ms), mebibyte_seconds(byte_ms) / 1024.0);
    if gibibytes < 1.0 {
        format!("{mebibytes:.1} MiB·s")
    } else if gibibytes < 3600.0 {
        format!("{gibibytes:.1} GiB·s")
    } else {
        format!("{:.1} GiB·h", gibibytes / 3600.0)
    }
}

/// Bytes, in the units of disks and of Docker: `812 B`, `4.1 kB`, `12.5 MB`, `1.2 GB`.
pub fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

/// A duration in seconds, to the nearest millisecond.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// Byte-milliseconds as mebibyte-seconds.
pub fn mebibyte_seconds(byte_ms: u128) -> f64 {
    byte_ms as f64 / (1024.0 * 1024.0 * 1000.0)
}

/// The time from `time_us` to `now`, in microseconds since the Unix epoch; zero if the clock was
/// set back since.
pub fn since(time_us: u64, now: SystemTime) -> Duration {
    now.duration_since(at(time_us)).unwrap_or_default()
}

/// The time from `now` to `time_us`, in microseconds since the Unix epoch; zero for a past time.
pub fn until(time_us: u64, now: SystemTime) -> Duration {
    at(time_us).duration_since(now).unwrap_or_default()
}

/// A time, given in microseconds since the Unix epoch, as RFC 3339, UTC.
pub fn rfc3339(time_us: u64) -> String {
    humantime::format_rfc3339_micros(at(time_us)).to_string()
}

fn at(time_us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(time_us)
}

/// How long ago, in the largest unit: `just now`, `12 s ago`, `3 min ago`, `2 h ago`, `4 d ago`.
pub fn ago(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0 => "just now".to_owned(),
        seconds @ 1..60 => format!("{seconds} s ago"),
        seconds @ 60..3_600 => format!("{} min ago", seconds / 60),
        seconds @ 3_600..86_400 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

/// The time of day of an event in this time zone, to the millisecond: `12:00:01.234`.
pub fn time_of_day(time_us: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(time_us)
        .ok()
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or(Timestamp::MAX);
    time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string()
}

/// The cause of an event: `connection to port 80 by 127.0.0.1:5123`.
pub fn cause(cause: &Cause) -> String {
    match &cause.by {
        Some(by) => format!("{} by {by}", signal(cause)),
        None => signal(cause),
    }
}

/// The same without its sender: `connection to port 80`.
pub fn signal(cause: &Cause) -> String {
    match (cause.kind, cause.port) {
        (CauseKind::Published, Some(port)) => format!("published port {port}"),
        (CauseKind::Data, Some(port)) => format!("data on port {port}"),
        // Also for a suspend: the verb is in the event's kind.
        (CauseKind::Wake, _) if cause.by.is_some() => "asked for".to_owned(),
        (CauseKind::Wake, _) => "kept awake".to_owned(),
        (kind, Some(port)) => format!("{kind} to port {port}"),
        (kind, None) => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_digits() {
        for (micros, text) in [
            (0, "0 µs"),
            (812, "812 µs"),
            (2_700, "2.70 ms"),
            (14_230, "14.2 ms"),
            (171_400, "171 ms"),
            (2_346_000, "2.35 s"),
            (12_340_000, "12.3 s"),
            (185_000_000, "3 min 5 s"),
            (7_800_000_000, "2 h 10 min"),
            (356_400_000_000, "4 d 3 h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in [
            (0, "just now"),
            (12, "12 s ago"),
            (185, "3 min ago"),
            (7_800, "2 h ago"),
            (400_000, "4 d ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_time_of_day_has_milliseconds() {
        assert_eq!(time_of_day(43_201_234_567, &TimeZone::UTC), "12:00:01.234");
    }

    #[test]
    fn spans_are_as_exact_as_is_worth_reading() {
        for (millis, text) in [
            (0, "0 ms"),
            (80, "80 ms"),
            (812, "0.8 s"),
            (3_149, "3.1 s"),
            (9_960, "10 s"),
            (12_340, "12 s"),
            (59_700, "59.7 s"),
            (185_000, "3 min 5 s"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn bytes_have_the_units_of_disks() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (4_096, "4.1 kB"),
            (12_500_000, "12.5 MB"),
            (1_234_000_000, "1.2 GB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn memory_times_time_has_three_units() {
        for (byte_ms, text) in [
            (0, "0.0 MiB·s"),
            (1_048_576_000, "1.0 MiB·s"),
            (1_536 * 1_048_576_000, "1.5 GiB·s"),
            (36 * 1_048_576_000 * 102_400, "1.0 GiB·h"),
        ] {
            assert_eq!(memory_time(byte_ms), text);
        }
    }

    #[test]
    fn a_clock_that_was_set_gives_no_negative_times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(since(7_000_000, now), Duration::from_secs(3));
        assert_eq!(since(11_000_000, now), Duration::ZERO);
        assert_eq!(until(11_000_000, now), Duration::from_secs(1));
        assert_eq!(until(7_000_000, now), Duration::ZERO);
    }

    #[test]
    fn a_cause_names_the_signal_its_port_and_its_sender() {
        for (kind, by, port, text) in [
            (
                CauseKind::Connection,
                Some("127.0.0.1:5123"),
                Some(80),
                "connection to port 80 by 127.0.0.1:5123",
            ),
            (CauseKind::Data, Some("web"), Some(80), "data on port 80 by web"),
            (CauseKind::Published, None, Some(80), "published port 80"),
            (CauseKind::Wake, Some("root"), None, "asked for by root"),
            (CauseKind::Wake, None, None, "kept awake"),
            (CauseKind::Timer, None, None, "timer"),
        ] {
            let by = by.map(str::to_owned);
            assert_eq!(cause(&Cause { kind, by, port }), text);
        }
    }
}
