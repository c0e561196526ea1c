//! The broker's loop: it tells the hosts' lives what happened, and does what they say.

mod asks;
mod awake;
mod boots;
mod claims;
mod control;
mod disposal;
mod down;
mod families;
mod files;
mod held;
mod hello;
mod keeper;
mod limited;
mod naming;
mod orphaned;
mod power;
mod reach;
mod remember;
mod resolvers;
mod sleep;
mod strangers;
mod streams;
mod together;
mod unmet;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use imsup_wire::address::Plane;
use imsup_wire::{Cause, CauseKind, Endpoint, Event, EventKind, HostName, Planes};
use mio::{Events, Poll, Registry};

use self::asks::Asked;
use crate::block::Claim;
use crate::clock::Clock;
use crate::events::{OnEvent, now_us};
use crate::history::{History, Summary};
use crate::hosts::{HostId, Hosts, Origin};
use crate::keeper::FdStore;
use crate::launcher::Launcher;
use crate::leases::Leases;
use crate::limits::Limits;
use crate::names::SharedNames;
use crate::notices::{Notice, Notifier};
use crate::paths::Paths;
use crate::project_files::ProjectFiles;
use crate::projects::Memory;
use crate::resolvers::Resolvers;
use crate::retained::{SocketId, Sockets};
use crate::senders::Senders;
use crate::sessions::Sessions;
use crate::signals::Signals;
use crate::tokens::{self, Kind};
use crate::trust::SharedTrust;
use imsup_compose::cluster::Cluster;
use imsup_lifecycle::{Action, Answer, Input, Port, WaiterId};

/// Callers that may wait at once.
const MAX_WAITERS: usize = 4096;

/// Events of the loop taken at once.
const BATCH: usize = 1024;

/// How soon a connection is tried again for which there was no descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How soon after the start the launcher gets ready for boots: `up` asks which hosts there are before that, and need not wait for it.
const PREPARE_AFTER: Duration = Duration::from_millis(5);

/// Something due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The host's life has a deadline.
    Tick(HostId),
    /// The program had its time to end.
    Kill(HostId, u64),
    /// A supervisor that outlived the last broker had its time to come back.
    Missing(HostId),
    /// Whoever could not be accepted may be now.
    Accept,
    /// Everything had its time to end.
    Farewell,
    /// Whoever started a broker for itself had its time to come.
    Lonely,
    /// A supervisor had its time to answer this question.
    Unanswered(u64),
    /// The kernel had its time to answer who has come.
    Unnamed(u64),
    /// The project's files, of which some were missing, are to be looked at again.
    Files,
    /// The keeper may take what it did not take before, or had its time to answer.
    Keeper,
    /// Whoever held the lock of what is remembered may have let go of it.
    Remember,
    /// The launcher had its time to start a supervisor.
    Launcher,
    /// The launcher is to get ready for boots.
    Prepare,
}

/// Who is answered when a wait ends.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// A supervisor's question.
    Reach { session: usize, id: u64, host: HostId },
    /// A client of the command line.
    Client { session: usize, host: HostId },
}

