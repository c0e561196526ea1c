//! Starting hosts.

use std::time::Duration;

use imsup_wire::{Cause, CauseKind, ExitStatus};

use super::Broker;
use super::timers::Timer;
use crate::absent;
use crate::hosts::Instance;
use crate::ids::{HostId, InstanceId};
use crate::launcher::{Launch, LaunchError, LaunchEvent, Outcome};
use imsup_lifecycle::{Input, Want};

/// How soon after the start the launcher gets ready for boots: `up` asks which hosts there are
/// before that, and need not wait for it.
const PREPARE_AFTER: Duration = Duration::from_millis(5);

impl Broker {
    /// Has the launcher get ready for boots once whoever started the broker is likely to have its
    /// answers.
    pub(crate) fn prepare_soon(&mut self) {
        self.timers.after(PREPARE_AFTER, Timer::Prepare);
    }

    /// Starts a host's supervisor, which then connects, once the hosts that it needs are ready.
    pub(super) fn boot(&mut self, id: HostId) {
        // What comes while this broker makes way is for the next one.
        if self.lifetime.is_handed_over() {
            return;
        }
        if self.is_declared(id) && !self.holds_back(id) {
            self.launch_now(id);
        }
    }

    /// Starts a host's supervisor, whatever the host needs.
    pub(super) fn launch_now(&mut self, id: HostId) {
        let boot = new_token();
        let instance = self.install(id, Instance::launched(boot), None);
        self.launch(id, instance, boot, false);
        self.take_outcomes();
    }

    /// Nothing can be started for a host that is not declared.
    fn launch(&mut self, id: HostId, instance: InstanceId, boot: u64, again: bool) {
        let output = self.output(id);
        let Some(spec) = self.hosts[id].spec(&self.cluster) else {
            return;
        };
        self.launcher.start(&Launch {
            project: &self.cluster.project,
            host: &spec.name,
            program: &spec.program,
            instance,
            boot,
            log: self.paths.log(spec.name.as_str()),
            output: output.as_ref(),
            again,
        });
    }

    /// Hears what has happened to supervisors.
    pub(super) fn take_outcomes(&mut self) {
        for Outcome { instance, event } in self.launcher.outcomes() {
            let Some(id) = self.hosts.run_by(instance) else {
                continue;
            };
            match event {
                LaunchEvent::Started => self.is_made(id),
                LaunchEvent::Unanswered => self.launch_again(id),
                LaunchEvent::Failed(error) => self.not_launched(id, &error),
                LaunchEvent::Ended => self.supervisor_ended(id),
            }
        }
        if let Some(time) = self.launcher.due() {
            self.timers.after(time, Timer::Launcher);
        }
    }

    /// An event says that the supervisor of an instance may have ended.
    pub(super) fn look_at(&mut self, instance: InstanceId) {
        self.launcher.look_at(instance);
        self.take_outcomes();
    }

    fn not_launched(&mut self, id: HostId, error: &LaunchError) {
        self.take_instance(id);
        let status = ExitStatus::NotExecuted(error.errno());
        let detail = Some(error.to_string());
        self.feed(id, Input::Ended { status, detail });
    }

    fn is_made(&mut self, id: HostId) {
        let instance = self.hosts[id].instance();
        if instance.is_some_and(Instance::is_called_off) {
            self.stop(id);
        }
    }

    /// There is no supervisor in time. One that comes late is not awaited any more: the boot gets
    /// another token.
    fn launch_again(&mut self, id: HostId) {
        let Some(instance) = self.hosts[id].instance_mut() else {
            return;
        };
        if instance.is_called_off() {
            return self.end(id);
        }
        let (key, boot) = (instance.id(), new_token());
        instance.boot_again(boot);
        self.launch(id, key, boot, true);
        self.take_outcomes();
    }

    /// Boots the dependencies of a host whose boot has begun (`boot_dependencies`), even if a
    /// dependency is just being ended. No caller waits for the dependency.
    pub(super) fn boot_dependencies(&mut self, id: HostId) {
        let Some(spec) = self.hosts[id].spec(&self.cluster) else {
            return;
        };
        let dependencies: Vec<HostId> = spec
            .dependencies
            .iter()
            .filter_map(|name| self.hosts.named(name))
            .collect();
        let by = spec.name.to_string();
        for dependency in dependencies {
            let cause = Cause {
                kind: CauseKind::Dependency,
                by: Some(by.clone()),
                port: None,
            };
            let waiter = self.lives.unheard_waiter();
            let want = Want::Ready;
            self.feed(dependency, Input::Wait { waiter, want, cause });
        }
    }

    /// Makes this the instance that runs the host, under this process if one is known.
    pub(super) fn install(&mut self, id: HostId, instance: Instance, supervisor: Option<u32>) -> InstanceId {
        self.stop_groups.leave(id);
        let program = instance.program();
        self.take_instance(id);
        let instance = self.hosts.install(id, instance);
        if let Some(pid) = supervisor {
            self.adopt_process(instance, pid);
        }
        if let Some(pid) = program {
            self.launcher.note_program(instance, pid);
        }
        instance
    }

    /// The process of an instance's supervisor is known from its connection or its file.
    pub(super) fn adopt_process(&mut self, instance: InstanceId, pid: u32) {
        let directories = self.launcher.adopt(instance, pid);
        if !directories.is_empty() {
            absent::note_cgroups(&self.paths, &directories);
        }
    }

    /// The instance that runs a host is over, or replaced. Returns the exit status of the
    /// supervisor with it, if that is known.
    pub(super) fn take_instance(&mut self, id: HostId) -> Option<(Box<Instance>, Option<ExitStatus>)> {
        let instance = self.hosts.take_instance(id)?;
        let status = self.launcher.forget(instance.id());
        Some((instance, status))
    }
}

/// A number that no other boot has, on this machine or after a restart.
fn new_token() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys this hasher at random.
    let token = std::hash::RandomState::new().build_hasher().finish();
    token.max(1)
}
