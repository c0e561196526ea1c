//! All hosts of a project, declared and transient, with look-ups.

mod sleep;

use std::collections::HashMap;
use std::ops::{Index as At, IndexMut as AtMut};
use std::os::fd::OwnedFd;
use std::time::Instant;

use imsup_wire::{Endpoint, ExitStatus, HostName, Index, PublishedPort};

use crate::ids::{HostId, InstanceId, SessionId, SocketId};
use crate::peer_lookup::Question;
use imsup_compose::cluster::{Cluster, HostSpec, RestartCondition};
use imsup_lifecycle::{Life, Policy, Revive};
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

/// A supervisor that runs a host's program.
#[derive(Debug, Default)]
pub(crate) struct Instance {
    /// No other instance has this key.
    pub(crate) id: InstanceId,
    /// The boot's token, if any.
    pub(crate) boot: Option<u64>,
    /// True if a broker's launcher started the supervisor, and is thus also responsible for its
    /// end.
    pub(crate) launched: bool,
    /// True if the supervisor is to end as soon as it is there.
    pub(crate) unwanted: bool,
    /// True if the supervisor ran before this broker, and has not introduced itself yet.
    pub(crate) expected: bool,
    /// Its connection.
    pub(crate) session: Option<SessionId>,
    /// The program's first process, by the supervisor's number: shown to people.
    pub(crate) program: Option<u32>,
    /// A hash that distinguishes the program from the declared program, if another program was
    /// started.
    pub(crate) other_program: Option<u64>,
    /// Keeps the program's pending calls waiting if the supervisor is killed: a duplicate of the
    /// calls' listener, which is never read. Dropped with the instance, when all leftovers of the
    /// supervisor are ended.
    pub(crate) notify_listener: Option<OwnedFd>,
    /// True if accept(2) is the kernel's: the families of all retained sockets were known.
    pub(crate) accepts_natively: bool,
    /// Endpoints where the program listens on sockets that are not retained.
    pub(crate) listening: Vec<Endpoint>,
    /// Endpoints where the program listened, and has closed its listeners.
    pub(crate) closed: Vec<Endpoint>,
    /// The supervisor's report of the program's end.
    pub(crate) exited: Option<ExitStatus>,
    /// True while the broker cleans up after the supervisor.
    pub(crate) clearing: bool,
    /// The known state of the host's sleep.
    pub(crate) sleep: Sleep,
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) origin: Origin,
    pub(crate) index: Index,
    pub(crate) life: Life,
    pub(crate) instance: Option<Box<Instance>>,
    pub(crate) published: Vec<PublishedPort>,
    pub(crate) boots: u32,
    pub(crate) wakes: u32,
    /// The time since which the host is in its state, by the project's clock.
    pub(crate) since_us: u64,
    /// The earliest scheduled tick.
    pub(crate) tick_at: Option<Instant>,
    /// The socket whose queue was the last signal, with a sender still to be named.
    pub(crate) signalled_by: Option<SocketId>,
    /// The open question for the sender.
    pub(crate) unnamed: Option<Question>,
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
    pub(crate) fn install(&mut self, id: HostId, mut instance: Instance) -> InstanceId {
        let key = self.instances.insert(id);
        instance.id = key;
        self[id].instance = Some(Box::new(instance));
        key
    }

    /// Takes the instance that runs a host: it is over, or replaced.
    pub(crate) fn take_instance(&mut self, id: HostId) -> Option<Box<Instance>> {
        let instance = self.get_mut(id)?.instance.take()?;
        self.instances.remove(instance.id);
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
