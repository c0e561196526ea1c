//! A broker from its start to its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imsup_wire::{Endpoint, HostName, Index, Planes};
use mio::{Poll, Waker};
use parking_lot::RwLock;

use crate::absent;
use crate::address_block;
use crate::broker::{Broker, Lifetime, Parts, ProjectRecord, Strangers};
use crate::clock::Clock;
use crate::error::BrokerError;
use crate::events::OnEvent;
use crate::history::{self, History, Summary};
use crate::hosts::Hosts;
use crate::ids::HostId;
use crate::journal::Journal;
use crate::keeper::{FdStore, Recipe, Restored, Successor, What};
use crate::launcher::{Launcher, ProcessLauncher, cgroups};
use crate::leases::Leases;
use crate::limits;
use crate::logs::bounds::Bounds;
use crate::loop_messages::{LoopMessage, LoopMessages};
use crate::names::{NameServer, Names};
use crate::paths::Paths;
use crate::peer_lookup::PeerLookup;
use crate::project_files::{self, ProjectFiles};
use crate::project_lock::ProjectLock;
use crate::projects::{self, ProjectsError, Recorded};
use crate::published::{self, Relay, Vet};
use crate::retained::Sockets;
use crate::routes;
use crate::sessions::Sessions;
use crate::shared_networks::SharedNetworks;
use crate::signals::Signals;
use crate::tokens::Source;
use crate::trust::Trust;
use imsup_compose::cluster::{Cluster, HostSpec};

/// The options of a broker.
pub struct Options {
    /// The project and its hosts.
    pub cluster: Cluster,
    /// The project's directories.
    pub paths: Paths,
    /// True if the broker ends when the last supervisor has left (a broker that `imsup run` started
    /// for itself).
    pub ephemeral: bool,
    /// The file with the resolvers for names outside of the project; usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The executable that runs hosts.
    pub imsup_exe: PathBuf,
    /// Makes the calling thread yield to all others of the machine (sched(7), SCHED_IDLE).
    pub stand_back: fn(),
    /// Called when every host exists.
    pub on_ready: Box<dyn FnOnce()>,
    /// Called with each event at once.
    pub on_event: Option<OnEvent>,
    /// The way to start the next broker if this one dies; then a keeper holds the sockets. `None`
    /// if another process takes care of this, or none does.
    pub successor: Option<Successor>,
    /// The keeper's descriptors of a broker that has died, if this broker takes its place.
    pub restored: Option<Restored>,
}

/// How a broker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The project is down.
    Down,
    /// The project goes on with another broker.
    HandedOver,
}

/// The time that the start waits for another process that changes the project records.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// null(4).
const NULL_DEVICE: &str = "/dev/null";

fn system(what: &'static str) -> impl FnOnce(io::Error) -> BrokerError {
    move |source| BrokerError::System { what, source }
}

/// Brings a project up, serves, and takes the project down on request (`down`, SIGTERM, SIGINT,
/// SIGHUP).
///
/// # Errors
/// [`BrokerError`]. If the start fails, no traces are left, except hosts that an earlier broker
/// started.
pub fn run(options: Options) -> Result<Ended, BrokerError> {
    let paths = options.paths.clone();
    let follows = options.restored.is_some();
    let lock = ProjectLock::take(&options.cluster.project, &paths, follows)?;
    // Processes that the last broker, killed together with supervisors, could not end. Ended before
    // any boot.
    absent::end_cgroups(&options.cluster.project, &paths);
    if !absent::end_left(&paths) {
        tracing::warn!(
            "processes that killed supervisors of the project left could not be ended; they may hold its ports"
        );
    }
    absent::note_cgroups(&paths, &cgroups::directories_of("self"));
    let fresh = !paths.events().exists() && absent::adoptable(&paths).is_empty();
    let result = start_and_serve(options, lock.clone());
    if result.is_err() && fresh && !follows {
        // The error is for the user; files that cannot be removed now are taken over by the next
        // `up`.
        let _ = routes::release(&paths);
        let _ = absent::remove_files(&paths);
    }
    // Held until this process has ended: a `down` that waits for the lock must not find the process
    // any more.
    std::mem::forget(lock);
    result
}

