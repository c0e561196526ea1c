//! What supervisors are asked on somebody's behalf. Every question ends once: by its answer, by the end of the supervisor
//! that was asked, or when its time is over.

use std::time::Duration;

use imsup_protocol::{Response, ToSupervisor};
use imsup_wire::sleep::{Reason, ReasonKind};
use imsup_wire::{ErrorKind, Failure, Order, Report, Why};

use super::{Broker, Timer};
use crate::hosts::HostId;
use crate::sessions::{Peer, Reply, Then};
use imsup_lifecycle::Input;

/// What a supervisor knows without looking is known by then, or the answer goes without it.
const USAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// Why a host is awake takes a look at all its processes.
const WHY_TIMEOUT: Duration = Duration::from_secs(10);
/// A host that is busy is told so much earlier, by its supervisor.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(60);
/// A supervisor whose host sleeps has nothing else to do.
const PLEDGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Who has the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client of the command line.
    Client(usize),
    /// The broker itself: to wake a host that is waited for, or to learn the deadline of an adopted sleeper.
    Broker,
    /// The broker, for several sleepers that are terminated together.
    Disposal,
}

/// A question that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    supervisor: usize,
    host: HostId,
    order: Order,
    asker: Asker,
}

impl Broker {
    /// Asks a host's supervisor; false where none is connected.
    pub(super) fn ask(&mut self, id: HostId, order: Order, asker: Asker) -> bool {
        let session = self.hosts[id].instance.as_deref().and_then(|instance| instance.session);
        let Some(supervisor) = session else { return false };
        let question = self.next_ask;
        self.next_ask += 1;
        let asked = Asked {
            supervisor,
            host: id,
            order,
            asker,
        };
        self.asks.insert(question, asked);
        if asker != Asker::Broker {
            let timeout = match order {
                Order::Usage => USAGE_TIMEOUT,
                Order::Why => WHY_TIMEOUT,
                Order::Suspend | Order::Resume => SUSPEND_TIMEOUT,
                Order::Pledge | Order::Fulfil | Order::Release => PLEDGE_TIMEOUT,
            };
            self.after(timeout, Timer::Unanswered(question));
        }
        self.tell(supervisor, &ToSupervisor::Ask { id: question, order }, Vec::new());
        true
    }

    /// A supervisor's answer.
    pub(super) fn answered(&mut self, supervisor: usize, question: u64, report: Report) {
        match self.asks.get(&question) {
            Some(asked) if asked.supervisor == supervisor => {}
            // Its time was over, or whoever asked has gone.
            _ => return,
        }
        if let Some(asked) = self.asks.remove(&question) {
            self.conclude(asked, report);
        }
    }

    /// The time of a question is over.
    pub(super) fn unanswered(&mut self, question: u64) {
        if let Some(asked) = self.asks.remove(&question) {
            let silence = "its supervisor does not answer; `imsup stop` ends it";
            self.conclude(asked, Report::Failed(ErrorKind::NoAnswer.because(silence)));
        }
    }

    /// A connection has ended: of whoever asked, or of who was asked.
    pub(super) fn forget_asks(&mut self, number: usize) {
        let is_of = |asked: &Asked| asked.supervisor == number || asked.asker == Asker::Client(number);
        let mut over: Vec<u64> = self
            .asks
            .iter()
            .filter(|(_, asked)| is_of(asked))
            .map(|(question, _)| *question)
            .collect();
        over.sort_unstable();
        for question in over {
            let Some(asked) = self.asks.remove(&question) else {
                continue;
            };
            // Those who wait for the host itself are answered when its end is known.
            if asked.supervisor == number && asked.asker != Asker::Broker {
                self.conclude(
                    asked,
                    Report::Failed(ErrorKind::Ending.because("its program has ended")),
                );
            }
        }
    }

    fn conclude(&mut self, asked: Asked, report: Report) {
        let id = asked.host;
        if asked.asker == Asker::Disposal {
            if asked.order == Order::Pledge {
                self.pledged(id, report == Report::Done);
            }
            return;
        }
        if self.hosts.get(id).is_none() {
            return;
        }
        if let Some(instance) = self.hosts[id].instance.as_deref_mut() {
            match asked.order {
                Order::Suspend => instance.sleep.suspended_by = None,
                Order::Resume => instance.sleep.woken_by = None,
                Order::Why | Order::Usage | Order::Pledge | Order::Fulfil | Order::Release => {}
            }
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
            (Asker::Broker | Asker::Disposal, _) => {}
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

    /// Keeps why a host is in its state for the client that asked.
    pub(super) fn gather(&mut self, number: usize, id: HostId, mut why: Why) {
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
            state: host.life.state(),
            since_us: self.clock.wall_us(host.since_us),
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

    /// One of those a client waits for is done, or has failed.
    pub(super) fn count_down(&mut self, number: usize, failure: Option<Failure>) {
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
