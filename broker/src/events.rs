//! Events as they are kept and shown: one JSON shape, the file they are appended to, and the recent ones in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use imsup_wire::{Cause, CauseKind, Event, EventKind, HostName};
use serde::{Deserialize, Serialize};

/// Called with each event as it happens.
pub type OnEvent = Box<dyn Fn(&Event)>;

/// Events kept in memory for `imsup events`; the file has all of them.
const KEPT: usize = 16_384;

/// An event as JSON: what `imsup events --format json` prints and `events.jsonl` holds, one object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// RFC 3339, UTC, with microseconds.
    pub time: String,
    /// The host's name.
    pub host: HostName,
    /// What happened.
    pub event: EventKind,
    /// The signal behind it.
    pub cause: Option<CauseKind>,
    /// Who sent the signal.
    pub by: Option<String>,
    /// The port the signal was for.
    pub port: Option<u16>,
    /// How long it took, in microseconds.
    pub duration_us: Option<u64>,
    /// A sentence for people.
    pub detail: Option<String>,
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
            duration_us: event
                .duration
                .map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)),
            detail: event.detail.clone(),
        }
    }
}

impl EventLine {
    /// The event, or `None` where the time is none.
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
            usage: None,
        })
    }
}

/// An event as one line of JSON, without the newline.
pub fn to_json(event: &Event) -> String {
    // A struct of strings and numbers cannot fail to serialize.
    serde_json::to_string(&EventLine::from(event)).unwrap_or_default()
}

/// The event that a line of JSON is, or `None` where it is none (a line cut off by a crash).
pub fn from_json(line: &str) -> Option<Event> {
    serde_json::from_str::<EventLine>(line).ok()?.to_event()
}

/// Now, as events have it: microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// What happened since `up`.
pub(crate) struct History {
    recent: VecDeque<Event>,
    /// The number of the first event in `recent`; numbers count from 0 and have no gaps.
    first: u64,
    file: File,
}

impl History {
    /// Opens the history, reading back what an earlier broker left, and calls `seen` for each of its events.
    pub(crate) fn open(path: &Path, mut seen: impl FnMut(&Event)) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut history = Self {
            recent: VecDeque::new(),
            first: 0,
            file,
        };
        let mut cut_off = false;
        for line in BufReader::new(history.file.try_clone()?).split(b'\n') {
            let event = std::str::from_utf8(&line?).ok().and_then(from_json);
            cut_off = event.is_none();
            if let Some(event) = event {
                seen(&event);
                history.keep(event);
            }
        }
        if cut_off {
            history.file.write_all(b"\n")?;
        }
        Ok(history)
    }

    /// Appends an event.
    pub(crate) fn push(&mut self, event: Event) {
        let mut line = to_json(&event);
        line.push('\n');
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            tracing::error!(%error, "an event could not be written to events.jsonl");
        }
        self.keep(event);
    }

    fn keep(&mut self, event: Event) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
            self.first += 1;
        }
        self.recent.push_back(event);
    }

    /// The first event at or after number `from` that is still kept, with its number.
    pub(crate) fn next(&self, from: u64) -> Option<(u64, &Event)> {
        let number = from.max(self.first);
        let offset = usize::try_from(number - self.first).ok()?;
        self.recent.get(offset).map(|event| (number, event))
    }

    /// The number that the next event will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.recent.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            r#"{"time":"2023-11-14T22:13:20.123456Z","host":"web","event":"ready","cause":"connection","by":"curl","port":80,"duration_us":2700,"detail":null}"#
        );
        assert_eq!(from_json(&to_json(&event(80))), Some(event(80)));
    }

    #[test]
    fn a_history_is_read_back_and_a_line_cut_off_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut history = History::open(&path, |_| panic!("nothing yet")).unwrap();
        history.push(event(1));
        history.push(event(2));
        drop(history);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 10]).unwrap();
        let mut ports = Vec::new();
        let mut history =
            History::open(&path, |event| ports.push(event.cause.as_ref().unwrap().port.unwrap())).unwrap();
        assert_eq!(ports, [1]);
        history.push(event(3));
        assert_eq!(history.end(), 2);
        assert_eq!(history.next(1).unwrap().1, &event(3));
        assert!(history.next(2).is_none());
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().filter_map(from_json).count(), 2, "{lines}");
    }
}