fn start_and_serve(options: Options, lock: ProjectLock) -> Result<Ended, BrokerError> {
    let Options {
        cluster,
        paths,
        ephemeral,
        resolv_conf,
        imsup_exe,
        stand_back,
        on_ready,
        on_event,
        successor,
        restored,
    } = options;
    // All children of the broker read from there, and a bare root directory may have no /dev.
    let null = File::open(NULL_DEVICE).map_err(|source| BrokerError::File {
        what: "the hosts' standard input",
        path: NULL_DEVICE.into(),
        source,
    })?;
    let mut poll = Poll::new().map_err(system("epoll_create(2)"))?;
    let registry = poll.registry().try_clone().map_err(system("epoll"))?;
    let signals = Signals::install(&registry).map_err(system("sigaction(2)"))?;
    let publishes = cluster.hosts.iter().any(|host| !host.published.is_empty());
    let mut limits = limits::raise(cluster.hosts.len(), publishes).map_err(system("setrlimit(2)"))?;
    if let Some(restored) = &restored {
        limits.before = restored.descriptor_limit;
    }
    // Before the first thread.
    let ports = |host: &HostSpec| host.expose.len() + host.published.len();
    limits::make_room(null, cluster.hosts.iter().map(ports).sum(), cluster.hosts.len());
    let subnet = cluster.subnet.unwrap_or_default();
    let planes = subnet.planes();
    routes::make_local(subnet, &paths, !absent::adoptable(&paths).is_empty())?;

    let (mut recorded, others) = projects::recall(&paths.projects(), &cluster.project)?;
    if !paths.up().exists() {
        // Of an earlier `up`, perhaps with other services.
        recorded.users.clear();
    }
    let launcher = ProcessLauncher::new(imsup_exe.clone(), limits.before, &registry)
        .map_err(system("prctl(PR_SET_CHILD_SUBREAPER)"))?;
    let mut launcher: Box<dyn Launcher> = Box::new(launcher);
    let follows = restored.is_some();
    let mut store = store(&cluster, successor, restored, &limits, launcher.as_mut(), &registry)?;
    let claim = address_block::claim(&cluster, &planes, recorded.blocks, &others, &mut store)?;
    let indexes = address_block::assign(&cluster.hosts, &claim, &planes, &recorded.indexes)?;
    let is_written = record_addresses(&cluster, &claim, &indexes, &mut recorded, &paths);
    tolerate(follows, check_ports(&cluster, &recorded, &limits))?;

    project_files::note_directory(&cluster, &paths);
    let mut clock = Clock::open(&paths.up());
    let mut hosts = Hosts::new(&cluster, &indexes, clock.up_us());
    let (history, last) = read_back(&paths, &mut hosts, clock.up_us());
    clock.go_on(&paths.up(), history.ledger().last_us());
    let leases = Leases::open(paths.leases(), &clock);
    let published_listeners = publish(&cluster, &planes, &mut hosts, &mut store, follows)?;
    let names = Arc::new(RwLock::new(Names::new(&cluster, planes, &indexes)));
    let networks = SharedNetworks::new(&cluster, &planes, &indexes, &paths);
    let waker = Waker::new(&registry, Source::LoopMessages.into()).map_err(system("eventfd(2)"))?;
    let messages = LoopMessages::new(waker);
    let notifier = messages.notifier().clone();
    let told = notifier.clone();
    let found = move |found| told.tell(LoopMessage::Peers(found));
    let peer_lookup = PeerLookup::start(found, stand_back).map_err(system("the thread that looks up peers"))?;
    let journal = Journal::new(history, on_event, Some(peer_lookup), |name| hosts.named(name));
    let trust = Arc::new(RwLock::new(Trust::of(&cluster, &recorded.users)));
    let relay_trust = Arc::clone(&trust);
    let listener = project_files::listen(&paths, &registry)?;
    let files = ProjectFiles::new(lock, &paths, &registry).map_err(system("inotify(7)"))?;

    let mut broker = Broker::new(Parts {
        cluster,
        paths,
        planes,
        limits,
        claim,
        lifetime: Lifetime::new(ephemeral),
        hosts,
        journal,
        sessions: Sessions::new(listener),
        sockets: Sockets::new(store),
        launcher,
        record: ProjectRecord::new(recorded),
        names: Arc::clone(&names),
        registry,
        files,
        signals,
        messages,
        clock,
        leases,
        strangers: Strangers::new(trust),
        networks,
    });
    broker.recall_completed();
    broker.expect_adoptable();
    broker.take_all_restored();
    broker.restore_outputs();
    broker.retain_all(&imsup_exe, follows)?;
    if !is_written {
        broker.remember();
    }
    broker.join_networks();
    broker.write_hosts_file();
    broker.report_unseen_ends(&last);

    let told = parking_lot::Mutex::new(notifier.clone());
    let on_lookup = Arc::new(move |address, by| {
        if let Some(place) = planes.place(address) {
            let index = place.index;
            told.lock().tell(LoopMessage::Lookup { index, by });
        }
    });
    let server = NameServer::start(&broker.claim.sockets, names, resolv_conf, on_lookup)
        .map_err(system("the name server's thread"))?;
    broker.resolvers.serve_by(server.handle());
    broker.resolvers.restore(&mut broker.sockets.store);
    let relay = match published_listeners.is_empty() {
        true => None,
        false => {
            let strangers = notifier.clone();
            let on_stranger = move |uid, endpoint| strangers.tell(LoopMessage::Stranger { uid, endpoint });
            let vet = Vet::new(relay_trust, Box::new(on_stranger));
            let on_arrival = move |endpoint, by: SocketAddr| notifier.tell(LoopMessage::Published { endpoint, by });
            Some(
                Relay::start(published_listeners, limits.relayed, vet, Box::new(on_arrival))
                    .map_err(system("the relay's thread"))?,
            )
        }
    };

    let bounds = Bounds::start(&broker.paths, &broker.cluster).inspect_err(
        |error| tracing::warn!(%error, "the thread that bounds logs could not be started: they grow until 'down'"),
    );

    broker.sockets.store.drop_inherited();
    broker.watch_all();
    broker.wake_kept(follows.then_some(&*last));
    broker.await_first();
    broker.sockets.store.ready();
    on_ready();
    broker.prepare_soon();
    // Files removed before the watches existed.
    broker.restore_files();
    broker.serve(&mut poll).map_err(system("epoll_wait(2)"))?;
    if broker.is_handed_over() {
        // Everything stays, for the next broker.
        return Ok(Ended::HandedOver);
    }
    drop(relay);
    broker.resolvers.end();
    drop(server);
    broker.let_go();
    broker.remember_at_last();
    // Hosts of an earlier broker that are not in this broker's file.
    absent::end_adoptable(&broker.paths)?;
    absent::end_cgroups(&broker.cluster.project, &broker.paths);
    routes::release(&broker.paths)?;
    broker.launcher.finish();
    bounds.into_iter().for_each(Bounds::end);
    absent::remove_files(&broker.paths)?;
    broker.say_goodbye();
    Ok(Ended::Down)
}

