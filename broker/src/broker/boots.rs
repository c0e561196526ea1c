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
use crate::launcher::{Launch, LaunchError, Launched, MAKING_TIMEOUT, Start};
use crate::tokens::Source;
use imsup_lifecycle::{Input, Want};

/// What a program may take to end that the file does not have.
pub(super) const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// And how it is asked to.
pub(super) const SIGTERM: i32 = 15;

/// How soon after the start the launcher gets ready for boots: `up` asks which hosts there are before that, and need not wait for it.
const PREPARE_AFTER: Duration = Duration::from_millis(5);

impl Broker {
    /// Has the launcher get ready for boots once whoever started the broker is likely to have its answers.
    pub(crate) fn prepare_soon(&mut self) {
        self.timers.after(PREPARE_AFTER, Timer::Prepare);
    }

    /// Starts a host's supervisor, which then connects.
    pub(super) fn boot(&mut self, id: HostId) {
        let boot = new_token();
        let mut instance = Instance {
            boot: Some(boot),
            launched: true,
            ..Instance::default()
        };
        match self.launch(id, boot, false) {
            None => return,
            Some(Ok(Start::Started(launched))) => {
                instance.supervisor = launched.pid;
                instance.ended = launched.ended;
            }
            Some(Ok(Start::Asked)) => {
                instance.asked = true;
                self.timers.after(MAKING_TIMEOUT, Timer::Nursery);
            }
            Some(Err(error)) => return self.not_launched(id, &error),
        }
        self.install(id, instance);
    }

    fn launch(&mut self, id: HostId, boot: u64, executed: bool) -> Option<Result<Start, LaunchError>> {
        let spec = self.hosts[id].spec(&self.cluster)?;
        let launch = Launch {
            project: &self.cluster.project,
            host: spec,
            boot,
            log: self.paths.log(spec.name.as_str()),
            executed,
        };
        Some(self.launcher.start(&launch))
    }

    fn not_launched(&mut self, id: HostId, error: &LaunchError) {
        let status = ExitStatus::NotExecuted(error.errno());
        let detail = Some(error.to_string());
        self.feed(id, Input::Ended { status, detail });
    }

    /// Hears of supervisors that were being made. Those that were not are executed.
    pub(super) fn take_made(&mut self) {
        for made in self.launcher.made() {
            let is_of = |id: &HostId| {
                let instance = self.hosts[*id].instance.as_deref();
                instance.is_some_and(|instance| instance.asked && instance.boot == Some(made.boot))
            };
            let id = self.hosts.ids().find(is_of);
            match (id, made.launched) {
                (Some(id), Some(launched)) => self.is_made(id, launched),
                (Some(id), None) => self.is_not_made(id),
                // Its boot is over, and it has not introduced itself.
                (None, Some(launched)) => {
                    if let Some(process) = launched.ended {
                        let _ = pidfd_send_signal(process, Signal::KILL);
                    }
                }
                (None, None) => {}
            }
        }
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

    /// The nursery has made none, or was replaced before it said so: whatever it may have made is not awaited any more.
    fn is_not_made(&mut self, id: HostId) {
        let Some(instance) = self.hosts[id].instance.as_deref_mut() else {
            return;
        };
        instance.asked = false;
        // It has introduced itself.
        if instance.supervisor.is_some() {
            return;
        }
        if instance.unwanted {
            return self.end(id);
        }
        let boot = new_token();
        instance.boot = Some(boot);
        match self.launch(id, boot, true) {
            Some(Ok(Start::Started(launched))) => self.note_supervisor(id, launched),
            Some(Err(error)) => {
                self.hosts[id].instance = None;
                self.not_launched(id, &error);
            }
            // Neither comes: it is declared, and executed.
            Some(Ok(Start::Asked)) | None => self.end(id),
        }
    }

    /// The process of a host's supervisor is known: by who made it, or by its connection if that is first.
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

    /// Boots what a host depends on whose boot has begun (`boot_dependencies`), also where that is just being ended. Nobody waits for it.
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

    /// Makes this the instance that runs the host, and watches for its end.
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
