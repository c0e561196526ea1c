//! The accounts of all hosts according to the file of events, and the lines that carry the accounts
//! into the next file.

use std::collections::BTreeMap;

use imsup_wire::{Event, EventKind, HostName};
use serde::{Deserialize, Serialize};

use crate::accounts::Account;
use imsup_lifecycle::{attempt_of, is_restart, is_stop};

/// The totals of a single host's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) account: Account,
    /// The last event.
    pub(crate) last: EventKind,
    /// True if a user has stopped the host, or its restart, and the host was not booted since.
    #[serde(default)]
    pub(crate) stopped: bool,
    /// True if the last allocation was caused only by `restart`.
    #[serde(default)]
    by_restart: bool,
    /// The number in a row of the attempt that `restart` announced last; 0 if none was announced
    /// since the host was booted for another reason.
    #[serde(default)]
    announced: u32,
    /// The time at which the last boot began, by the project's clock.
    #[serde(default)]
    pub(crate) booted_us: u64,
}

impl Summary {
    fn new(opened_us: u64, last: EventKind) -> Self {
        Self {
            account: Account::new(opened_us),
            last,
            stopped: false,
            by_restart: false,
            announced: 0,
            booted_us: opened_us,
        }
    }

    fn apply(&mut self, event: &Event, at_us: u64) {
        self.account.apply(event, at_us);
        self.last = event.kind;
        match event.kind {
            EventKind::Allocate => {
                self.by_restart = event.cause.as_ref().is_some_and(is_restart);
                if !self.by_restart {
                    self.announced = 0;
                }
                (self.stopped, self.booted_us) = (false, at_us);
            }
            EventKind::Boot => {
                let took = event.duration.unwrap_or_default().as_micros();
                let began_us = at_us.saturating_sub(u64::try_from(took).unwrap_or(u64::MAX));
                (self.stopped, self.booted_us) = (false, began_us);
            }
            EventKind::Restart => self.announced = attempt_of(event.detail.as_deref()),
            EventKind::Exit | EventKind::Fail => self.stopped = event.cause.as_ref().is_some_and(is_stop),
            _ => {}
        }
    }

    /// True if `restart` was about to boot the host.
    pub(crate) fn is_restarting(&self) -> bool {
        match self.last {
            EventKind::Restart => true,
            EventKind::Allocate => self.by_restart,
            _ => false,
        }
    }

    /// Boots in a row that were caused only by `restart`, without the boot that is still to come.
    pub(crate) fn attempts(&self) -> u32 {
        self.announced.saturating_sub(u32::from(self.is_restarting()))
    }
}

/// A line of the file that stands for all earlier events of a host.
#[derive(Serialize, Deserialize)]
pub(super) struct SummaryLine {
    host: HostName,
    summary: Summary,
}

/// The totals of all events, host by host.
#[derive(Debug)]
pub(crate) struct Ledger {
    hosts: BTreeMap<HostName, Summary>,
    /// When accounts are opened.
    opened_us: u64,
}

impl Ledger {
    /// A ledger without events, of a project brought up at `opened_us` by the project's clock.
    pub(super) fn new(opened_us: u64) -> Self {
        Self {
            hosts: BTreeMap::new(),
            opened_us,
        }
    }

    /// Takes an event into account, which happened then.
    pub(super) fn apply(&mut self, event: &Event, at_us: u64) {
        if event.kind == EventKind::Tick {
            return;
        }
        let summary = self.hosts.entry(event.host.clone());
        summary
            .or_insert_with(|| Summary::new(self.opened_us, event.kind))
            .apply(event, at_us);
    }

    /// Takes the totals of an earlier file.
    pub(super) fn take(&mut self, line: SummaryLine) {
        self.hosts.insert(line.host, line.summary);
    }

    /// The whole ledger as lines of the file, without hosts unknown to `is_kept`. Each `imsup run`
    /// makes a host whose account is not asked for afterwards.
    pub(super) fn lines(&mut self, is_kept: impl Fn(&HostName) -> bool) -> String {
        self.hosts.retain(|host, _| is_kept(host));
        self.hosts
            .iter()
            .map(|(host, summary)| {
                let (host, summary) = (host.clone(), summary.clone());
                // A struct of strings and numbers cannot fail to serialize.
                serde_json::to_string(&SummaryLine { host, summary }).unwrap_or_default() + "\n"
            })
            .collect()
    }

    /// The totals of each host's events.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HostName, &Summary)> {
        self.hosts.iter()
    }

    /// The time of the last event.
    pub(crate) fn last_us(&self) -> u64 {
        let times = self.hosts.values().map(|summary| summary.account.since_us());
        times.max().unwrap_or(self.opened_us)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use imsup_wire::{Cause, CauseKind};

    use super::*;

    fn event(kind: EventKind, by: &str, detail: Option<&str>) -> Event {
        Event {
            time_us: 0,
            host: "web".parse().unwrap(),
            kind,
            cause: Some(Cause {
                kind: CauseKind::Wake,
                by: Some(by.to_owned()),
                port: None,
            }),
            duration: None,
            detail: detail.map(str::to_owned),
            usage: None,
        }
    }

    fn fold(events: &[Event]) -> Summary {
        let mut summary = Summary::new(0, EventKind::Exit);
        events.iter().for_each(|event| summary.apply(event, 7_000_000));
        summary
    }

    #[test]
    fn a_row_of_attempts_is_read_back() {
        let second = event(EventKind::Restart, "", Some("attempt 2 of 3"));
        let allocate = event(EventKind::Allocate, "restart", None);
        let mut boot = event(EventKind::Boot, "restart", None);
        boot.duration = Some(Duration::from_secs(2));
        let row = [second, allocate, boot, event(EventKind::Allocate, "a user", None)];
        let seen: Vec<_> = (1..=row.len())
            .map(|count| fold(&row[..count]))
            .map(|summary| (summary.is_restarting(), summary.attempts()))
            .collect();
        assert_eq!(seen, [(true, 1), (true, 1), (false, 2), (false, 0)]);
        assert_eq!(fold(&row[..3]).booted_us, 5_000_000);
        assert_eq!(
            fold(&[event(EventKind::Restart, "", None)]).attempts(),
            0,
            "without bound"
        );
    }

    #[test]
    fn a_stop_holds_until_the_next_boot() {
        let ends = [
            event(EventKind::Exit, "stop", None),
            event(EventKind::Reclaim, "", None),
            event(EventKind::Boot, "", None),
        ];
        let stopped = [1, 2, 3].map(|count| fold(&ends[..count]).stopped);
        assert_eq!(stopped, [true, true, false]);
        assert!(!fold(&[event(EventKind::Exit, "a user", None)]).stopped);
    }

    #[test]
    fn a_summary_of_an_earlier_imsup_is_read() {
        let mut line = serde_json::to_value(fold(&[])).unwrap();
        for field in ["stopped", "by_restart", "announced", "booted_us"] {
            line.as_object_mut().unwrap().remove(field).unwrap();
        }
        let read: Summary = serde_json::from_value(line).unwrap();
        assert_eq!((read.stopped, read.attempts()), (false, 0));
    }
}
