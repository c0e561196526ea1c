//! Events as they are kept and shown: one JSON shape, the file they are appended to, and the recent ones in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use imsup_wire::{Cause, CauseKind, Event, EventKind, HostName, Usage};
use serde::{Deserialize, Serialize};

use crate::watch;

/// Called with each event as it happens.
pub type OnEvent = Box<dyn Fn(&Event)>;

/// Events kept in memory for `imsup events`; the file has all of them, but for ticks.
const KEPT: usize = 16_384;

/// Ticks kept in memory. They are in no file: a sleeper with a timer would write one a second for ever.
const KEPT_TICKS: usize = 4096;

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
    /// CPU time that the host's program had used by then since its boot, in microseconds; null where the event ends no
    /// stretch of it, as are the next two.
    pub cpu_us: Option<u64>,
    /// Its resident memory times time by then, in byte-milliseconds. May exceed 2^53: readers that take every number for a
    /// double lose its last digits.
    pub memory_byte_ms: Option<u128>,
    /// Its resident memory at that moment, in bytes.
    pub resident_bytes: Option<u64>,
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

/// Its line in the file, if it is written at all.
fn line(event: &Event) -> String {
    match event.kind {
        EventKind::Tick => String::new(),
        _ => to_json(event) + "\n",
    }
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
    recent: Kept,
    ticks: Kept,
    /// The number that the next event will have; they count from 0.
    next: u64,
    /// `None` where it could not be opened, which was said.
    file: Option<File>,
    /// Where the lines of events that were told end in the file, and where those of the ones that were only noted do.
    told: u64,
    noted: u64,
    /// Writes that failed since the last one that did not.
    failed: u64,
}

/// The last events of one sort, with their numbers.
struct Kept {
    events: VecDeque<(u64, Event)>,
    most: usize,
}

impl Kept {
    fn push(&mut self, number: u64, event: Event) {
        if self.events.len() == self.most {
            self.events.pop_front();
        }
        self.events.push_back((number, event));
    }

    fn next(&self, from: u64) -> Option<(u64, &Event)> {
        let place = self.events.partition_point(|(number, _)| *number < from);
        self.events.get(place).map(|(number, event)| (*number, event))
    }
}

impl History {
    /// A history that no file keeps.
    pub(crate) fn in_memory() -> Self {
        let kept = |most| Kept {
            events: VecDeque::new(),
            most,
        };
        Self {
            recent: kept(KEPT),
            ticks: kept(KEPT_TICKS),
            next: 0,
            file: None,
            told: 0,
            noted: 0,
            failed: 0,
        }
    }

