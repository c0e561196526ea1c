//! Terminating sleepers that are connected with each other: all at once, or none (`disposable`).
//!
//! Each has said that nothing but its connections with others keeps it. Where all of those have said so too, each is asked to promise
//! that it neither wakes nor ticks; when all have, all are terminated, and where one has not, all sleep on. So nobody finds
//! the other end of a connection gone that he could still have used.

use std::collections::BTreeSet;

use imsup_wire::Order;

use super::Broker;
use super::asks::Asker;
use crate::hosts::{HostId, Hosts};

/// Hosts that are being asked for their promise.
#[derive(Debug)]
pub(super) struct Round {
    /// Who has not answered.
    waiting: BTreeSet<HostId>,
    /// Who has promised.
    pledged: Vec<HostId>,
    /// Whether one cannot.
    failed: bool,
    /// Who has said meanwhile that it can be terminated.
    late: Vec<HostId>,
}

impl Broker {
    /// Begins to terminate a host, and those it is connected with, where all of them can be. One such round at a time.
    pub(super) fn dispose(&mut self, id: HostId) {
        if self.going_down {
            return;
        }
        if let Some(round) = &mut self.disposal {
            round.late.push(id);
            return;
        }
        let Some(members) = connected(&self.hosts, id) else {
            return;
        };
        self.disposal = Some(Round {
            waiting: members.iter().copied().collect(),
            pledged: Vec::new(),
            failed: false,
            late: Vec::new(),
        });
        for member in members {
            if !self.ask(member, Order::Pledge, Asker::Disposal) {
                self.pledged(member, false);
            }
        }
    }

    /// A host has promised, or cannot. After the last answer it is said what becomes of all.
    pub(super) fn pledged(&mut self, id: HostId, promised: bool) {
        let Some(round) = &mut self.disposal else { return };
        if !round.waiting.remove(&id) {
            return;
        }
        match promised {
            true => round.pledged.push(id),
            false => round.failed = true,
        }
        if !round.waiting.is_empty() {
            return;
        }
        let Some(round) = self.disposal.take() else { return };
        let order = match round.failed {
            true => Order::Release,
            false => Order::Fulfil,
        };
        for member in round.pledged {
            if self.hosts.get(member).is_some() {
                if let Some(sleep) = self.sleep(member).filter(|_| order == Order::Fulfil) {
                    sleep.disposable = None;
                }
                self.ask(member, order, Asker::Disposal);
            }
        }
        for id in round.late {
            self.dispose(id);
        }
    }
}

/// The host and all that are connected with it, by way of others as well; `None` where one of them cannot be terminated.
fn connected(hosts: &Hosts, id: HostId) -> Option<BTreeSet<HostId>> {
    let mut members = BTreeSet::new();
    let mut open = vec![id];
    while let Some(next) = open.pop() {
        let instance = hosts.get(next)?.instance.as_deref()?;
        let peers = instance.sleep.disposable.as_ref()?;
        if members.insert(next) {
            for peer in peers {
                open.push(hosts.at(*peer)?);
            }
        }
    }
    Some(members)
}
