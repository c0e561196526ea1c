//! Two-phase termination of sleepers that are connected with each other: all at once, or none
//! (`disposable`).
//!
//! Each host has said that only connections with other hosts prevent the termination. If all the
//! other hosts have said the same, each host is asked to prepare: to go on sleeping, without a wake
//! or a tick. When all have prepared, all are told to commit. If a host has not, all are told to
//! abort, and sleep on. So no peer loses a connection that the peer could still have used.

use std::collections::BTreeSet;

use imsup_wire::Order;

use super::Broker;
use super::supervisor_requests::Asker;
use crate::ids::HostId;

/// The termination that is under way, if any: one at a time.
#[derive(Debug, Default)]
pub(super) struct TwoPhaseTermination {
    round: Option<Round>,
}

/// Hosts that are asked to prepare.
#[derive(Debug)]
struct Round {
    /// Members that have not answered.
    waiting: BTreeSet<HostId>,
    prepared: Vec<HostId>,
    /// True if a member cannot prepare.
    failed: bool,
    /// Hosts that have reported meanwhile that a termination is possible.
    late: Vec<HostId>,
}

/// The outcome of a round after the last answer.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// All have prepared.
    commit: bool,
    /// The hosts that are told.
    prepared: Vec<HostId>,
    /// Hosts with which another round may begin.
    late: Vec<HostId>,
}

impl TwoPhaseTermination {
    /// Begins a round of these members. A host that comes during a round is looked at afterwards.
    fn begin(&mut self, id: HostId, members: impl FnOnce() -> Option<BTreeSet<HostId>>) -> BTreeSet<HostId> {
        if let Some(round) = &mut self.round {
            round.late.push(id);
            return BTreeSet::new();
        }
        let Some(members) = members() else {
            return BTreeSet::new();
        };
        self.round = Some(Round {
            waiting: members.clone(),
            prepared: Vec::new(),
            failed: false,
            late: Vec::new(),
        });
        members
    }

    /// Takes a member's answer; returns the verdict after the last answer.
    fn vote(&mut self, id: HostId, is_prepared: bool) -> Option<Verdict> {
        let round = self.round.as_mut()?;
        if !round.waiting.remove(&id) {
            return None;
        }
        match is_prepared {
            true => round.prepared.push(id),
            false => round.failed = true,
        }
        if !round.waiting.is_empty() {
            return None;
        }
        let round = self.round.take()?;
        Some(Verdict {
            commit: !round.failed,
            prepared: round.prepared,
            late: round.late,
        })
    }
}

/// The host and all hosts connected with it, directly or by way of others; `None` if any of these
/// cannot be terminated. `peers_of` gives the connected hosts of a host that can be terminated,
/// with `None` for a connected host that is absent.
fn connected<I: Iterator<Item = Option<HostId>>>(
    id: HostId,
    peers_of: impl Fn(HostId) -> Option<I>,
) -> Option<BTreeSet<HostId>> {
    let mut members = BTreeSet::new();
    let mut open = vec![id];
    while let Some(next) = open.pop() {
        let peers = peers_of(next)?;
        if members.insert(next) {
            for peer in peers {
                open.push(peer?);
            }
        }
    }
    Some(members)
}

impl Broker {
    /// Begins to terminate a host and the connected hosts, if all can be terminated.
    pub(super) fn terminate_connected(&mut self, id: HostId) {
        if self.lifetime.is_going_down() {
            return;
        }
        let hosts = &self.hosts;
        let peers_of = |id: HostId| {
            let instance = hosts.get(id)?.instance()?;
            let peers = instance.sleep().disposable_with()?;
            Some(peers.iter().map(|peer| hosts.at(*peer)))
        };
        for member in self.termination.begin(id, || connected(id, peers_of)) {
            if !self.ask(member, Order::Prepare, Asker::TwoPhase) {
                self.voted(member, false);
            }
        }
    }

    /// A host has prepared, or cannot. After the last answer all are told the verdict.
    pub(super) fn voted(&mut self, id: HostId, is_prepared: bool) {
        let Some(verdict) = self.termination.vote(id, is_prepared) else {
            return;
        };
        let order = match verdict.commit {
            true => Order::Commit,
            false => Order::Abort,
        };
        for member in verdict.prepared {
            if self.hosts.get(member).is_some() {
                if let Some(sleep) = self.sleep(member).filter(|_| verdict.commit) {
                    sleep.commit();
                }
                self.ask(member, order, Asker::TwoPhase);
            }
        }
        for id in verdict.late {
            self.terminate_connected(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    fn three() -> [HostId; 3] {
        let mut hosts = SlotMap::<HostId, ()>::with_key();
        [(); 3].map(|()| hosts.insert(()))
    }

    #[test]
    fn all_are_told_to_commit_or_all_to_abort_after_the_last_answer() {
        let [one, two, other] = three();
        for is_prepared in [true, false] {
            let mut termination = TwoPhaseTermination::default();
            let members = BTreeSet::from([one, two]);
            assert_eq!(termination.begin(one, || Some(members.clone())), members);
            assert!(termination.begin(other, || panic!("one round at a time")).is_empty());
            assert_eq!(termination.vote(other, true), None, "no member");
            assert_eq!(termination.vote(two, is_prepared), None);
            assert_eq!(termination.vote(two, true), None, "twice");
            let verdict = Verdict {
                commit: is_prepared,
                prepared: if is_prepared { vec![two, one] } else { vec![one] },
                late: vec![other],
            };
            assert_eq!(termination.vote(one, true), Some(verdict));
            assert_eq!(termination.vote(one, true), None, "it is over");
        }
    }

    #[test]
    fn hosts_are_connected_by_way_of_others_and_each_must_be_ready() {
        let [one, two, three] = three();
        let ring = move |id: HostId| {
            let next = if id == one {
                two
            } else if id == two {
                three
            } else {
                one
            };
            Some([Some(next)].into_iter())
        };
        assert_eq!(connected(one, ring), Some(BTreeSet::from([one, two, three])));
        let busy = move |id: HostId| (id != three).then(|| ring(id)).flatten();
        assert_eq!(connected(one, busy), None);
        let gone = move |id: HostId| (id != two).then(|| [None].into_iter());
        assert_eq!(connected(one, gone), None);
        assert_eq!(connected(one, |_| Some([].into_iter())), Some(BTreeSet::from([one])));
    }
}
