//! The broker's lives of hosts, with a launcher that does what a test says.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use imsup_lifecycle::{Input, Want};
use imsup_wire::{CauseKind, HostState, Index};
use mio::Waker;
use parking_lot::RwLock;
use rustix::process::Signal;

use super::power::asked_by;
use super::*;
use crate::history::History;
use crate::hosts::{Host, Instance};
use crate::ids::{HostId, InstanceId};
use crate::keeper::FdStore;
use crate::launcher::double::{Call, LauncherDouble};
use crate::launcher::{LaunchError, LaunchEvent};
use crate::names::Names;
use crate::project_files;
use crate::project_lock::ProjectLock;
use crate::projects::Recorded;
use crate::testing::{cluster, host, planes_for_tests};
use crate::trust::Trust;

/// A broker of one host, `web`, without ports.
struct World {
    broker: Broker,
    launcher: LauncherDouble,
    web: HostId,
    _poll: Poll,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().to_owned();
        let paths = Paths::new("lives", 1, |_| Some(base.clone()), |_| true);
        let lock = ProjectLock::take("lives", &paths, false).unwrap();
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let cluster = cluster("lives", vec![host("web")]);
        let indexes = [Index::new(1).unwrap()];
        let planes = planes_for_tests();
        let clock = Clock::open(&paths.up());
        let hosts = Hosts::new(&cluster, &indexes, clock.now_us());
        let web = hosts.named(&"web".parse().unwrap()).unwrap();
        let history = History::in_memory(clock.up_us());
        let waker = Waker::new(&registry, Source::LoopMessages.into()).unwrap();
        let launcher = LauncherDouble::default();
        let trust = Arc::new(RwLock::new(Trust::of(&cluster, &BTreeSet::new())));
        let broker = Broker::new(Parts {
            planes,
            limits: Limits {
                sockets: 16,
                relayed: 0,
                descriptors: 1024,
                before: None,
                somaxconn: 16,
            },
            claim: BlockClaim::default(),
            journal: Journal::new(history, None, None, |name| hosts.named(name)),
            hosts,
            sessions: Sessions::new(project_files::listen(&paths, &registry).unwrap()),
            sockets: Sockets::new(FdStore::new(None)),
            launcher: Box::new(launcher.clone()),
            record: ProjectRecord::new(Recorded::default()),
            names: Arc::new(RwLock::new(Names::new(&cluster, planes, &indexes))),
            files: ProjectFiles::new(lock, &paths, &registry).unwrap(),
            signals: Signals::none(&registry).unwrap(),
            messages: LoopMessages::new(waker),
            leases: Leases::open(paths.leases(), &clock),
            clock,
            lifetime: Lifetime::new(false),
            strangers: Strangers::new(trust),
            networks: SharedNetworks::new(&cluster, &planes, &indexes, &paths),
            registry,
            cluster,
            paths,
        });
        Self {
            broker,
            launcher,
            web,
            _poll: poll,
            _directory: directory,
        }
    }

    fn host(&self) -> &Host {
        &self.broker.hosts[self.web]
    }

    fn state(&self) -> HostState {
        self.host().life().state()
    }

    /// Boots the host; the instance that is to run it.
    fn boot(&mut self) -> InstanceId {
        let cause = asked_by(CauseKind::Wake, "me");
        let waiter = self.broker.lives.unheard_waiter();
        let want = Want::Ready;
        self.broker.feed(self.web, Input::Wait { waiter, want, cause });
        assert_eq!(self.launcher.calls(), [Call::Start("web".to_owned(), false)]);
        self.host().instance().map(Instance::id).expect("an instance")
    }

    fn happens(&mut self, instance: InstanceId, event: LaunchEvent) {
        self.launcher.happens(instance, event);
        self.broker.take_outcomes();
    }

    fn fail(&mut self, instance: InstanceId) {
        let source = io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
        let path = PathBuf::from("/nowhere");
        self.happens(
            instance,
            LaunchEvent::Failed(LaunchError::WorkingDirectory { path, source }),
        );
    }
}

#[test]
fn a_boot_that_fails_says_why_and_leaves_nothing() {
    let mut world = World::new();
    let instance = world.boot();
    world.fail(instance);
    assert_eq!(world.state(), HostState::Failed);
    let detail = world.host().life().detail().expect("a reason");
    assert!(detail.contains("/nowhere"), "{detail}");
    assert!(world.host().instance().is_none());
    assert_eq!(world.launcher.calls(), [Call::Forget(instance)]);
}

#[test]
fn a_host_that_is_stopped_while_it_boots_is_ended_once_its_supervisor_is_there() {
    let mut world = World::new();
    let instance = world.boot();
    world.broker.feed(world.web, Input::Stop);
    assert_eq!(world.launcher.calls(), [], "nothing can be signalled yet");
    world.happens(instance, LaunchEvent::Started);
    assert_eq!(world.launcher.calls(), [Call::Signal(instance, Signal::TERM)]);
    world.happens(instance, LaunchEvent::Ended);
    assert_eq!(world.launcher.calls(), [Call::Clear(instance)]);
    assert!(world.host().instance().is_some(), "leftovers may have its ports");
    world.launcher.clears();
    world.broker.take_loop_messages();
    assert_eq!(world.state(), HostState::Imaginary);
    assert_eq!(world.launcher.calls(), [Call::Forget(instance)]);
}

#[test]
fn an_outcome_of_an_earlier_instance_is_not_taken_for_one_of_the_next() {
    let mut world = World::new();
    let first = world.boot();
    world.fail(first);
    world.launcher.calls();
    let second = world.boot();
    assert_ne!(first, second);
    world.happens(first, LaunchEvent::Ended);
    world.happens(first, LaunchEvent::Unanswered);
    world.broker.cleared(first);
    world.broker.kill(first);
    assert_eq!(world.launcher.calls(), []);
    assert_eq!(world.host().instance().map(Instance::id), Some(second));
    assert_eq!(world.state(), HostState::Booting);
}

#[test]
fn a_boot_without_a_reply_goes_on_under_another_token_unless_it_is_called_off() {
    let mut world = World::new();
    let instance = world.boot();
    world.happens(instance, LaunchEvent::Unanswered);
    assert_eq!(world.launcher.calls(), [Call::Start("web".to_owned(), true)]);
    let boots = world.launcher.boots();
    assert_eq!(boots.len(), 2);
    let is_awaited = |boot: &u64| world.host().instance().is_some_and(|instance| instance.awaits(*boot));
    assert_eq!(boots.iter().map(is_awaited).collect::<Vec<_>>(), [false, true]);
    world.broker.feed(world.web, Input::Stop);
    world.happens(instance, LaunchEvent::Unanswered);
    assert_eq!(world.launcher.calls(), [Call::Forget(instance)]);
    assert_eq!(world.state(), HostState::Imaginary);
}

#[test]
fn a_supervisor_that_outlives_its_grace_is_killed_until_its_end_is_known() {
    let mut world = World::new();
    let instance = world.boot();
    world.happens(instance, LaunchEvent::Started);
    world.broker.kill(instance);
    assert_eq!(world.launcher.calls(), [Call::Signal(instance, Signal::KILL)]);
    world.happens(instance, LaunchEvent::Ended);
    world.happens(instance, LaunchEvent::Ended);
    world.broker.kill(instance);
    assert_eq!(world.launcher.calls(), [Call::Clear(instance)], "once");
    world.launcher.clears();
    world.broker.take_loop_messages();
    assert_eq!(world.state(), HostState::Failed);
}
