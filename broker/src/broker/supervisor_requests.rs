//! Requests to supervisors on somebody's behalf. Every request ends once: by its answer, by the end
//! of the supervisor that was asked, or when its time is over.

use std::collections::HashMap;
use std::time::Duration;

use imsup_protocol::{Response, ToSupervisor};
use imsup_wire::sleep::{Reason, ReasonKind};
use imsup_wire::{ErrorKind, Failure, Order, Report, Why};

use super::Broker;
use super::timers::Timer;
use crate::ids::{HostId, SessionId};
use crate::sessions::{Peer, Reply, Then};
use imsup_lifecycle::Input;

/// A supervisor answers from memory within this time; else the reply is sent without the answer.
const USAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// To find why a host is awake, the supervisor examines all processes of the host.
const WHY_TIMEOUT: Duration = Duration::from_secs(10);
/// For a busy host, the supervisor reports the failure much earlier.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(60);
/// The supervisor of a sleeping host has no other work.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// The recipient of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client of the command line.
    Client(SessionId),
    /// The broker itself: to wake a host that is waited for, or to learn the deadline of an adopted
    /// sleeper.
    Broker,
    /// The broker, for several sleepers that are terminated by two phases.
    TwoPhase,
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    supervisor: SessionId,
    host: HostId,
    order: Order,
    asker: Asker,
}

/// All requests that are not answered yet, by their numbers.
#[derive(Debug, Default)]
pub(super) struct SupervisorRequests {
    pending: HashMap<u64, Pending>,
    next: u64,
}

impl SupervisorRequests {
    fn add(&mut self, request: Pending) -> u64 {
        let number = self.next;
        self.next += 1;
        self.pending.insert(number, request);
        number
    }

    /// The request that this supervisor answers; `None` if its time was over, or whoever asked has
    /// gone.
    fn answered(&mut self, supervisor: SessionId, number: u64) -> Option<Pending> {
        let is_its = self.pending.get(&number)?.supervisor == supervisor;
        is_its.then(|| self.pending.remove(&number)).flatten()
    }

    /// The request, if it is not answered yet and its time is over.
    fn expired(&mut self, number: u64) -> Option<Pending> {
        self.pending.remove(&number)
    }

    /// Forgets the requests of a session that is gone, and those to it. Gives those that somebody
    /// else has made and waits for, oldest first.
    fn cancel(&mut self, session: SessionId) -> Vec<Pending> {
        let is_of = |request: &Pending| request.supervisor == session || request.asker == Asker::Client(session);
        let mut over: Vec<(u64, Pending)> = self.pending.extract_if(|_, request| is_of(request)).collect();
        over.sort_unstable_by_key(|(number, _)| *number);
        // Whoever waits for the host itself is answered when its end is known.
        let is_awaited = |request: &Pending| request.supervisor == session && request.asker != Asker::Broker;
        over.into_iter()
            .map(|(_, request)| request)
            .filter(is_awaited)
            .collect()
    }
}

impl Broker {
    /// Asks a host's supervisor; false if no supervisor is connected.
    pub(super) fn ask(&mut self, id: HostId, order: Order, asker: Asker) -> bool {
        let Some(supervisor) = self.hosts[id].session() else {
            return false;
        };
        let question = self.requests.add(Pending {
            supervisor,
            host: id,
            order,
            asker,
        });
        if asker != Asker::Broker {
            let timeout = match order {
                Order::Usage => USAGE_TIMEOUT,
                Order::Why => WHY_TIMEOUT,
                Order::Suspend | Order::Resume => SUSPEND_TIMEOUT,
                Order::Prepare | Order::Commit | Order::Abort => PREPARE_TIMEOUT,
            };
            self.timers.after(timeout, Timer::Unanswered(question));
        }
        self.tell(supervisor, &ToSupervisor::Ask { id: question, order }, Vec::new());
        true
    }

    /// A supervisor's answer.
    pub(super) fn answered(&mut self, supervisor: SessionId, question: u64, report: Report) {
        if let Some(asked) = self.requests.answered(supervisor, question) {
            self.conclude(asked, report);
        }
    }

    /// The time of a question is over.
    pub(super) fn unanswered(&mut self, question: u64) {
        if let Some(asked) = self.requests.expired(question) {
            let silence = "its supervisor does not answer; `imsup stop` ends it";
            self.conclude(asked, Report::Failed(ErrorKind::NoAnswer.because(silence)));
        }
    }

