//! Events in the output and in a file, in the same JSON shape.

use std::time::{Duration, SystemTime};

use imsup_wire::{Cause, CauseKind, Event, EventKind, HostName, Usage};
use serde::{Deserialize, Serialize};

/// Called with each event at once.
pub type OnEvent = Box<dyn Fn(&Event)>;

/// An event as JSON: the output of `imsup events --format json` and the contents of `events.jsonl`,
/// an object per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// RFC 3339, UTC, with microseconds.
    pub time: String,
    /// The host's name.
    pub host: HostName,
    /// What happened.
    pub event: EventKind,
    /// The signal that caused the event.
    pub cause: Option<CauseKind>,
    /// The sender of the signal.
    pub by: Option<String>,
    /// The port the signal was for.
    pub port: Option<u16>,
    /// How long it took, in microseconds.
    pub duration_us: Option<u64>,
    /// A sentence for people.
    pub detail: Option<String>,
    /// CPU time of the host's program since its boot, in microseconds. Null if the event does not
    /// end a stretch of the program's run; the same holds for the next two fields.
    pub cpu_us: Option<u64>,
    /// The program's resident memory times time so far, in byte-milliseconds. May exceed 2^53:
    /// readers that treat every number as a double lose the last digits.
    pub memory_byte_ms: Option<u128>,
    /// The program's resident memory at that moment, in bytes.
    pub resident_bytes: Option<u64>,
    /// In the file alone, and there alone where the wall clock was stepped since `up`: the same
    /// moment as microseconds of the clock that accounts count by, which shows the wall clock's
    /// time at `up`, and goes on from there by CLOCK_BOOTTIME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady_us: Option<u64>,
}

impl From<&Event> for EventLine {
    fn from(event: &Event) -> Self {
        let cause = event.cause.as_ref();
        Self {
            time: event.time_rfc3339(),
            host: event.host.clone(),
            event: event.kind,
            cause: cause.map(|cause| cause.kind),
            by: cause.and_then(|cause| cause.by.clone()),
            port: cause.and_then(|cause| cause.port),
            duration_us: event.duration.map(micros),
            detail: event.detail.clone(),
            cpu_us: event.usage.map(|usage| micros(usage.cpu)),
            memory_byte_ms: event.usage.map(|usage| usage.memory_byte_ms),
            resident_bytes: event.usage.map(|usage| usage.resident_bytes),
            steady_us: None,
        }
    }
}

impl EventLine {
    /// The event, or `None` if the time is malformed.
    pub fn to_event(&self) -> Option<Event> {
        let time = humantime::parse_rfc3339(&self.time).ok()?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Event {
            time_us: u64::try_from(since.as_micros()).ok()?,
            host: self.host.clone(),
            kind: self.event,
            cause: self.cause.map(|kind| Cause {
                kind,
                by: self.by.clone(),
                port: self.port,
            }),
            duration: self.duration_us.map(Duration::from_micros),
            detail: self.detail.clone(),
            usage: self.cpu_us.map(|cpu_us| Usage {
                cpu: Duration::from_micros(cpu_us),
                memory_byte_ms: self.memory_byte_ms.unwrap_or_default(),
                resident_bytes: self.resident_bytes.unwrap_or_default(),
            }),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An event as one line of JSON, without the newline.
pub fn to_json(event: &Event) -> String {
    // A struct of strings and numbers cannot fail to serialize.
    serde_json::to_string(&EventLine::from(event)).unwrap_or_default()
}

/// The current time in the unit of events: microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_json(line: &str) -> Option<Event> {
        serde_json::from_str::<EventLine>(line).ok()?.to_event()
    }

    fn event(port: u16) -> Event {
        Event {
            time_us: 1_700_000_000_123_456,
            host: "web".parse().unwrap(),
            kind: EventKind::Ready,
            cause: Some(Cause {
                kind: CauseKind::Connection,
                by: Some("curl".to_owned()),
                port: Some(port),
            }),
            duration: Some(Duration::from_micros(2700)),
            detail: None,
            usage: None,
        }
    }

    #[test]
    fn the_shape_is_this() {
        assert_eq!(
            to_json(&event(80)),
            r#"{"time":"2023-11-14T22:13:20.123456Z","host":"web","event":"ready","cause":"connection","by":"curl","port":80,"duration_us":2700,"detail":null,"cpu_us":null,"memory_byte_ms":null,"resident_bytes":null}"#
        );
        assert_eq!(from_json(&to_json(&event(80))), Some(event(80)));
        let old = r#"{"time":"2023-11-14T22:13:20.123456Z","host":"web","event":"ready","cause":null,"by":null,"port":null,"duration_us":null,"detail":null}"#;
        assert_eq!(from_json(old).unwrap().usage, None, "as it was before there was usage");
    }

    #[test]
    fn usage_comes_back_as_it_was_written() {
        let mut event = event(80);
        event.usage = Some(Usage {
            cpu: Duration::from_micros(1_234_567),
            memory_byte_ms: u128::from(u64::MAX) + 1,
            resident_bytes: 4096,
        });
        let line = to_json(&event);
        assert!(
            line.ends_with(r#""cpu_us":1234567,"memory_byte_ms":18446744073709551616,"resident_bytes":4096}"#),
            "{line}"
        );
        assert_eq!(from_json(&line), Some(event));
    }
}
