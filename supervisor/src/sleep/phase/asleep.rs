//! A host that sleeps: its waking, and what is looked for while it sleeps.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, Transport, WakeCause};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Asleep, Awake, Phase};
use crate::host::Host;
use crate::sleep::deadlines::SHORTEST_SLACK;
use crate::sleep::waitset::{Culprit, SocketSource, Source};
use crate::sleep::words::SharedWord;
use crate::sleep::{AFTERWARDS, Sleeper, port_of, unnamed};
use imsup_linux::traffic::Connection;

impl Asleep {
    /// Called when a source of a wake is ready.
    pub(in crate::sleep) fn on_ready(
        self: Box<Self>,
        sleeper: &mut Sleeper,
        host: &mut Host,
        noticed: Instant,
    ) -> Phase {
        let set = &self.frozen.set;
        let ready = set.ready();
        let Some(first) = ready.first().copied() else {
            return Phase::Asleep(self);
        };
        if ready.iter().all(|source| *source == Source::Clock) {
            return Phase::Ticking(self.tick(sleeper, host));
        }
        let cause = match readable_listener(host) {
            Some(port) => WakeCause {
                port: Some(port),
                ..unnamed(CauseKind::Connection)
            },
            None => match set.culprit(first) {
                Some(Culprit::Timer) => return Phase::Ticking(self.tick(sleeper, host)),
                culprit => cause_of(first, culprit),
            },
        };
        let named_later = matches!(cause.kind, CauseKind::Connection | CauseKind::Data) && cause.by.is_none();
        Phase::Awake(self.wake(sleeper, host, noticed, cause, named_later))
    }

    /// Wakes the host.
    pub(in crate::sleep) fn wake(
        self: Box<Self>,
        sleeper: &mut Sleeper,
        host: &mut Host,
        noticed: Instant,
        cause: WakeCause,
        named_later: bool,
    ) -> Awake {
        let slept = self.stop_waiting();
        sleeper.write_time_left(noticed);
        sleeper.tree.release();
        Awake::woken(sleeper, host, noticed, cause, named_later, &slept)
    }

    /// Does the work that is due.
    pub(in crate::sleep) fn on_time(
        mut self: Box<Self>,
        sleeper: &mut Sleeper,
        host: &mut Host,
        now: Instant,
    ) -> Phase {
        if self.frozen.tick().is_some_and(|(at, _, _)| at <= now) {
            return Phase::Ticking(self.tick(sleeper, host));
        }
        if self.words_at.is_some_and(|at| at <= now) {
            self.words_at = Some(now + self.frozen.slack.max(SHORTEST_SLACK));
            if self.frozen.words.iter().any(SharedWord::has_changed) {
                return self.wake_now(sleeper, host, CauseKind::Descriptor);
            }
        }
        if self.signals_at <= now {
            self.signals_at = now + self.frozen.signals_every;
            if sleeper.tree.has_lost(&self.frozen.pids) {
                return self.wake_now(sleeper, host, CauseKind::Signal);
            }
            let new = self.frozen.new_signals();
            if self.frozen.is_from_outside(new) {
                return self.wake_now(sleeper, host, CauseKind::Signal);
            }
            if new != 0 {
                return Phase::Ticking(self.tick(sleeper, host));
            }
        }
        if self.slept.terminate_at.is_some_and(|at| at <= now) {
            self.slept.terminate_at = None;
            return self.terminate_if_unused(sleeper, host, now);
        }
        Phase::Asleep(self)
    }

    fn wake_now(self: Box<Self>, sleeper: &mut Sleeper, host: &mut Host, kind: CauseKind) -> Phase {
        Phase::Awake(self.wake(sleeper, host, Instant::now(), unnamed(kind), false))
    }
}

impl Sleeper {
    /// Reports the origin of the data that woke the host to the broker: the connection that
    /// received last. For a new connection the message only tells the broker to look up the peer
    /// now.
    pub(in crate::sleep) fn name_waker(&mut self, host: &mut Host, kind: CauseKind) {
        let last = match kind {
            CauseKind::Connection => None,
            _ => self.heard_last(host),
        };
        let message = ToBroker::WokenBy {
            by: last.map(|connection| connection.peer),
            port: last.and_then(|connection| port_of(connection.local)),
        };
        host.link.send(&message, Vec::new());
    }

    /// The connection with the latest arrival.
    fn heard_last(&mut self, host: &Host) -> Option<Connection> {
        let last = |connections: Vec<Connection>| {
            let established = connections.into_iter().filter(|connection| connection.established);
            established.min_by_key(|connection| connection.last_heard)
        };
        let known = last(self.connections().unwrap_or_default());
        // Some connections are still unknown if the host slept again before the first look.
        let since = self.ran_from.elapsed() + AFTERWARDS;
        if known.as_ref().is_some_and(|connection| connection.last_heard <= since) {
            return known;
        }
        let pids = self.tree.processes();
        match self.note_connections(host, &pids, true) {
            true => last(self.connections().unwrap_or_default()),
            false => known,
        }
    }
}

/// The port of a listener of the host with a connection in the accept queue.
fn readable_listener(host: &Host) -> Option<u16> {
    let listeners: Vec<_> = host
        .retained
        .listening()
        .filter(|(endpoint, _)| endpoint.transport == Transport::Tcp)
        .collect();
    let mut polled: Vec<_> = listeners
        .iter()
        .map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
        .collect();
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()?;
    let position = polled.iter().position(|fd| fd.revents().contains(PollFlags::IN))?;
    Some(listeners[position].0.address.port())
}

/// The cause of a wake, derived from the source that became ready.
fn cause_of(source: Source, culprit: Option<Culprit>) -> WakeCause {
    let cause = |kind, by: Option<SocketAddr>, port| WakeCause { kind, by, port };
    match (source, culprit) {
        (Source::Process { .. }, _) => cause(CauseKind::Signal, None, None),
        (Source::Clock, _) => cause(CauseKind::Timer, None, None),
        (_, Some(Culprit::Socket(socket))) => match socket {
            SocketSource::Listener(local) => cause(CauseKind::Connection, None, port_of(local)),
            SocketSource::Connection { local, peer } => cause(CauseKind::Data, Some(peer), port_of(local)),
            SocketSource::Reset(local) => cause(CauseKind::Data, None, port_of(local)),
            SocketSource::Datagrams { local, from } => cause(CauseKind::Datagram, from, port_of(local)),
        },
        (_, Some(Culprit::Timer | Culprit::Other)) => cause(CauseKind::Descriptor, None, None),
        // An epoll instance that watches many, or others.
        (Source::Descriptor { .. }, None | Some(Culprit::Epoll)) => cause(CauseKind::Data, None, None),
    }
}
