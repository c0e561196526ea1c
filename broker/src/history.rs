//! What happened since `up`: the recent events in memory, all of them as accounts, and as many as its bound allows in a file.

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

/// Ticks kept in memory. They are in no file: a sleeper with a timer would write one a second for ever.
const KEPT_TICKS: usize = 4096;

/// By how many bytes `events.jsonl` grows, some 40,000 events, before the next one is begun. The one before it is kept.
pub(crate) const FILE_BYTES: u64 = 10 << 20;

/// An event, and when it happened by the project's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) at_us: u64,
}

impl Entry {
    /// Its line in the file, if it is written at all.
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

/// What a line of the file is.
enum Line {
    Event(Box<Entry>),
    Summary(Box<SummaryLine>),
}

/// `None` for what is no line of ours, or one that was cut off by a crash.
fn parse(line: &[u8]) -> Option<Line> {
    if let Ok(line) = serde_json::from_slice::<EventLine>(line) {
        let event = line.to_event()?;
        let at_us = line.steady_us.unwrap_or(event.time_us);
        return Some(Line::Event(Box::new(Entry { event, at_us })));
    }
    let summary = serde_json::from_slice(line).ok()?;
    Some(Line::Summary(Box::new(summary)))
}

/// What happened since `up`.
pub(crate) struct History {
    recent: Kept,
    ticks: Kept,
    /// The number that the next event will have; they count from 0.
    next: u64,
    ledger: Ledger,
    /// `None` where it could not be opened, which was said.
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
    /// A history that no file keeps, of a project that was brought up then, by its own clock.
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

    /// Opens the history, reading back what earlier brokers left. A file that grows by so many bytes is replaced.
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

    /// Appends these events, which have happened one after the other. Those after them that were noted are written anew. Accounts of hosts that `is_known`
    /// does not know are not carried into the next file.
    pub(crate) fn tell<'a>(
        &mut self,
        events: Vec<Entry>,
        untold: impl Iterator<Item = &'a Entry>,
        is_known: impl Fn(&HostName) -> bool,
    ) {
        if let Some(file) = &mut self.file {
            let untold: String = untold.map(Entry::line).collect();
            let mut lines = || self.ledger.lines(&is_known);
            if file.is_gone() {
                let _ = file.restore(&mut lines);
            }
            if file.is_gone() || file.is_full() {
                file.replace(&lines(), "");
            }
            let lines: String = events.iter().map(Entry::line).collect();
            file.tell(&lines, &untold);
        }
        events.into_iter().for_each(|event| self.keep(event));
    }

    /// Writes an event that is to be told later, when more of it is known, so that it is not lost should the broker be killed meanwhile.
    pub(crate) fn note(&mut self, event: &Entry) {
        // One that somebody has emptied is begun anew with the next event that is told.
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

    /// Makes the file anew if somebody has removed it, with all that it had, since it can be read for as long as it is open; or moved it, with the accounts.
    ///
    /// # Errors
    /// It cannot be made or written; what happens is written to the file that nobody finds then.
    pub(crate) fn restore(&mut self, is_known: impl Fn(&HostName) -> bool) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.restore(|| self.ledger.lines(is_known))
    }

    /// The number that the next event will have.
    pub(crate) fn end(&self) -> u64 {
        self.next
    }

    /// What all events come to.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

#[cfg(test)]
mod tests;
