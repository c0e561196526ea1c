//! The accounts of all hosts as the file of events tells them, and the lines that carry them into the next file.

use std::collections::BTreeMap;

use imsup_wire::{Event, EventKind, HostName};
use serde::{Deserialize, Serialize};

use crate::accounts::Account;

/// What the events of one host come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) account: Account,
    /// The last event.
    pub(crate) last: EventKind,
}

/// A line of the file that stands for all events of a host before it.
#[derive(Serialize, Deserialize)]
pub(super) struct SummaryLine {
    host: HostName,
    summary: Summary,
}

/// What all events come to, host by host.
#[derive(Debug)]
pub(crate) struct Ledger {
    hosts: BTreeMap<HostName, Summary>,
    /// When accounts are opened.
    opened_us: u64,
}

impl Ledger {
    /// One without events, of a project that was brought up then, by its own clock.
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
        let summary = self.hosts.entry(event.host.clone()).or_insert_with(|| Summary {
            account: Account::new(self.opened_us),
            last: event.kind,
        });
        summary.account.apply(event, at_us);
        summary.last = event.kind;
    }

    /// Takes what an earlier file came to.
    pub(super) fn take(&mut self, line: SummaryLine) {
        self.hosts.insert(line.host, line.summary);
    }

    /// All of it as lines of the file, without the hosts that `is_kept` does not know: each `imsup run` makes one, and nobody asks for its account any more.
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

    /// What the events of each host come to.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HostName, &Summary)> {
        self.hosts.iter()
    }

    /// The time of the last event.
    pub(crate) fn last_us(&self) -> u64 {
        let times = self.hosts.values().map(|summary| summary.account.since_us());
        times.max().unwrap_or(self.opened_us)
    }
}