/// Everything the broker knows.
pub(crate) struct Broker {
    pub(crate) cluster: Cluster,
    pub(crate) paths: Paths,
    pub(crate) planes: Planes,
    pub(crate) limits: Limits,
    pub(crate) claim: Claim,
    pub(crate) ephemeral: bool,
    pub(crate) hosts: Hosts,
    pub(crate) sockets: Sockets,
    pub(crate) sessions: Sessions,
    pub(crate) history: History,
    pub(crate) on_event: Option<OnEvent>,
    pub(crate) launcher: Box<dyn Launcher>,
    pub(crate) memory: Memory,
    unwritten: remember::Unwritten,
    pub(crate) names: SharedNames,
    pub(crate) registry: Registry,
    pub(crate) listener: Option<UnixListener>,
    files: ProjectFiles,
    pub(crate) signals: Signals,
    pub(crate) notices: Receiver<Notice>,
    pub(crate) notifier: Notifier,
    pub(crate) senders: Senders,
    untold: naming::Untold,
    pub(crate) clock: Clock,
    leases: Leases,
    /// The directories of the cgroup that this broker and the supervisors it starts are in.
    cgroups: Vec<PathBuf>,
    /// Commands that run beside the programs of hosts.
    commands: HashMap<HostId, u32>,
    /// Commands whose supervisors have hung up and are not known to have ended.
    orphaned: orphaned::Orphaned,
    waiters: HashMap<WaiterId, Target>,
    next_waiter: u64,
    asks: HashMap<u64, Asked>,
    pub(crate) resolvers: Resolvers,
    /// Sessions of supervisors that want sockets of those, longest waiting first.
    resolver_asks: VecDeque<usize>,
    next_ask: u64,
    /// Sleepers that are being terminated together.
    disposal: Option<disposal::Round>,
    serial: u64,
    orders: u64,
    ending: Vec<together::EndedTogether>,
    /// Listeners whose queues are being looked into.
    looks: together::Looks,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    inputs: VecDeque<(HostId, Input)>,
    feeding: bool,
    /// What goes on once the keeper has closed what it was told to, by the number of the question.
    after_forgotten: HashMap<u32, Vec<keeper::Deferred>>,
    /// The earliest time for which a look at the keeper is due.
    keeper_due: keeper::Due,
    going_down: bool,
    had_supervisors: bool,
    /// Whose sockets at hosts' addresses are the project's.
    trust: SharedTrust,
    questions: strangers::Questions,
}

/// What a [`Broker`] is made of.
pub(crate) struct Parts {
    pub(crate) cluster: Cluster,
    pub(crate) paths: Paths,
    pub(crate) planes: Planes,
    pub(crate) limits: Limits,
    pub(crate) claim: Claim,
    pub(crate) ephemeral: bool,
    pub(crate) hosts: Hosts,
    pub(crate) history: History,
    pub(crate) on_event: Option<OnEvent>,
    pub(crate) launcher: Box<dyn Launcher>,
    pub(crate) memory: Memory,
    pub(crate) names: SharedNames,
    pub(crate) registry: Registry,
    pub(crate) listener: UnixListener,
    pub(crate) files: ProjectFiles,
    pub(crate) signals: Signals,
    pub(crate) notices: Receiver<Notice>,
    pub(crate) notifier: Notifier,
    pub(crate) senders: Senders,
    pub(crate) clock: Clock,
    pub(crate) leases: Leases,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) trust: SharedTrust,
    pub(crate) store: FdStore,
}

