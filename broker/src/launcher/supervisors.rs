//! The supervisors of instances, as processes of this machine.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use imsup_linux::cgroup_paths;
use imsup_wire::ExitStatus;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::process::{Signal, pidfd_send_signal};
use slotmap::SecondaryMap;

use super::leftovers::leads_session;
use super::{Leftovers, Pids, Standing, cgroups, child};
use crate::ids::InstanceId;
use crate::sockets::is_readable;
use crate::tokens::Source;

/// All supervisors whose instances have not been forgotten.
#[derive(Debug)]
pub(super) struct Supervisors {
    table: SecondaryMap<InstanceId, Supervisor>,
    registry: Registry,
    /// The directories of the cgroup that contains this process and the supervisors that this
    /// process starts.
    cgroups: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Supervisor {
    /// The token of the boot for which the supervisor is being made.
    asked: Option<u64>,
    pid: Option<u32>,
    /// The pidfd: readable when the process has ended. If there is none, the connection decides.
    process: Option<OwnedFd>,
    /// The end was told, or need not be told any more.
    has_ended: bool,
    /// The exit status, if the process was a child of this process.
    status: Option<ExitStatus>,
    /// The program's first process, by the supervisor's number.
    program: Option<u32>,
    /// The program's first process, if on this machine and the leader of a session.
    leader: Option<u32>,
    /// The directories of the supervisor's cgroup, if these may differ from those of this process.
    cgroups: Option<Vec<PathBuf>>,
}

impl Supervisor {
    fn find_leader(&mut self) {
        let supervisor = self.pid;
        let leads = |program: &u32| supervisor.is_some_and(|pid| leads_session(*program, pid));
        self.leader = self.program.filter(leads);
    }
}

impl Supervisors {
    /// None yet; ends will be events ([`Source::Ended`]).
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            table: SecondaryMap::new(),
            registry,
            cgroups: cgroups::directories_of("self"),
        }
    }

    /// The directories in which the known supervisors make cgroups.
    pub(super) fn cgroups(&self) -> Vec<PathBuf> {
        let theirs = self.table.values().filter_map(|supervisor| supervisor.cgroups.as_ref());
        self.cgroups.iter().chain(theirs.flatten()).cloned().collect()
    }

    /// A supervisor is being made for this boot, and for no earlier boot of the instance.
    pub(super) fn ask(&mut self, instance: InstanceId, boot: u64) {
        self.entry(instance).asked = Some(boot);
    }

    /// The instance for which a supervisor is being made by this token.
    pub(super) fn asked_for(&self, boot: u64) -> Option<InstanceId> {
        let mut all = self.table.iter();
        all.find(|(_, supervisor)| supervisor.asked == Some(boot))
            .map(|(instance, _)| instance)
    }

    /// The supervisor that was asked for is this child, which has ended already if there is a
    /// status. The process may be known by the supervisor's introduction.
    pub(super) fn made(&mut self, instance: InstanceId, pid: u32, status: Option<ExitStatus>) {
        let supervisor = self.entry(instance);
        supervisor.asked = None;
        supervisor.status = supervisor.status.or(status);
        if supervisor.pid.is_none() {
            self.note(instance, pid, status.is_none().then(|| child::open(pid)).flatten());
        }
    }

    /// The supervisor that was asked for is not awaited any more if its process is known by its
    /// introduction; false if the process is unknown.
    pub(super) fn is_made_already(&mut self, instance: InstanceId) -> bool {
        let supervisor = self.entry(instance);
        let is_known = supervisor.pid.is_some();
        if is_known {
            supervisor.asked = None;
        }
        is_known
    }

    /// See [`super::Launcher::adopt`].
    pub(super) fn adopt(&mut self, instance: InstanceId, pid: u32) -> Vec<PathBuf> {
        let supervisor = self.entry(instance);
        if supervisor.pid.is_some() {
            return Vec::new();
        }
        let is_asked = supervisor.asked.is_some();
        self.note(instance, pid, child::open(pid));
        if is_asked {
            return Vec::new();
        }
        let directories = cgroups::directories_of(&pid.to_string());
        let differ = directories.iter().any(|directory| !self.cgroups.contains(directory));
        self.entry(instance).cgroups = Some(directories.clone());
        if differ { directories } else { Vec::new() }
    }

    fn note(&mut self, instance: InstanceId, pid: u32, process: Option<OwnedFd>) {
        if let Some(process) = &process {
            let registered = self.registry.register(
                &mut SourceFd(&process.as_raw_fd()),
                Source::Ended(instance).into(),
                Interest::READABLE,
            );
            if let Err(error) = registered {
                tracing::error!(%error, "a supervisor's end cannot be watched");
            }
        }
        let supervisor = self.entry(instance);
        supervisor.pid = Some(pid);
        supervisor.process = process;
        supervisor.find_leader();
    }

    /// See [`super::Launcher::note_program`].
    pub(super) fn note_program(&mut self, instance: InstanceId, pid: u32) {
        let supervisor = self.entry(instance);
        supervisor.program = Some(pid);
        supervisor.find_leader();
    }

    /// See [`super::Launcher::process`].
    pub(super) fn process(&self, instance: InstanceId) -> Option<u32> {
        self.table.get(instance)?.pid
    }

    /// Whether a process is the supervisor of an instance.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.table.values().any(|known| known.pid == Some(pid))
    }

    /// See [`super::Launcher::standing`].
    pub(super) fn standing(&self, instance: InstanceId) -> Standing {
        match self.table.get(instance) {
            Some(Supervisor { process: Some(_), .. }) => Standing::Watched,
            Some(Supervisor {
                asked: Some(_),
                pid: None,
                ..
            }) => Standing::Starting,
            _ => Standing::Unknown,
        }
    }

    /// See [`super::Launcher::signal`].
    pub(super) fn signal(&self, instance: InstanceId, signal: Signal) {
        let process = self.table.get(instance).and_then(|known| known.process.as_ref());
        if let Some(process) = process {
            // It fails only if the process has ended.
            let _ = pidfd_send_signal(process, signal);
        }
    }

    /// A child of this process has ended.
    pub(super) fn reaped(&mut self, pid: u32, status: ExitStatus) {
        let of_it = self.table.values_mut().filter(|known| known.pid == Some(pid));
        of_it.for_each(|supervisor| supervisor.status = Some(status));
    }

    /// True if a supervisor has ended, and was not told of.
    pub(super) fn is_over(&self, instance: InstanceId) -> bool {
        let known = self.table.get(instance).filter(|known| !known.has_ended);
        known.is_some_and(|known| known.process.as_ref().is_some_and(is_readable))
    }

    /// The end is told, and is not watched for any more.
    pub(super) fn end(&mut self, instance: InstanceId) {
        let Some(supervisor) = self.table.get_mut(instance) else {
            return;
        };
        let was_over = std::mem::replace(&mut supervisor.has_ended, true);
        if let Some(process) = supervisor.process.as_ref().filter(|_| !was_over) {
            let _ = self.registry.deregister(&mut SourceFd(&process.as_raw_fd()));
        }
    }

    /// See [`super::Launcher::forget`].
    pub(super) fn forget(&mut self, instance: InstanceId) -> Option<ExitStatus> {
        self.end(instance);
        self.table.remove(instance)?.status
    }

    /// The processes by which the leftovers of an instance are recognized.
    pub(super) fn pids(&self, left: &Leftovers<'_>) -> Pids {
        let nothing = Supervisor::default();
        let known = self.table.get(left.instance).unwrap_or(&nothing);
        let number = known.pid.map(|pid| pid.to_string());
        let names = [Some(left.host.as_str()), number.as_deref()];
        let cgroups = known
            .cgroups
            .as_ref()
            .unwrap_or(&self.cgroups)
            .iter()
            .flat_map(|directory| {
                let names = names.into_iter().flatten();
                names.map(|host| directory.join(cgroup_paths::of_host(left.project, host)))
            });
        Pids {
            cgroups: cgroups.collect(),
            // A supervisor started by another process may lead a session with processes of others.
            supervisor: known.pid.filter(|_| left.boot.is_some()),
            program: known.leader,
            connected: left.connected.clone(),
        }
    }

    /// What is known of an instance's supervisor; nothing at first. Keys of instances are never
    /// used again, so an entry is never that of another instance.
    fn entry(&mut self, instance: InstanceId) -> &mut Supervisor {
        let entry = self.table.entry(instance).expect("no instance is newer in its slot");
        entry.or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use mio::{Events, Poll};
    use slotmap::SlotMap;

    use super::*;

    struct World {
        poll: Poll,
        supervisors: Supervisors,
        keys: SlotMap<InstanceId, ()>,
    }

    impl World {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let registry = poll.registry().try_clone().unwrap();
            Self {
                poll,
                supervisors: Supervisors::new(registry),
                keys: SlotMap::with_key(),
            }
        }

        /// A child that ends with its standard input.
        fn child() -> Child {
            Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
        }

        /// The next event.
        fn event(&mut self) -> Option<Source> {
            let mut events = Events::with_capacity(1);
            while events.is_empty() {
                self.poll.poll(&mut events, None).unwrap();
            }
            events.iter().next().and_then(|event| Source::of(event.token()))
        }
    }

    #[test]
    fn a_supervisor_is_made_and_watched_and_its_end_is_told_once() {
        let mut world = World::new();
        let instance = world.keys.insert(());
        assert_eq!(world.supervisors.standing(instance), Standing::Unknown);
        world.supervisors.ask(instance, 1);
        assert_eq!(world.supervisors.standing(instance), Standing::Starting);
        assert_eq!(world.supervisors.asked_for(1), Some(instance));

        let mut child = World::child();
        world.supervisors.made(instance, child.id(), None);
        assert_eq!(world.supervisors.standing(instance), Standing::Watched);
        assert_eq!(world.supervisors.asked_for(1), None);
        assert!(!world.supervisors.is_over(instance));

        drop(child.stdin.take());
        assert_eq!(world.event(), Some(Source::Ended(instance)));
        assert!(world.supervisors.is_over(instance));
        world.supervisors.end(instance);
        assert!(!world.supervisors.is_over(instance), "it was told");
        world.supervisors.reaped(child.id(), ExitStatus::Code(0));
        assert_eq!(world.supervisors.forget(instance), Some(ExitStatus::Code(0)));
        assert_eq!(world.supervisors.standing(instance), Standing::Unknown);
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn one_that_had_ended_when_it_was_told_of_is_not_watched() {
        let mut world = World::new();
        let instance = world.keys.insert(());
        world.supervisors.ask(instance, 1);
        // The number may be another process's by now.
        world
            .supervisors
            .made(instance, std::process::id(), Some(ExitStatus::Code(1)));
        assert_eq!(world.supervisors.standing(instance), Standing::Unknown);
        assert_eq!(world.supervisors.forget(instance), Some(ExitStatus::Code(1)));
    }

    #[test]
    fn one_that_has_introduced_itself_is_awaited_no_more() {
        let mut world = World::new();
        let instance = world.keys.insert(());
        world.supervisors.ask(instance, 1);
        assert!(!world.supervisors.is_made_already(instance));
        let mut child = World::child();
        assert_eq!(world.supervisors.adopt(instance, child.id()), Vec::<PathBuf>::new());
        assert!(world.supervisors.is_made_already(instance));
        assert_eq!(world.supervisors.asked_for(1), None);

        world.supervisors.signal(instance, Signal::KILL);
        assert_eq!(world.event(), Some(Source::Ended(instance)));
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn the_instance_that_has_taken_a_slot_is_not_signalled_for_the_one_before() {
        let mut world = World::new();
        let gone = world.keys.insert(());
        world.supervisors.ask(gone, 1);
        world.supervisors.forget(gone);
        world.keys.remove(gone);
        let instance = world.keys.insert(());
        let mut child = World::child();
        world.supervisors.adopt(instance, child.id());
        world.supervisors.signal(gone, Signal::KILL);
        assert_eq!(world.supervisors.standing(gone), Standing::Unknown);
        assert_eq!(world.supervisors.forget(gone), None);
        assert_eq!(world.supervisors.process(instance), Some(child.id()));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
