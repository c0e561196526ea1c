//! All hosts of a project, declared and transient, with look-ups.

mod instance;
mod sleep;

use std::collections::HashMap;
use std::ops::{Index as At, IndexMut as AtMut};
use std::time::Instant;

use imsup_wire::{HostName, Index, PublishedPort};

use crate::accounts::Account;
use crate::ids::{HostId, InstanceId, SessionId, SocketId};
use crate::peer_lookup::Question;
use imsup_compose::cluster::{Cluster, HostSpec, RestartCondition};
use imsup_lifecycle::{Action, Input, Life, Policy, Revive};
pub(crate) use instance::{Instance, MAX_SOCKETS};
pub(crate) use sleep::Sleep;
use slotmap::SlotMap;

/// The kind of a host.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A host of the cluster: its position there.
    Declared(usize),
    /// A host made by `imsup run`.
    Transient { name: HostName, command: Vec<String> },
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    origin: Origin,
    index: Index,
    life: Life,
    instance: Option<Box<Instance>>,
    published: Vec<PublishedPort>,
    boots: u32,
    wakes: u32,
    /// The time since which the host is in its state, by the project's clock.
    since_us: u64,
    /// The earliest scheduled tick.
    tick_at: Option<Instant>,
    /// The socket whose queue was the last signal, with a sender still to be named.
    signalled_by: Option<SocketId>,
    /// The open question for the sender.
    unnamed: Option<Question>,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    table: SlotMap<HostId, Host>,
    /// The hosts that instances run.
    instances: SlotMap<InstanceId, HostId>,
    by_name: HashMap<HostName, HostId>,
    by_index: HashMap<u16, HostId>,
    /// Names and addresses of transient hosts that ran before this broker and have not introduced
    /// themselves yet.
    away: HashMap<HostName, Index>,
}

impl At<HostId> for Hosts {
    type Output = Host;

    fn index(&self, id: HostId) -> &Host {
        self.get(id).expect("ids are only kept of hosts that exist")
    }
}

impl AtMut<HostId> for Hosts {
    fn index_mut(&mut self, id: HostId) -> &mut Host {
        self.get_mut(id).expect("ids are only kept of hosts that exist")
    }
}

impl Hosts {
    /// The hosts of a cluster, imaginary.
    pub(crate) fn new(cluster: &Cluster, indexes: &[Index], now_us: u64) -> Self {
        let mut hosts = Self::default();
        hosts.table.reserve(cluster.hosts.len());
        for (position, (spec, index)) in cluster.hosts.iter().zip(indexes).enumerate() {
            hosts.insert(
                Origin::Declared(position),
                spec.name.clone(),
                *index,
                policy(spec),
                now_us,
            );
        }
        hosts
    }

    /// Adds a transient host.
    pub(crate) fn add_transient(&mut self, name: HostName, command: Vec<String>, index: Index, now_us: u64) -> HostId {
        let policy = Policy {
            hold_timeout: imsup_compose::cluster::Settings::default().hold_timeout,
            revive: Revive::OnSignal,
            restart: None,
        };
        let origin = Origin::Transient {
            name: name.clone(),
            command,
        };
        self.insert(origin, name, index, policy, now_us)
    }

    fn insert(&mut self, origin: Origin, name: HostName, index: Index, policy: Policy, since_us: u64) -> HostId {
        let host = Host {
            origin,
            index,
            life: Life::new(policy),
            instance: None,
            published: Vec::new(),
            boots: 0,
            wakes: 0,
            since_us,
            tick_at: None,
            signalled_by: None,
            unnamed: None,
        };
        let id = self.table.insert(host);
        self.by_name.insert(name, id);
        self.by_index.insert(index.number(), id);
        id
    }

    /// Makes this the instance that runs a host, with a key that no other has.
    pub(crate) fn install(&mut self, id: HostId, instance: Instance) -> InstanceId {
        let key = self.instances.insert(id);
        self[id].instance = Some(Box::new(instance.with_id(key)));
        key
    }

