//! The keeper has a second descriptor of every retained socket: an address is free only after the
//! broker and the keeper have closed the socket.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use imsup_protocol::ToSupervisor;
use imsup_wire::Endpoint;

use super::Broker;
use super::timers::Timer;
use crate::ids::{HostId, SessionId};
use crate::keeper;
use crate::sessions::{Part, Peer};

/// An action deferred until the keeper has closed the descriptors that it was told to close.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deferred {
    /// Tell a host's supervisor that imsup has closed all its duplicates of a socket.
    Closed {
        session: SessionId,
        host: HostId,
        question: u64,
    },
    /// Answer a host's supervisor whose bind(2) failed with EADDRINUSE.
    Claim {
        session: SessionId,
        host: HostId,
        question: u64,
        endpoint: Endpoint,
    },
    /// An absent host's sockets are made.
    Remake(HostId),
}

/// What goes on once the keeper has closed what it was told to, and when it is looked after.
#[derive(Debug, Default)]
pub(super) struct KeeperQuestions {
    /// By the number of the question.
    deferred: HashMap<u32, Vec<Deferred>>,
    /// The earliest time for which a look at the keeper is due.
    due: Due,
}

impl Broker {
    /// Carries this out once the keeper has closed the descriptors that it was told to close: at
    /// once, if that is already done.
    pub(super) fn after_forgotten(&mut self, deferred: Deferred) {
        if self.sockets.store.has_closed_all() {
            return self.carry_out(deferred);
        }
        match self.sockets.store.ask(&self.registry) {
            Some(number) => {
                self.keeper.deferred.entry(number).or_default().push(deferred);
                self.look_at_keeper_in(keeper::TIMEOUT);
                self.push_keeper();
            }
            None => self.carry_out(deferred),
        }
    }

    fn carry_out(&mut self, deferred: Deferred) {
        match deferred {
            Deferred::Closed {
                session,
                host,
                question,
            } => {
                if self.hosts.get(host).is_some() {
                    self.remake(host);
                }
                if self.is_of(session, host) {
                    let answer = ToSupervisor::Claimed {
                        id: question,
                        found: false,
                    };
                    self.tell(session, &answer, Vec::new());
                }
            }
            Deferred::Claim {
                session,
                host,
                question,
                endpoint,
            } => {
                let peer = self.sessions.get_mut(session).map(|session| &session.peer);
                let part = match peer {
                    Some(Peer::Supervisor { host: of, part }) if *of == host => *part,
                    _ => return,
                };
                let socket = (part == Part::Program).then(|| self.claim(host, endpoint)).flatten();
                let answer = ToSupervisor::Claimed {
                    id: question,
                    found: socket.is_some(),
                };
                self.tell(session, &answer, socket.into_iter().collect());
            }
            Deferred::Remake(host) => {
                if self.hosts.get(host).is_some() {
                    self.remake(host);
                }
            }
        }
    }

    /// Has the keeper make its lock anew; true if the lock was missing. Without the lock,
    /// supervisors would not wait for the next broker.
    pub(super) fn retake_keeper(&mut self) -> bool {
        let is_missing = self.sockets.store.has_keeper() && !keeper::has_keeper(&self.paths);
        if is_missing {
            self.sockets.store.retake_lock();
            // A keeper that does not answer is replaced.
            self.sockets.store.ask(&self.registry);
            self.timers.after(keeper::TIMEOUT, Timer::Keeper);
            self.push_keeper();
        }
        is_missing
    }

    /// True if the connection is still that of a supervisor of this host: the number may have been
    /// reused.
    fn is_of(&mut self, session: SessionId, host: HostId) -> bool {
        let session = self.sessions.get_mut(session);
        session.is_some_and(|session| matches!(session.peer, Peer::Supervisor { host: of, .. } if of == host))
    }

    /// The keeper has carried out all messages sent before this question.
    pub(super) fn keeper_answered(&mut self, number: u32) {
        self.sockets.store.answered(number, &self.registry);
        for deferred in self.keeper.deferred.remove(&number).unwrap_or_default() {
            self.carry_out(deferred);
        }
    }

    /// The keeper has room for more, or has ended: the next keeper is given all descriptors.
    pub(super) fn keeper_spoke(&mut self) {
        if self.sockets.store.on_event(&self.registry) {
            return self.push_keeper();
        }
        if self.lifetime.is_going_down() {
            return;
        }
        tracing::warn!("the project's keeper has ended; another takes its place");
        self.sockets.store.start(self.launcher.as_mut(), &self.registry);
        self.push_keeper();
    }

    /// Sends the keeper messages that had no room before.
    pub(super) fn push_keeper(&mut self) {
        self.sockets.store.flush();
        if self.sockets.store.has_unsent() {
            self.look_at_keeper_in(keeper::AGAIN);
        }
    }

    /// Has [`Self::look_at_keeper`] called after so long at the latest.
    fn look_at_keeper_in(&mut self, time: Duration) {
        let due = Instant::now() + time;
        if self.keeper.due.ask(due) {
            self.timers.at(due, Timer::Keeper);
        }
    }

    /// The time of a look at the keeper has come, unless an earlier look has replaced this one.
    pub(super) fn look_at_keeper(&mut self, due: Instant) {
        if !self.keeper.due.come(due) {
            return;
        }
        self.sockets.store.end_if_stuck();
        self.push_keeper();
        if let Some(left) = self.sockets.store.timeout() {
            self.look_at_keeper_in(left);
        }
    }
}

/// The earliest requested time for a look: a single timer serves all requests.
#[derive(Debug, Default)]
struct Due(Option<Instant>);

impl Due {
    /// Whether a timer is to be made for a look by then.
    fn ask(&mut self, due: Instant) -> bool {
        let is_earlier = self.0.is_none_or(|pending| due < pending);
        if is_earlier {
            self.0 = Some(due);
        }
        is_earlier
    }

    /// True if the timer of this time is the current one. No look is due then any more.
    fn come(&mut self, due: Instant) -> bool {
        self.0.take_if(|pending| *pending == due).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_that_ask_for_a_look_have_one_timer() {
        let mut pending = Due::default();
        let now = Instant::now();
        let later = now + keeper::TIMEOUT;
        assert!(pending.ask(later));
        assert!((0..1000).all(|number| !pending.ask(later + Duration::from_nanos(number))));
        assert!(pending.ask(now), "an earlier look");
        assert!(!pending.ask(now) && !pending.ask(later));
        assert!(!pending.come(later), "another has taken its place");
        assert!(pending.come(now));
        assert!(!pending.come(now), "once");
        assert!(pending.ask(later));
    }
}