    /// Opens the history, reading back what an earlier broker left, and calls `seen` for each of its events.
    pub(crate) fn open(path: &Path, mut seen: impl FnMut(&Event)) -> io::Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = match opened {
            // What was kept counts all the same, on a file system that has become read-only.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path)?,
            opened => opened?,
        };
        let mut history = Self::in_memory();
        let mut cut_off = false;
        for line in BufReader::new(file.try_clone()?).split(b'\n') {
            let event = std::str::from_utf8(&line?).ok().and_then(from_json);
            cut_off = event.is_none();
            if let Some(event) = event {
                seen(&event);
                history.keep(event);
            }
        }
        let end = file.metadata()?.len();
        history.file = Some(file);
        (history.told, history.noted) = (end, end);
        if cut_off && history.write_or_say(end, "\n") {
            history.told = history.noted;
        }
        Ok(history)
    }

    /// Appends these events, which have happened one after the other. Those after them that were noted are written anew.
    pub(crate) fn tell<'a>(&mut self, events: Vec<Event>, untold: impl Iterator<Item = &'a Event>) {
        let text: String = events.iter().map(line).collect();
        let told = self.told + text.len() as u64;
        if self.write_or_say(self.told, &untold.map(line).fold(text, |text, line| text + &line)) {
            self.told = told;
        }
        events.into_iter().for_each(|event| self.keep(event));
    }

    /// Writes an event that is to be told later, when more of it is known, so that it is not lost should the broker be killed meanwhile.
    pub(crate) fn note(&mut self, event: &Event) {
        self.write_or_say(self.noted, &line(event));
    }

    /// A file that cannot be written loses history, and nothing else; that is said once.
    fn write_or_say(&mut self, at: u64, text: &str) -> bool {
        let outcome = self.write(at, text);
        match (&outcome, self.failed) {
            (Ok(()), 0) => {}
            (Ok(()), failed) => {
                tracing::warn!(
                    failed,
                    "events.jsonl can be written again; what happened in between is missing in it"
                );
                self.failed = 0;
            }
            (Err(error), failed) => {
                if failed == 0 {
                    tracing::error!(
                        %error,
                        "events.jsonl cannot be written: what happens from here on is not kept beyond this broker; all else goes on"
                    );
                }
                self.failed = failed.saturating_add(1);
                // A part of it may have found room; what comes next must not follow that.
                let _ = self.file.as_ref().map(|file| file.set_len(at));
                self.noted = at;
            }
        }
        outcome.is_ok()
    }

    /// Writes there; what was after it is gone.
    fn write(&mut self, at: u64, text: &str) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let end = at + text.len() as u64;
        let shrinks = end < self.noted;
        self.noted = end;
        file.write_all_at(text.as_bytes(), at)?;
        if shrinks { file.set_len(end) } else { Ok(()) }
    }

    fn keep(&mut self, event: Event) {
        let kept = match event.kind {
            EventKind::Tick => &mut self.ticks,
            _ => &mut self.recent,
        };
        kept.push(self.next, event);
        self.next += 1;
    }

    /// The first event at or after number `from` that is still kept, with its number.
    pub(crate) fn next(&self, from: u64) -> Option<(u64, &Event)> {
        let found = [self.recent.next(from), self.ticks.next(from)];
        found.into_iter().flatten().min_by_key(|(number, _)| *number)
    }

    /// Makes the file anew if somebody has removed it, with all that it had: it can be read for as long as it is open.
    ///
    /// # Errors
    /// It cannot be made or written; what happens is written to the file that nobody finds then.
    pub(crate) fn restore(&mut self, path: &Path) -> io::Result<()> {
        let Some(old) = self.file.as_ref().filter(|file| !watch::is_at(path, file)) else {
            return Ok(());
        };
        let opened = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let made = match opened {
            // Not the file that was removed, but nothing is lost to those who look there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            opened => opened?,
        };
        let mut text = vec![0; usize::try_from(self.noted).map_err(io::Error::other)?];
        old.read_exact_at(&mut text, 0)?;
        made.write_all_at(&text, 0)?;
        self.file = Some(made);
        Ok(())
    }

    /// The number that the next event will have.
    pub(crate) fn end(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

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

    #[test]
    fn ticks_are_streamed_in_their_place_and_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut history = History::open(&path, |_| panic!("nothing yet")).unwrap();
        let tick = || Event {
            kind: EventKind::Tick,
            ..event(9)
        };
        history.tell(vec![event(1)], iter::empty());
        for _ in 0..KEPT_TICKS + 10 {
            history.tell(vec![tick()], iter::empty());
        }
        history.tell(vec![event(2)], iter::empty());
        let mut from = 0;
        let mut seen = Vec::new();
        while let Some((number, event)) = history.next(from) {
            seen.push(event.kind);
            from = number + 1;
        }
        assert_eq!(from, history.end());
        assert_eq!(
            seen.len(),
            KEPT_TICKS + 2,
            "old ticks make room for new ones, and other events stay"
        );
        assert_eq!((seen[0], seen[1]), (EventKind::Ready, EventKind::Tick));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_history_is_read_back_and_a_line_cut_off_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut history = History::open(&path, |_| panic!("nothing yet")).unwrap();
        history.tell(vec![event(1)], iter::empty());
        history.tell(vec![event(2)], iter::empty());
        drop(history);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 10]).unwrap();
        let mut ports = Vec::new();
        let mut history =
            History::open(&path, |event| ports.push(event.cause.as_ref().unwrap().port.unwrap())).unwrap();
        assert_eq!(ports, [1]);
        history.tell(vec![event(3)], iter::empty());
        assert_eq!(history.end(), 2);
        assert_eq!(history.next(1).unwrap().1, &event(3));
        assert!(history.next(2).is_none());
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().filter_map(from_json).count(), 2, "{lines}");
    }

    #[test]
    fn what_was_noted_is_read_back_where_it_was_never_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let ports = || {
            let mut ports = Vec::new();
            History::open(&path, |event| ports.push(event.cause.as_ref().unwrap().port.unwrap())).unwrap();
            ports
        };
        let mut history = History::open(&path, |_| panic!("nothing yet")).unwrap();
        history.note(&event(1_000));
        history.note(&event(20));
        assert_eq!(ports(), [1_000, 20]);
        let unknown = |port| Event {
            detail: Some("told".to_owned()),
            ..event(port)
        };
        history.tell(vec![unknown(1)], [&event(20)].into_iter());
        assert_eq!(ports(), [1, 20], "in its place");
        history.note(&event(3));
        history.tell(vec![event(2), event(3)], iter::empty());
        assert_eq!(ports(), [1, 2, 3]);
        assert_eq!(history.end(), 3);
    }
}