impl Broker {
    /// A broker whose hosts are all imaginary, with no socket retained yet.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            cluster: parts.cluster,
            paths: parts.paths,
            planes: parts.planes,
            limits: parts.limits,
            claim: parts.claim,
            ephemeral: parts.ephemeral,
            hosts: parts.hosts,
            sockets: Sockets::new(parts.store),
            sessions: Sessions::default(),
            history: parts.history,
            on_event: parts.on_event,
            launcher: parts.launcher,
            memory: parts.memory,
            unwritten: remember::Unwritten::default(),
            names: parts.names,
            registry: parts.registry,
            listener: Some(parts.listener),
            files: parts.files,
            signals: parts.signals,
            notices: parts.notices,
            notifier: parts.notifier,
            senders: parts.senders,
            untold: naming::Untold::default(),
            clock: parts.clock,
            leases: parts.leases,
            cgroups: parts.cgroups,
            trust: parts.trust,
            questions: strangers::Questions::default(),
            commands: HashMap::new(),
            orphaned: orphaned::Orphaned::default(),
            waiters: HashMap::new(),
            next_waiter: 0,
            asks: HashMap::new(),
            resolvers: Resolvers::default(),
            resolver_asks: VecDeque::new(),
            next_ask: 0,
            disposal: None,
            serial: 0,
            orders: 0,
            ending: Vec::new(),
            looks: together::Looks::default(),
            timers: BinaryHeap::new(),
            inputs: VecDeque::new(),
            feeding: false,
            after_forgotten: HashMap::new(),
            keeper_due: keeper::Due::default(),
            going_down: false,
            had_supervisors: false,
        }
    }

    /// Serves until `down`.
    ///
    /// # Errors
    /// epoll_wait(2) other than EINTR.
    pub(crate) fn serve(&mut self, poll: &mut Poll) -> std::io::Result<()> {
        let mut events = Events::with_capacity(BATCH);
        while !self.is_over() {
            match poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            // Before the sockets: a thread that is about to connect has said so first.
            self.take_notices();
            for event in &events {
                match tokens::parse(event.token()) {
                    Some((Kind::Listener, _)) => self.accept(),
                    Some((Kind::Signals, _)) => self.take_signals(),
                    Some((Kind::Session, number)) => self.converse(number as usize),
                    Some((Kind::Socket, number)) => self.came(SocketId(number)),
                    Some((Kind::Ended, number)) => self.supervisor_ended(HostId(number)),
                    Some((Kind::Files, number)) => self.files_changed(number),
                    Some((Kind::Keeper, _)) => self.keeper_spoke(),
                    Some((Kind::Barrier, number)) => self.keeper_answered(number),
                    Some((Kind::Zygote, _)) => self.take_outcomes(),
                    Some((Kind::Orphaned, number)) => self.command_is_gone(number),
                    Some((Kind::Notices, _)) | None => {}
                }
            }
            self.run_timers();
            self.answer_for_trust();
            self.stream_events();
        }
        self.tell_all_events();
        Ok(())
    }

    /// Boots what is kept awake. A broker that takes the place of one that has died, of which it has read `last`, leaves alone what that would not have
    /// booted, either.
    pub(crate) fn wake_kept(&mut self, last: Option<&[(HostName, Summary)]>) {
        if self.ephemeral {
            // `imsup run -- CMD`: nobody has asked for more than what CMD connects to.
            return;
        }
        let kept = |id: &HostId| {
            let host = &self.hosts[*id];
            let Some(spec) = host.spec(&self.cluster) else {
                return false;
            };
            let last = last.and_then(|last| last.iter().find(|(name, _)| *name == spec.name));
            let is_due = last.is_none_or(|(_, summary)| match spec.restart {
                // What it does after an end is the policy's business.
                Some(_) => summary.last == EventKind::Allocate && !summary.is_restarting(),
                None => !summary.stopped,
            });
            spec.imsup.keep_awake && host.life.absent() && is_due
        };
        for id in self.hosts.ids().filter(kept).collect::<Vec<_>>() {
            let cause = imsup_lifecycle::kept_awake();
            self.feed(id, Input::Signal { cause, queued: None });
        }
    }

    /// Has the launcher get ready for boots once whoever started the broker is likely to have its answers.
    pub(crate) fn prepare_soon(&mut self) {
        self.after(PREPARE_AFTER, Timer::Prepare);
    }

    /// Watches the sockets of all hosts that are absent.
    pub(crate) fn watch_all(&mut self) {
        for id in self.hosts.ids().collect::<Vec<_>>() {
            if self.hosts[id].life.absent() {
                self.watch(id);
            }
        }
    }

    /// Watches the sockets of a host at which no program listens.
    fn watch(&mut self, id: HostId) {
        for socket in &self.hosts[id].sockets {
            if self.sockets.get(*socket).is_some_and(|kept| !kept.listening) {
                self.sockets.watch(*socket, &self.registry);
            }
        }
    }

    /// A retained socket of an absent host became readable: the signal that allocates it.
    fn came(&mut self, socket: SocketId) {
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        if retained.listening || !retained.open || !crate::sockets::is_readable(&retained.socket) {
            return;
        }
        if !self.looks_into_queue(socket) {
            self.signalled(socket);
        }
    }

    /// Somebody waits in a retained socket who may boot its host.
    fn signalled(&mut self, socket: SocketId) {
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        let (id, endpoint, declared) = (retained.host, retained.endpoint, !retained.is_tentative());
        let kind = match endpoint.transport {
            imsup_wire::Transport::Tcp => CauseKind::Connection,
            imsup_wire::Transport::Udp => CauseKind::Datagram,
        };
        if self.hosts[id].life.absent() {
            self.hosts[id].signalled_by = Some(socket);
        }
        let cause = Cause {
            kind,
            by: None,
            port: Some(endpoint.address.port()),
        };
        let is_counted = endpoint.transport == imsup_wire::Transport::Tcp
            && self.hosts[id].life.counts_arrivals(endpoint, Instant::now());
        let kept = self.sockets.get(socket).filter(|_| is_counted);
        let queued = Some(Port {
            endpoint,
            declared,
            length: kept.map(|kept| crate::sockets::queue_length(&kept.socket)),
        });
        self.feed(id, Input::Signal { cause, queued });
    }

    fn take_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.take_notice(notice);
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Published { endpoint, by } => {
                let Some(id) = self.host_at(endpoint) else { return };
                let cause = Cause {
                    kind: CauseKind::Published,
                    by: Some(self.caller(by)),
                    port: Some(endpoint.address.port()),
                };
                // The connection itself follows at once.
                let queued = self.waits_at(id, endpoint).then_some(Port {
                    endpoint,
                    declared: true,
                    length: None,
                });
                self.feed(id, Input::Signal { cause, queued });
            }
            Notice::Stranger { uid, endpoint } => self.name_stranger(uid, endpoint),
            Notice::Lookup { index, by } => {
                let Some(id) = self.hosts.at(index) else { return };
                let cause = Cause {
                    kind: CauseKind::Lookup,
                    by: Some(self.caller(SocketAddr::new(by, 0))),
                    port: None,
                };
                self.feed(id, Input::Signal { cause, queued: None });
            }
            Notice::Cleared { host, serial } => self.cleared(host, serial),
            Notice::Senders(answers) => self.name_senders(answers),
            Notice::Queue {
                listener,
                length,
                peers,
            } => self.queue_seen(listener, length, &peers),
            Notice::ResolverNamespace(sockets) => self.resolver_namespace_made(sockets),
            Notice::ResolverSockets(batch) => self.resolver_sockets_made(batch),
            Notice::NoResolverSockets { for_good } => self.no_resolver_sockets(for_good),
        }
    }

    /// Tells a host's life what happened, and does what it says. Happenings that this leads to are told after it.
    fn feed(&mut self, id: HostId, input: Input) {
        self.inputs.push_back((id, input));
        if self.feeding {
            return;
        }
        self.feeding = true;
        while let Some((id, input)) = self.inputs.pop_front() {
            if self.hosts.get(id).is_some() {
                let ended = matches!(input, Input::Ended { .. });
                self.step(id, input);
                if ended && !self.is_declared(id) {
                    self.remove_transient(id);
                }
            }
        }
        self.feeding = false;
    }

    fn step(&mut self, id: HostId, input: Input) {
        let (now, time_us) = (Instant::now(), now_us());
        let host = &mut self.hosts[id];
        let (before, was_absent) = (host.life.state(), host.life.absent());
        let actions = host.life.step(input, now);
        if host.life.state() != before {
            host.since_us = self.clock.of_wall(time_us);
        }
        let (mut emitted, mut unmet) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Boot => self.boot(id),
                Action::Stop => self.stop(id),
                Action::Resume(cause) => self.resume(id, cause),
                Action::Reclaim(after) => self.reclaim(id, after),
                Action::ResetQueued => self.reset_queued(id),
                Action::ResetAt(endpoint, count) => self.reset_at(id, endpoint, count),
                Action::CloseUnused { spare_declared } => self.close_unused(id, spare_declared),
                Action::Unmet(endpoints) => unmet.extend(endpoints),
                Action::Answer(waiter, answer) => self.answer(waiter, answer),
                Action::Emit { kind, duration, detail } => emitted.push((kind, duration, detail)),
            }
        }
        if emitted.iter().any(|(kind, _, _)| is_caused(*kind)) {
            self.name_sender(id);
        }
        if self.hosts[id].life.absent() && !was_absent {
            self.forget_ended_together();
        }
        let allocated = emitted.iter().any(|(kind, _, _)| *kind == EventKind::Allocate);
        for (kind, duration, mut detail) in emitted {
            if kind == EventKind::Ready {
                detail = detail.or_else(|| self.unmet(id));
            }
            self.emit(id, time_us, kind, duration, detail);
        }
        if !unmet.is_empty() {
            self.say_unmet(id, time_us, &unmet);
        }
        self.tell_if_awaited(id);
        if allocated {
            self.boot_dependencies(id);
        }
        self.schedule(id, now);
    }

    fn emit(&mut self, id: HostId, time_us: u64, kind: EventKind, duration: Option<Duration>, detail: Option<String>) {
        let host = &self.hosts[id];
        let caused = is_caused(kind);
        let question = host.unnamed.filter(|_| caused);
        let ended = matches!(kind, EventKind::Exit | EventKind::Fail);
        let event = Event {
            time_us,
            host: host.name(&self.cluster).clone(),
            kind,
            cause: match ended {
                true => host.life.end_cause(),
                false => host.life.cause().filter(|_| caused).cloned(),
            },
            duration,
            detail,
            usage: host
                .account
                .as_ref()
                .filter(|_| ended)
                .and_then(|account| account.current()),
        };
        self.record_unnamed(id, event, question);
    }

    /// Who an address is: a host of the project by name, else the address (with its port, where it has one).
    fn caller(&self, address: SocketAddr) -> String {
        let address = crate::sockets::canonical(address);
        if let SocketAddr::V4(v4) = address
            && let Some(place) = self.planes.place(*v4.ip())
            && let Some(id) = self.hosts.at(place.index)
        {
            return self.hosts[id].name(&self.cluster).to_string();
        }
        match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        }
    }

    /// The host whose VIP this is.
    fn host_at(&self, endpoint: Endpoint) -> Option<HostId> {
        let place = self.planes.place(*endpoint.address.ip())?;
        (place.plane == Plane::Vip)
            .then(|| self.hosts.at(place.index))
            .flatten()
    }

    fn new_waiter(&mut self, target: Target) -> WaiterId {
        let waiter = self.unheard_waiter();
        self.waiters.insert(waiter, target);
        waiter
    }

    /// A waiter that is in nobody's place: its answer is not heard.
    fn unheard_waiter(&mut self) -> WaiterId {
        let waiter = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        waiter
    }

    fn answer(&mut self, waiter: WaiterId, answer: Answer) {
        match self.waiters.remove(&waiter) {
            Some(Target::Reach { session, id, .. }) => self.answer_reach(session, id, answer),
            Some(Target::Client { session, host }) => self.answer_client(session, host, answer),
            None => {}
        }
    }

    fn schedule(&mut self, id: HostId, now: Instant) {
        let host = &mut self.hosts[id];
        let Some(deadline) = host.life.deadline() else { return };
        let later = host.tick_at.is_some_and(|tick| tick <= deadline && tick > now);
        if !later {
            host.tick_at = Some(deadline);
            self.timers.push(Reverse((deadline, Timer::Tick(id))));
        }
    }

    fn after(&mut self, time: Duration, timer: Timer) {
        self.timers.push(Reverse((Instant::now() + time, timer)));
    }

    fn timeout(&self) -> Option<Duration> {
        if self.questions.are_due() {
            return Some(Duration::ZERO);
        }
        let Reverse((due, _)) = self.timers.peek()?;
        // Rounded up: epoll counts in milliseconds, and waking before the time is waking twice.
        let left = due.saturating_duration_since(Instant::now());
        Some(left + Duration::from_micros(999))
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Tick(id) => self.tick(id, due),
                Timer::Kill(id, serial) => self.kill(id, serial),
                Timer::Missing(id) => self.missing(id),
                Timer::Accept => self.accept(),
                Timer::Farewell => self.kill_commands(),
                Timer::Lonely => self.leave_if_lonely(),
                Timer::Unanswered(question) => self.unanswered(question),
                Timer::Unnamed(question) => self.name_at_last(question),
                Timer::Files => self.look_at_files_again(),
                Timer::Keeper => self.look_at_keeper(due),
                Timer::Remember => self.remember_again(),
                Timer::Launcher => self.take_outcomes(),
                Timer::Prepare => self.launcher.prepare(&self.cluster.project),
            }
        }
    }

    fn tick(&mut self, id: HostId, due: Instant) {
        let Some(host) = self.hosts.get(id) else { return };
        if host.tick_at == Some(due) {
            self.hosts[id].tick_at = None;
            self.feed(id, Input::Tick);
        }
    }

    /// Whether a host is of the cluster.
    fn is_declared(&self, id: HostId) -> bool {
        matches!(self.hosts[id].origin, Origin::Declared(_))
    }

    fn is_booting(&self, id: HostId) -> bool {
        let life = &self.hosts[id].life;
        !life.absent() && !life.settled()
    }
}

/// Whether an event carries the signal behind the boot.
fn is_caused(kind: EventKind) -> bool {
    matches!(kind, EventKind::Allocate | EventKind::Boot | EventKind::Ready)
}