/// Records the blocks and the indexes if they are new. False if another process holds the lock of
/// the file.
fn record_addresses(
    cluster: &Cluster,
    claim: &address_block::BlockClaim,
    indexes: &[Index],
    recorded: &mut Recorded,
    paths: &Paths,
) -> bool {
    let given: BTreeMap<String, u16> = cluster
        .hosts
        .iter()
        .zip(indexes)
        .map(|(host, index)| (host.name.to_string(), index.number()))
        .collect();
    let blocks = Some((claim.first, claim.count));
    if recorded.blocks == blocks && recorded.indexes == given {
        return true;
    }
    recorded.blocks = blocks;
    recorded.indexes = given;
    match projects::remember(&paths.projects(), &cluster.project, recorded, LOCK_TIMEOUT) {
        Ok(()) => true,
        Err(error @ ProjectsError::Locked { .. }) => {
            tracing::warn!("{error}. Until then the next `up` may give hosts other addresses");
            false
        }
        Err(error) => {
            tracing::warn!("{error}: hosts may have other addresses after the next `up`");
            true
        }
    }
}

/// A broker that `follows` a dead broker logs the error and goes on with the rest, as the dead
/// broker did: else no host of the project would be served.
fn tolerate<T: Default>(follows: bool, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
    match outcome {
        Err(error) if follows => {
            tracing::error!("{error}");
            Ok(T::default())
        }
        outcome => outcome,
    }
}

