//! Times and durations for people.

use std::time::Duration;

use imsup_wire::{CauseKind, Event};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A duration with three significant digits or two units: `812 µs`, `14.2 ms`, `2.35 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`.
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

/// What led to an event: `connection to port 80 by 127.0.0.1:5123`; empty where nothing is known.
pub fn cause(event: &Event) -> String {
    let Some(cause) = &event.cause else {
        return String::new();
    };
    let mut text = match (cause.kind, cause.port) {
        (CauseKind::Published, Some(port)) => format!("published port {port}"),
        (kind, Some(port)) => format!("{kind} to port {port}"),
        (kind, None) => kind.to_string(),
    };
    if let Some(by) = &cause.by {
        text += &format!(" by {by}");
    }
    text
}

#[cfg(test)]
mod tests {
    use imsup_wire::{Cause, EventKind};

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
    fn a_cause_names_the_signal_its_port_and_its_sender() {
        let mut event = Event {
            time_us: 0,
            host: "web".parse().unwrap(),
            kind: EventKind::Boot,
            cause: Some(Cause {
                kind: CauseKind::Connection,
                by: Some("127.0.0.1:5123".to_owned()),
                port: Some(80),
            }),
            duration: None,
            detail: None,
        };
        assert_eq!(cause(&event), "connection to port 80 by 127.0.0.1:5123");
        event.cause = None;
        assert_eq!(cause(&event), "");
    }
}
