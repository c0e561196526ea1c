//! The broker: its parts, and the loop that hands each event to the part that it is for.

mod adoptable;
mod apply;
mod arrivals;
mod awake;
mod boots;
mod claims;
mod commands;
mod control;
mod down;
mod ends;
mod families;
mod files;
mod health;
mod hello;
mod keeper;
mod lifetime;
mod limited;
mod lives;
mod networks;
mod order;
mod outputs;
mod power;
mod project_record;
mod reach;
mod recording;
mod resolvers;
mod retaining;
mod sleep;
mod stop_groups;
mod strangers;
mod streams;
mod supervisor_requests;
#[cfg(test)]
mod tests;
mod timers;
mod two_phase;
mod unmet;

use std::time::{Duration, Instant};

use imsup_compose::cluster::Cluster;
use imsup_wire::Planes;
use mio::{Events, Poll, Registry};

use self::commands::Commands;
use self::health::Checks;
use self::keeper::KeeperQuestions;
pub(crate) use self::lifetime::Lifetime;
use self::lives::Lives;
use self::order::Order;
use self::outputs::Outputs;
pub(crate) use self::project_record::ProjectRecord;
use self::stop_groups::StopGroups;
pub(crate) use self::strangers::Strangers;
use self::supervisor_requests::SupervisorRequests;
use self::timers::{Timer, Timers};
use self::two_phase::TwoPhaseTermination;
use crate::address_block::BlockClaim;
use crate::clock::Clock;
use crate::hosts::Hosts;
use crate::journal::Journal;
use crate::launcher::Launcher;
use crate::leases::Leases;
use crate::limits::Limits;
use crate::loop_messages::{LoopMessage, LoopMessages};
use crate::names::SharedNames;
use crate::paths::Paths;
use crate::project_files::ProjectFiles;
use crate::resolvers::Resolvers;
use crate::retained::Sockets;
use crate::sessions::Sessions;
use crate::shared_networks::SharedNetworks;
use crate::signals::Signals;
use crate::tokens::Source;

/// Events of the loop taken at once.
const BATCH: usize = 1024;

/// The project, and the parts that know of it. Each keeps its own state to itself.
pub(crate) struct Broker {
    pub(crate) cluster: Cluster,
    pub(crate) paths: Paths,
    planes: Planes,
    limits: Limits,
    pub(crate) claim: BlockClaim,
    hosts: Hosts,
    journal: Journal,
    sessions: Sessions,
    pub(crate) sockets: Sockets,
    pub(crate) resolvers: Resolvers,
    pub(crate) launcher: Box<dyn Launcher>,
    names: SharedNames,
    registry: Registry,
    files: ProjectFiles,
    signals: Signals,
    messages: LoopMessages,
    clock: Clock,
    leases: Leases,
    lifetime: Lifetime,
    commands: Commands,
    lives: Lives,
    timers: Timers,
    requests: SupervisorRequests,
    termination: TwoPhaseTermination,
    stop_groups: StopGroups,
    record: ProjectRecord,
    strangers: Strangers,
    networks: SharedNetworks,
    checks: Checks,
    order: Order,
    outputs: Outputs,
    keeper: KeeperQuestions,
}

/// The parts that make up a [`Broker`].
pub(crate) struct Parts {
    pub(crate) cluster: Cluster,
    pub(crate) paths: Paths,
    pub(crate) planes: Planes,
    pub(crate) limits: Limits,
    pub(crate) claim: BlockClaim,
    pub(crate) hosts: Hosts,
    pub(crate) journal: Journal,
    pub(crate) sessions: Sessions,
    pub(crate) sockets: Sockets,
    pub(crate) launcher: Box<dyn Launcher>,
    pub(crate) record: ProjectRecord,
    pub(crate) names: SharedNames,
    pub(crate) registry: Registry,
    pub(crate) files: ProjectFiles,
    pub(crate) signals: Signals,
    pub(crate) messages: LoopMessages,
    pub(crate) clock: Clock,
    pub(crate) leases: Leases,
    pub(crate) lifetime: Lifetime,
    pub(crate) strangers: Strangers,
    pub(crate) networks: SharedNetworks,
}

impl Broker {
    /// A broker whose hosts are all imaginary, without retained sockets.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            cluster: parts.cluster,
            paths: parts.paths,
            planes: parts.planes,
            limits: parts.limits,
            claim: parts.claim,
            hosts: parts.hosts,
            journal: parts.journal,
            sessions: parts.sessions,
            sockets: parts.sockets,
            launcher: parts.launcher,
            record: parts.record,
            names: parts.names,
            registry: parts.registry,
            files: parts.files,
            signals: parts.signals,
            messages: parts.messages,
            clock: parts.clock,
            leases: parts.leases,
            lifetime: parts.lifetime,
            strangers: parts.strangers,
            networks: parts.networks,
            checks: Checks::default(),
            order: Order::default(),
            outputs: Outputs::default(),
            resolvers: Resolvers::default(),
            commands: Commands::default(),
            lives: Lives::default(),
            timers: Timers::default(),
            requests: SupervisorRequests::default(),
            termination: TwoPhaseTermination::default(),
            stop_groups: StopGroups::default(),
            keeper: KeeperQuestions::default(),
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
            self.take_loop_messages();
            for event in &events {
                match Source::of(event.token()) {
                    Some(Source::Listener) => self.accept(),
                    Some(Source::Signals) => self.take_signals(),
                    Some(Source::Session(session)) => self.converse(session),
                    Some(Source::Socket(socket)) => self.came(socket),
                    Some(Source::Ended(instance)) => self.look_at(instance),
                    Some(Source::Files(number)) => self.files_changed(number),
                    Some(Source::Keeper) => self.keeper_spoke(),
                    Some(Source::Barrier(number)) => self.keeper_answered(number),
                    Some(Source::Zygote) => self.take_outcomes(),
                    Some(Source::Check(number)) => self.check_spoke(number),
                    Some(Source::Networks) => self.networks_changed(),
                    Some(Source::Orphaned(number)) => self.command_is_gone(number),
                    Some(Source::LoopMessages) | None => {}
                }
            }
            self.run_timers();
            self.answer_for_trust();
            self.stream_events();
        }
        self.tell_all_events();
        Ok(())
    }

    fn take_loop_messages(&mut self) {
        while let Some(message) = self.messages.next() {
            self.take_message(message);
        }
    }

    fn take_message(&mut self, message: LoopMessage) {
        match message {
            LoopMessage::Published { endpoint, by } => self.came_to_published(endpoint, by),
            LoopMessage::Stranger { uid, endpoint } => self.name_stranger(uid, endpoint),
            LoopMessage::Lookup { index, by } => self.looked_up(index, by),
            LoopMessage::Cleared(instance) => self.cleared(instance),
            LoopMessage::Peers(found) => self.hear_of_peers(found),
            LoopMessage::Resolvers(told) => self.hear_of_resolvers(told),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        match self.strangers.are_due() {
            true => Some(Duration::ZERO),
            false => self.timers.timeout(),
        }
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some((due, timer)) = self.timers.take_due(now) {
            match timer {
                Timer::Tick(id) => self.tick(id, due),
                Timer::Check(id) => self.check_is_due(id, due),
                Timer::Kill(instance) => self.kill(instance),
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
}