    /// Takes the instance that runs a host: it is over, or replaced.
    pub(crate) fn take_instance(&mut self, id: HostId) -> Option<Box<Instance>> {
        let instance = self.get_mut(id)?.instance.take()?;
        self.instances.remove(instance.id());
        Some(instance)
    }

    /// The host that this instance runs, unless the instance is over.
    pub(crate) fn run_by(&self, instance: InstanceId) -> Option<HostId> {
        self.instances.get(instance).copied()
    }

    /// Removes a transient host.
    pub(crate) fn remove(&mut self, id: HostId, name: &HostName) -> Option<Host> {
        self.take_instance(id);
        let host = self.table.remove(id)?;
        self.by_name.remove(name);
        self.by_index.remove(&host.index.number());
        Some(host)
    }

    /// The host with this id, if it still exists.
    pub(crate) fn get(&self, id: HostId) -> Option<&Host> {
        self.table.get(id)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, id: HostId) -> Option<&mut Host> {
        self.table.get_mut(id)
    }

    /// The host of this name (no alias).
    pub(crate) fn named(&self, name: &HostName) -> Option<HostId> {
        self.by_name.get(name).copied()
    }

    /// The host of this index.
    pub(crate) fn at(&self, index: Index) -> Option<HostId> {
        self.by_index.get(&index.number()).copied()
    }

