//! A host that sleeps: what it waits for, and its waking.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use imsup_linux::clock::Stamp;
use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, Transport, WakeCause};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::correct::Stage;
use super::deadlines::{Due, Now, SHORTEST_SLACK};
use super::succession::Succession;
use super::waitset::{Culprit, SocketSource, Source, WaitSet};
use super::words::SharedWord;
use super::{AFTERWARDS, Phase, Sleep, port_of};
use crate::host::Host;
use imsup_linux::signals;
use imsup_linux::traffic::Connection;

/// A host that sleeps.
#[derive(Debug)]
pub(super) struct Asleep {
    /// Since when.
    pub(super) since: Instant,
    /// The same, for the broker.
    pub(super) began: Stamp,
    /// Since when it has been held: it may have ticked since it fell asleep.
    pub(super) held: Instant,
    pub(super) pids: Vec<i32>,
    pub(super) set: WaitSet,
    /// When its threads' calls and timers are due: process, call, time.
    pub(super) dues: Vec<(i32, &'static str, Due)>,
    pub(super) slack: Duration,
    /// Whether it has POSIX timers.
    pub(super) posix_timers: bool,
    /// The signals that wait for each process, as they were when it was held.
    pub(super) signals: HashMap<i32, u64>,
    pub(super) signals_every: Duration,
    pub(super) signals_at: Instant,
    /// What is compared with what its threads wait for in memory that others share, and when.
    pub(super) words: Vec<SharedWord>,
    pub(super) words_at: Option<Instant>,
    /// When to see whether it can be terminated.
    pub(super) terminate_at: Option<Instant>,
    /// What takes the place of its listeners, where it has promised to be terminated together with others.
    pub(super) pledged: Option<Succession>,
    /// What kept it from being terminated.
    pub(super) not_terminated: Option<String>,
    pub(super) ticks: u64,
    /// The bytes that had moved on its connections.
    pub(super) bytes: Option<u64>,
}

impl Asleep {
    /// Its next tick, and for whom that is.
    pub(super) fn tick(&self) -> Option<(Instant, i32, &'static str)> {
        self.dues
            .iter()
            .filter(|(_, call, _)| *call != "timerfd")
            .filter_map(|(pid, call, due)| Some((due.tick_at(self.held, self.slack)?, *pid, *call)))
            .min()
    }

    /// The next deadline, as people count time: microseconds since the Unix epoch.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        let timerfds = self.dues.iter().filter(|(_, call, _)| *call == "timerfd");
        let timerfds = timerfds.filter_map(|(_, _, due)| due.tick_at(self.held, Duration::ZERO));
        let next = timerfds.chain(self.tick().map(|(at, _, _)| at)).min()?;
        Some(Now::read().realtime_us(next))
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.pledged.is_some() {
            return None;
        }
        let tick = self.tick().map(|(at, _, _)| at);
        [tick, Some(self.signals_at), self.words_at, self.terminate_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// The signals that have come since it was held.
    fn new_signals(&self) -> u64 {
        let new = |(pid, before): (&i32, &u64)| signals::waiting_for(*pid, self.posix_timers) & !before;
        self.signals.iter().map(new).fold(0, |all, some| all | some)
    }

    /// Whether any of these is none that a timer of its own sends.
    fn is_from_outside(&self, signals: u64) -> bool {
        !self.posix_timers && signals & !signals::ALARM != 0
    }
}

impl Sleep {
    /// Something is ready that the host waits for.
    pub fn on_ready(&mut self, host: &mut Host) {
        let noticed = Instant::now();
        let Phase::Asleep(asleep) = &self.phase else { return };
        let ready = asleep.set.ready();
        let Some(first) = ready.first().copied() else { return };
        if ready.iter().all(|source| *source == Source::Clock) {
            return self.tick(host);
        }
        let cause = match readable_listener(host) {
            Some(port) => WakeCause {
                kind: CauseKind::Connection,
                by: None,
                port: Some(port),
            },
            None => match asleep.set.culprit(first) {
                Some(Culprit::Timer) => return self.tick(host),
                culprit => cause_of(first, culprit),
            },
        };
        let named_later = matches!(cause.kind, CauseKind::Connection | CauseKind::Data) && cause.by.is_none();
        self.wake(host, noticed, cause, named_later);
    }

    /// Wakes the host, where it sleeps.
    pub(super) fn wake(&mut self, host: &mut Host, noticed: Instant, cause: WakeCause, named_later: bool) {
        self.give_back_pledged(host);
        let (since, ticks) = match std::mem::replace(&mut self.phase, Phase::Awake) {
            Phase::Awake => return,
            Phase::Asleep(asleep) => {
                let facts = (asleep.since, asleep.ticks);
                // The duplicates first, or they would delay a FIN.
                drop(asleep);
                self.write_time_left(noticed);
                self.tree.release();
                facts
            }
            Phase::Ticking(tick) => (tick.asleep.since, tick.asleep.ticks),
        };
        let now = Instant::now();
        self.ran_from = noticed;
        self.idle.restart(now);
        let afterwards = now + AFTERWARDS;
        self.next_look = afterwards;
        self.trouble = None;
        self.backlogs.narrow_later(now);
        self.afterwards = Some((afterwards, named_later.then_some(cause.kind)));
        self.correct_limits(Stage::LetRun);
        let message = ToBroker::Woke {
            time_us: Stamp::now().wall_us(),
            cause,
            named_later,
            slept: noticed.saturating_duration_since(since),
            ticks,
            took: now.saturating_duration_since(noticed),
            usage: self.meter.usage_woken(now),
        };
        host.link.defer(message);
    }

    /// Tells the broker whose data woke the host: the connection that received last. Who has just connected the broker finds out
    /// itself, and it is time to.
    pub(super) fn name_waker(&mut self, host: &mut Host, kind: CauseKind) {
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

    /// The connection on which something came last.
    fn heard_last(&mut self, host: &Host) -> Option<Connection> {
        let last = |connections: Vec<Connection>| {
            let established = connections.into_iter().filter(|connection| connection.established);
            established.min_by_key(|connection| connection.last_heard)
        };
        let known = last(self.connections().unwrap_or_default());
        // Some are not known yet if the host slept again before it was looked at.
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

    pub(super) fn asleep_on_time(&mut self, host: &mut Host, now: Instant) {
        let Phase::Asleep(asleep) = &mut self.phase else { return };
        if asleep.tick().is_some_and(|(at, _, _)| at <= now) {
            return self.tick(host);
        }
        if asleep.words_at.is_some_and(|at| at <= now) {
            asleep.words_at = Some(now + asleep.slack.max(SHORTEST_SLACK));
            if asleep.words.iter().any(SharedWord::has_changed) {
                return self.wake_for(host, CauseKind::Descriptor);
            }
        }
        if asleep.signals_at <= now {
            asleep.signals_at = now + asleep.signals_every;
            if self.tree.has_lost(&asleep.pids) {
                return self.wake_for(host, CauseKind::Signal);
            }
            let new = asleep.new_signals();
            if asleep.is_from_outside(new) {
                return self.wake_for(host, CauseKind::Signal);
            }
            if new != 0 {
                return self.tick(host);
            }
        }
        if asleep.terminate_at.is_some_and(|at| at <= now) {
            asleep.terminate_at = None;
            self.terminate_if_unused(host, now);
        }
    }
}

/// The port of a listener of the host with somebody at the door.
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

/// What woke a host, from what became ready.
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