    /// A connection has ended: of the asker, or of the supervisor that was asked.
    pub(super) fn forget_requests(&mut self, number: SessionId) {
        for asked in self.requests.cancel(number) {
            self.conclude(
                asked,
                Report::Failed(ErrorKind::Ending.because("its program has ended")),
            );
        }
    }

    fn conclude(&mut self, asked: Pending, report: Report) {
        let id = asked.host;
        if asked.asker == Asker::TwoPhase {
            if asked.order == Order::Prepare {
                self.voted(id, report == Report::Done);
            }
            return;
        }
        if self.hosts.get(id).is_none() {
            return;
        }
        if let Some(sleep) = self.sleep(id) {
            sleep.answered(asked.order);
        }
        if let Report::Usage(usage) = report {
            self.account(id).used(usage);
        }
        match (asked.asker, report) {
            (Asker::Broker, Report::Done) => self.feed(id, Input::Woke),
            (Asker::Broker, Report::Failed(why)) if asked.order == Order::Resume => {
                self.feed(id, Input::NotWoken(why.message));
            }
            (Asker::Broker, Report::Why(Why::Asleep { deadline_us, .. })) => {
                self.note_deadline(id, deadline_us);
            }
            (Asker::Broker | Asker::TwoPhase, _) => {}
            (Asker::Client(number), Report::Why(why)) => self.gather(number, id, why),
            (Asker::Client(number), Report::Failed(why)) if asked.order != Order::Usage => {
                let message = match asked.order {
                    Order::Suspend => format!("host '{}' is not suspended: {why}", self.name_of(id)),
                    _ => format!("host '{}' cannot be asked: {why}", self.name_of(id)),
                };
                self.count_down(number, Some(why.kind.because(message)));
            }
            (Asker::Client(number), Report::Done | Report::Failed(_) | Report::Usage(_)) => {
                self.count_down(number, None);
            }
        }
    }

    /// Stores the reason for a host's state for the client that asked.
    pub(super) fn gather(&mut self, number: SessionId, id: HostId, mut why: Why) {
        if let (Some(detail), Why::Awake { reasons, .. }) = (self.unmet(id), &mut why) {
            let kind = ReasonKind::Unmet;
            reasons.insert(
                0,
                Reason {
                    kind,
                    detail: format!("it {detail}"),
                    pid: None,
                },
            );
        }
        let host = &self.hosts[id];
        let response = Response::Why {
            host: host.name(&self.cluster).clone(),
            state: host.life().state(),
            since_us: self.clock.wall_us(host.since_us()),
            why,
        };
        if let Some(session) = self.sessions.get_mut(number)
            && let Peer::Client(Reply::Waiting {
                then: Then::Say(responses),
                ..
            }) = &mut session.peer
        {
            responses.push(response);
        }
        self.count_down(number, None);
    }

    /// One of the hosts that a client waits for is done, or has failed.
    pub(super) fn count_down(&mut self, number: SessionId, failure: Option<Failure>) {
        if let Some(session) = self.sessions.get_mut(number)
            && let Peer::Client(Reply::Waiting { left, failures, .. }) = &mut session.peer
        {
            *left -= 1;
            failures.extend(failure);
        }
        self.pump(number);
    }

    pub(super) fn name_of(&self, id: HostId) -> &imsup_wire::HostName {
        self.hosts[id].name(&self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn an_answer_is_taken_once_and_only_of_the_supervisor_that_was_asked() {
        let mut sessions = SlotMap::<SessionId, ()>::with_key();
        let host = SlotMap::<HostId, ()>::with_key().insert(());
        let gone = sessions.insert(());
        let client = sessions.insert(());
        let mut requests = SupervisorRequests::default();
        let pending = |supervisor, asker| Pending {
            supervisor,
            host,
            order: Order::Why,
            asker,
        };
        let own = requests.add(pending(gone, Asker::Broker));
        let other = requests.add(pending(gone, Asker::Client(client)));
        sessions.remove(gone);
        assert_eq!(requests.cancel(gone), [pending(gone, Asker::Client(client))]);
        assert_eq!((requests.expired(own), requests.expired(other)), (None, None));

        let supervisor = sessions.insert(());
        let asked = pending(supervisor, Asker::Client(client));
        let number = requests.add(asked);
        assert_eq!(requests.answered(gone, number), None, "its slot is another's now");
        assert_eq!(requests.answered(supervisor, number), Some(asked));
        assert_eq!(requests.answered(supervisor, number), None);
        requests.add(asked);
        assert_eq!(requests.cancel(client), [], "nobody waits any more");
    }
}