fn check_ports(cluster: &Cluster, recorded: &Recorded, limits: &limits::Limits) -> Result<(), BrokerError> {
    let declared: usize = cluster.hosts.iter().map(|host| host.expose.len()).sum();
    let learned: usize = recorded.learned.values().map(Vec::len).sum();
    // Without room for any socket, not all hosts could live, whatever the ports.
    let has_room = limits.sockets > 0 || cluster.hosts.is_empty();
    if has_room && (declared + learned) as u64 <= limits.sockets {
        return Ok(());
    }
    Err(BrokerError::TooManyPorts {
        ports: declared + learned,
        hosts: cluster.hosts.len(),
        limit: limits.sockets,
        descriptors: limits.descriptors,
    })
}

/// Reads the data of an earlier broker of this `up`: the hosts' accounts, and the last event of
/// each host.
fn read_back(paths: &Paths, hosts: &mut Hosts, up_us: u64) -> (History, Vec<(HostName, Summary)>) {
    let history = History::open(&paths.events(), history::FILE_BYTES, up_us).unwrap_or_else(|error| {
        let path = paths.events();
        tracing::warn!(
            "{}: {error}: what happens is not kept beyond this broker",
            path.display()
        );
        History::in_memory(up_us)
    });
    let mut last = Vec::new();
    for (name, summary) in history.ledger().iter() {
        last.push((name.clone(), summary.clone()));
        let Some(id) = hosts.named(name) else { continue };
        hosts[id].recall(&summary.account);
    }
    (history, last)
}

fn publish(
    cluster: &Cluster,
    planes: &Planes,
    hosts: &mut Hosts,
    store: &mut FdStore,
    follows: bool,
) -> Result<Vec<published::PublishedListener>, BrokerError> {
    let mut published_listeners = Vec::new();
    for id in hosts.ids().collect::<Vec<HostId>>() {
        let host = &mut hosts[id];
        let Some(spec) = host.spec(cluster) else { continue };
        for (place, publish) in spec.published.iter().enumerate() {
            let vip = planes.vip(host.index());
            let target = match publish.transport {
                imsup_wire::Transport::Tcp => Endpoint::tcp(vip, publish.port),
                imsup_wire::Transport::Udp => Endpoint::udp(vip, publish.port),
            };
            let what = What::Published { vip, place };
            let opened = published::open(publish, target, planes, store.take(what));
            let opened = opened.map_err(|source| BrokerError::Publish {
                host: spec.name.clone(),
                source,
            });
            for listener in tolerate(follows, opened)? {
                store.keep_copy(what, &listener.socket);
                host.publish(imsup_wire::PublishedPort {
                    machine: listener.machine,
                    endpoint: target,
                });
                published_listeners.push(listener);
            }
        }
    }
    Ok(published_listeners)
}

/// The store, with the descriptors of an earlier broker, and the keeper that holds the store.
fn store(
    cluster: &Cluster,
    successor: Option<Successor>,
    restored: Option<Restored>,
    limits: &limits::Limits,
    launcher: &mut dyn Launcher,
    registry: &mio::Registry,
) -> Result<FdStore, BrokerError> {
    let recipe = successor.map(|successor| Recipe {
        project: cluster.project.clone(),
        successor,
        descriptor_limit: limits.before,
    });
    let mut store = FdStore::new(recipe);
    if let Some(restored) = restored {
        store
            .restore(restored)
            .map_err(system("the connection to the keeper"))?;
    }
    match store.keep_cluster(cluster) {
        Ok(()) => drop(store.start(launcher, registry)),
        // RLIMIT_FSIZE counts for files of memory, too.
        Err(error) => store.give_up(&error),
    }
    Ok(store)
}