    /// All hosts.
    pub(crate) fn ids(&self) -> impl Iterator<Item = HostId> + use<'_> {
        self.table.keys()
    }

    /// In the order of their addresses.
    pub(crate) fn by_address(&self) -> Vec<HostId> {
        let mut ids: Vec<HostId> = self.ids().collect();
        ids.sort_by_key(|id| self[*id].index);
        ids
    }

    /// Keeps the name and the address of a transient host that has not introduced itself yet.
    pub(crate) fn keep_for(&mut self, name: HostName, index: Index) {
        self.away.insert(name, index);
    }

    /// Drops the kept names and addresses of hosts that no longer exist.
    pub(crate) fn forget_away(&mut self, is_there: impl Fn(&HostName) -> bool) {
        self.away.retain(|name, _| is_there(name));
    }

    /// Whether a name is kept for a transient host that has not introduced itself yet.
    pub(crate) fn is_away(&self, name: &HostName) -> bool {
        self.away.contains_key(name)
    }

    /// True if the index neither belongs to a host nor is kept for one.
    pub(crate) fn is_free(&self, index: Index) -> bool {
        self.at(index).is_none() && !self.away.values().any(|kept| *kept == index)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl Host {
    /// True for a host of the cluster.
    pub(crate) fn is_declared(&self) -> bool {
        matches!(self.origin, Origin::Declared(_))
    }

    /// Its address, in any plane.
    pub(crate) fn index(&self) -> Index {
        self.index
    }

    /// Its life cycle.
    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// The same, for what is learned beside the inputs of [`Self::step`].
    pub(crate) fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Feeds an event to the life cycle. `now_us` is the project's time, for a host that is in
    /// another state from now on.
    pub(crate) fn step(&mut self, input: Input, now: Instant, now_us: impl FnOnce() -> u64) -> Vec<Action> {
        let before = self.life.state();
        let actions = self.life.step(input, now);
        if self.life.state() != before {
            self.since_us = now_us();
        }
        actions
    }

    /// The instance that runs the host, or is about to.
    pub(crate) fn instance(&self) -> Option<&Instance> {
        self.instance.as_deref()
    }

    /// The same, to be changed.
    pub(crate) fn instance_mut(&mut self) -> Option<&mut Instance> {
        self.instance.as_deref_mut()
    }

    /// The connection of the supervisor that runs the host.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.instance()?.session()
    }

    /// The host is reached at this port of the machine, too.
    pub(crate) fn publish(&mut self, port: PublishedPort) {
        self.published.push(port);
    }

    /// The ports of the machine at which the host is reached.
    pub(crate) fn published(&self) -> &[PublishedPort] {
        &self.published
    }

    /// The host goes on with the account of an earlier broker.
    pub(crate) fn recall(&mut self, account: &Account) {
        let (boots, wakes) = account.counts();
        self.boots = u32::try_from(boots).unwrap_or(u32::MAX);
        self.wakes = u32::try_from(wakes).unwrap_or(u32::MAX);
        self.since_us = account.since_us();
    }

    /// How often the host was booted, and how often woken.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.boots, self.wakes)
    }

    /// The host was booted once more.
    pub(crate) fn count_boot(&mut self) {
        self.boots = self.boots.saturating_add(1);
    }

    /// The host was woken once more.
    pub(crate) fn count_wake(&mut self) {
        self.wakes = self.wakes.saturating_add(1);
    }

    /// The time since which the host is in its state, by the project's clock.
    pub(crate) fn since_us(&self) -> u64 {
        self.since_us
    }

    /// The host is in its state since this time, as its supervisor or an event says.
    pub(crate) fn is_so_since(&mut self, time_us: u64) {
        self.since_us = time_us;
    }

    /// The deadline for which a tick is to be scheduled, unless an earlier tick is.
    pub(crate) fn schedule_tick(&mut self, now: Instant) -> Option<Instant> {
        let deadline = self.life.deadline()?;
        let is_scheduled = self.tick_at.is_some_and(|tick| tick <= deadline && tick > now);
        if is_scheduled {
            return None;
        }
        self.tick_at = Some(deadline);
        Some(deadline)
    }

    /// The moment of a tick has come. False if another tick has taken its place.
    pub(crate) fn take_tick(&mut self, due: Instant) -> bool {
        self.tick_at.take_if(|tick| *tick == due).is_some()
    }

    /// What waits in this socket is the last signal, with a sender still to be named.
    pub(crate) fn note_signal(&mut self, socket: SocketId) {
        self.signalled_by = Some(socket);
    }

    /// The socket of the last signal, to name the sender.
    pub(crate) fn take_signal(&mut self) -> Option<SocketId> {
        self.signalled_by.take()
    }

    /// The open question for the sender of the last signal.
    pub(crate) fn question(&self) -> Option<Question> {
        self.unnamed
    }

    /// The kernel is asked for the sender of the last signal.
    pub(crate) fn await_sender(&mut self, question: Option<Question>) {
        self.unnamed = question;
    }

    /// A question is answered, perhaps this host's: the sender, if known.
    pub(crate) fn name_sender(&mut self, question: Question, by: Option<&str>) {
        if self.unnamed == Some(question) {
            self.unnamed = None;
            by.into_iter().for_each(|by| self.life.name_caller(by.to_owned()));
        }
    }

    /// The entry in the cluster file, if any.
    pub(crate) fn spec<'a>(&self, cluster: &'a Cluster) -> Option<&'a HostSpec> {
        match &self.origin {
            Origin::Declared(position) => cluster.hosts.get(*position),
            Origin::Transient { .. } => None,
        }
    }

    /// Its name.
    pub(crate) fn name<'a>(&'a self, cluster: &'a Cluster) -> &'a HostName {
        match &self.origin {
            Origin::Declared(position) => &cluster.hosts[*position].name,
            Origin::Transient { name, .. } => name,
        }
    }

    /// The host's command; empty for a transient host that was adopted.
    pub(crate) fn command(&self, cluster: &Cluster) -> Vec<String> {
        match &self.origin {
            Origin::Declared(position) => cluster.hosts[*position].program.command_text(),
            Origin::Transient { command, .. } => command.clone(),
        }
    }
}

fn policy(spec: &HostSpec) -> Policy {
    let revive = match (spec.restart.map(|restart| restart.condition), spec.imsup.keep_awake) {
        (Some(RestartCondition::No), _) | (None, false) => Revive::OnSignal,
        (Some(RestartCondition::OnFailure), _) => Revive::AfterFailure,
        (Some(RestartCondition::Always | RestartCondition::UnlessStopped), _) | (None, true) => Revive::Always,
    };
    Policy {
        hold_timeout: spec.imsup.hold_timeout,
        revive,
        restart: spec.restart,
    }
}
