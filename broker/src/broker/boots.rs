//! Starting hosts.

use std::os::fd::AsRawFd;
use std::time::Duration;

use imsup_wire::{Cause, CauseKind, ExitStatus};
use mio::Interest;
use mio::unix::SourceFd;
use rustix::process::{Signal, pidfd_send_signal};

use super::Broker;
use super::timers::Timer;
use crate::hosts::Instance;
use crate::ids::HostId;
use crate::launcher::{Launch, LaunchError, LaunchResult, Launched, Outcome};
use crate::tokens::Source;
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

    /// Starts a host's supervisor, which then connects.
    pub(super) fn boot(&mut self, id: HostId) {
        let boot = new_token();
        let instance = Instance {
            boot: Some(boot),
            launched: true,
            asked: true,
            ..Instance::default()
        };
        if self.launch(id, boot, false) {
            self.install(id, instance);
            self.take_outcomes();
        }
    }

    /// False if the host is not declared: nothing can be started for it.
    fn launch(&mut self, id: HostId, boot: u64, again: bool) -> bool {
        let Some(spec) = self.hosts[id].spec(&self.cluster) else {
            return false;
        };
        self.launcher.start(&Launch {
            project: &self.cluster.project,
            host: &spec.name,
            program: &spec.program,
            boot,
            log: self.paths.log(spec.name.as_str()),
            again,
        });
        true
    }

    /// Hears what has become of launches.
    pub(super) fn take_outcomes(&mut self) {
        for Outcome { boot, result } in self.launcher.outcomes() {
            let is_of = |id: &HostId| {
                let instance = self.hosts[*id].instance.as_deref();
                instance.is_some_and(|instance| instance.asked && instance.boot == Some(boot))
            };
            let id = self.hosts.ids().find(is_of);
            match (id, result) {
                (Some(id), LaunchResult::Started(launched)) => self.is_made(id, launched),
                (Some(id), LaunchResult::Unanswered) => self.launch_again(id),
                (Some(id), LaunchResult::Failed(error)) => self.not_launched(id, &error),
                // The boot is over, and the supervisor has not introduced itself.
                (None, LaunchResult::Started(launched)) => {
                    if let Some(process) = launched.ended {
                        let _ = pidfd_send_signal(process, Signal::KILL);
                    }
                }
                (None, LaunchResult::Unanswered | LaunchResult::Failed(_)) => {}
            }
        }
        if let Some(time) = self.launcher.due() {
            self.timers.after(time, Timer::Launcher);
        }
    }

    fn not_launched(&mut self, id: HostId, error: &LaunchError) {
        self.hosts[id].instance = None;
        let status = ExitStatus::NotExecuted(error.errno());
        let detail = Some(error.to_string());
        self.feed(id, Input::Ended { status, detail });
    }

    fn is_made(&mut self, id: HostId, launched: Launched) {
        let Some(instance) = self.hosts[id].instance.as_deref_mut() else {
            return;
        };
        instance.asked = false;
        instance.supervisor_status = instance.supervisor_status.or(launched.status);
        let is_over = launched.status.is_some() && !instance.clearing;
        self.note_supervisor(id, launched);
        if is_over {
            self.instance_over(id);
        }
    }

    /// There is no supervisor in time. One that comes late is not awaited any more: the boot gets
    /// another token.
    fn launch_again(&mut self, id: HostId) {
        let Some(instance) = self.hosts[id].instance.as_deref_mut() else {
            return;
        };
        // The supervisor has introduced itself.
        if instance.supervisor.is_some() {
            instance.asked = false;
            return;
        }
        if instance.unwanted {
            return self.end(id);
        }
        let boot = new_token();
        instance.boot = Some(boot);
        if self.launch(id, boot, true) {
            self.take_outcomes();
        } else {
            self.end(id);
        }
    }

    /// The process of a host's supervisor is known: from its maker, or from the connection if that
    /// came first.
    pub(super) fn note_supervisor(&mut self, id: HostId, launched: Launched) {
        let Some(instance) = self.hosts[id].instance.as_deref_mut() else {
            return;
        };
        if instance.supervisor.is_some() {
            return;
        }
        instance.supervisor = launched.pid;
        instance.ended = launched.ended;
        instance.find_leader();
        let unwanted = instance.unwanted;
        self.watch_end(id);
        if unwanted {
            self.stop(id);
        }
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

    /// Makes this the instance that runs the host, and watches for the instance's end.
    pub(super) fn install(&mut self, id: HostId, mut instance: Instance) {
        self.stop_groups.leave(id);
        instance.find_leader();
        self.hosts.install(id, instance);
        self.watch_end(id);
    }

    fn watch_end(&self, id: HostId) {
        let instance = self.hosts[id].instance.as_deref();
        if let Some(ended) = instance.and_then(|instance| instance.ended.as_ref()) {
            let registered = self.registry.register(
                &mut SourceFd(&ended.as_raw_fd()),
                Source::Ended(id).into(),
                Interest::READABLE,
            );
            if let Err(error) = registered {
                tracing::error!(%error, "a supervisor's end cannot be watched");
            }
        }
    }
}

/// A number that no other boot has, on this machine or after a restart.
fn new_token() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys this hasher at random.
    let token = std::hash::RandomState::new().build_hasher().finish();
    token.max(1)
}
