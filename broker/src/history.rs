//! The history since `up`: recent events in memory, all events as accounts, and a bounded number of
//! events in a file.

mod file;
mod ledger;
mod trouble;

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use imsup_wire::{Event, EventKind, HostName};

use self::file::EventsFile;
use self::ledger::SummaryLine;
pub(crate) use self::ledger::{Ledger, Summary};
use crate::events::EventLine;

/// Events kept in memory for `imsup events`, beside ticks.
const KEPT: usize = 16_384;

/// Ticks kept in memory. Ticks are not written to a file: a sleeper with a timer would write a line
/// per second for ever.
const KEPT_TICKS: usize = 4096;

/// The bytes by which `events.jsonl` grows, some 40,000 events, before the next file is begun. The
/// previous file is kept.
pub(crate) const FILE_BYTES: u64 = 10 << 20;

/// An event, and its time by the project's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) at_us: u64,
}

impl Entry {
    /// The event's line in the file; empty if the event is not written.
    fn line(&self) -> String {
        if self.event.kind == EventKind::Tick {
            return String::new();
        }
        let line = EventLine {
            steady_us: (self.at_us != self.event.time_us).then_some(self.at_us),
            ..EventLine::from(&self.event)
        };
        // A struct of strings and numbers cannot fail to serialize.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    }
}

/// A parsed line of the file.
enum Line {
    Event(Box<Entry>),
    Summary(Box<SummaryLine>),
}

/// `None` for a foreign line, or a line cut off by a crash.
fn parse(line: &[u8]) -> Option<Line> {
    if let Ok(line) = serde_json::from_slice::<EventLine>(line) {
        let event = line.to_event()?;
        let at_us = line.steady_us.unwrap_or(event.time_us);
        return Some(Line::Event(Box::new(Entry { event, at_us })));
    }
    let summary = serde_json::from_slice(line).ok()?;
    Some(Line::Summary(Box::new(summary)))
}

/// The history since `up`.
pub(crate) struct History {
    recent: Kept,
    ticks: Kept,
    /// The number of the next event; numbers count from 0.
    next: u64,
    ledger: Ledger,
    /// `None` if the file could not be opened, which was logged.
    file: Option<EventsFile>,
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
    /// A history without a file, of a project brought up at `up_us` by the project's clock.
    pub(crate) fn in_memory(up_us: u64) -> Self {
        let kept = |most| Kept {
            events: VecDeque::new(),
            most,
        };
        Self {
            recent: kept(KEPT),
            ticks: kept(KEPT_TICKS),
            next: 0,
            ledger: Ledger::new(up_us),
            file: None,
        }
    }

    /// Opens the history, reading back the events of earlier brokers. A file that grows by `bound`
    /// bytes is replaced.
    pub(crate) fn open(path: &Path, bound: u64, up_us: u64) -> io::Result<Self> {
        let mut history = Self::in_memory(up_us);
        let file = EventsFile::open(path, bound, |line| match parse(line) {
            Some(Line::Event(entry)) => history.keep(*entry),
            Some(Line::Summary(line)) => history.ledger.take(*line),
            None => {}
        })?;
        history.file = Some(file);
        Ok(history)
    }

    /// Appends these events, in order of time. Later noted events are written anew. Accounts of
    /// hosts unknown to `is_known` are not carried into the next file.
    pub(crate) fn tell<'a>(
        &mut self,
        events: Vec<Entry>,
        pending: impl Iterator<Item = &'a Entry>,
        is_known: impl Fn(&HostName) -> bool,
    ) {
        if let Some(file) = &mut self.file {
            let pending: String = pending.map(Entry::line).collect();
            let mut lines = || self.ledger.lines(&is_known);
            if file.is_gone() {
                let _ = file.restore(&mut lines);
            }
            if file.is_gone() || file.is_full() {
                file.replace(&lines(), "");
            }
            let lines: String = events.iter().map(Entry::line).collect();
            file.tell(&lines, &pending);
        }
        events.into_iter().for_each(|event| self.keep(event));
    }

    /// Writes an event that is published later, when more is known about the event, so that the
    /// event is not lost if the broker is killed meanwhile.
    pub(crate) fn note(&mut self, event: &Entry) {
        // A file that was emptied is begun anew with the next published event.
        if let Some(file) = self.file.as_mut().filter(|file| !file.is_gone()) {
            file.note(&event.line());
        }
    }

    fn keep(&mut self, Entry { event, at_us }: Entry) {
        self.ledger.apply(&event, at_us);
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

    /// Makes the file anew if it was removed or moved. A removed file can still be read while open,
    /// so all lines are written again; after a move, only the accounts are.
    ///
    /// # Errors
    /// The file cannot be made or written; events go to the old file, which has no path any more.
    pub(crate) fn restore(&mut self, is_known: impl Fn(&HostName) -> bool) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.restore(|| self.ledger.lines(is_known))
    }

    /// The number that the next event will have.
    pub(crate) fn end(&self) -> u64 {
        self.next
    }

    /// The totals of all events.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

#[cfg(test)]
mod tests;
