//! Starting hosts, and noticing that they have ended.

use std::os::fd::AsRawFd;
use std::time::Duration;

use imsup_linux::cgroup_paths;
use imsup_protocol::channel::ChannelError;
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::{Cause, CauseKind, ExitStatus};
use mio::Interest;
use mio::unix::SourceFd;
use rustix::process::{Signal, pidfd_send_signal};

use super::Broker;
use super::timers::Timer;
use crate::hosts::Instance;
use crate::ids::{HostId, SessionId};
use crate::launcher::{Launch, LaunchError, Launched, MAKING_TIMEOUT, Pids, Start};
use crate::notices::Notice;
use crate::sessions::Sent;
use crate::tokens::Source;
use imsup_lifecycle::{Input, Want};

/// What a supervisor may take beyond the program's own grace.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(2);

/// What a program may take to end that the file does not have.
pub(super) const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// And how it is asked to.
pub(super) const SIGTERM: i32 = 15;

impl Broker {
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

    /// Ends a host's program, by its supervisor.
    pub(super) fn stop(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let (signal, grace) = host
            .spec(&self.cluster)
            .map_or((SIGTERM, DEFAULT_GRACE), |spec| (spec.stop_signal, spec.stop_grace));
        let Some(instance) = host.instance.as_deref() else {
            return;
        };
        let serial = instance.serial;
        let told = instance
            .session
            .and_then(|session| self.sessions.get_mut(session))
            .is_some_and(|session| session.send(&ToSupervisor::Stop { signal, grace }, Vec::new()) != Sent::CutOff);
        if told {
            self.timers.after(grace + SUPERVISOR_GRACE, Timer::Kill(id, serial));
        } else if let Some(ended) = instance.ended.as_ref().filter(|_| instance.launched) {
            // It has not introduced itself: it has started nothing yet, or belongs to a broker that is gone.
            let _ = pidfd_send_signal(ended, Signal::TERM);
            self.timers.after(grace + SUPERVISOR_GRACE, Timer::Kill(id, serial));
        } else if instance.asked && instance.supervisor.is_none() {
            // It is told once it is there.
            if let Some(instance) = self.hosts[id].instance.as_deref_mut() {
                instance.unwanted = true;
            }
            self.timers.after(grace + SUPERVISOR_GRACE, Timer::Kill(id, serial));
        } else {
            // Somebody else's process, which has hung up: it is no longer the host's, and is left alone.
            match instance.session {
                Some(session) => self.hang_up(session),
                None => self.end(id),
            }
        }
    }

    /// Kills this supervisor, if it still runs; the end is then noticed like any other.
    pub(super) fn kill(&mut self, id: HostId, serial: u64) {
        let Some(instance) = self.hosts.get(id).and_then(|host| host.instance.as_deref()) else {
            return;
        };
        if instance.serial != serial || instance.clearing {
            return;
        }
        match &instance.ended {
            Some(ended) if instance.launched || instance.session.is_some() => {
                let _ = pidfd_send_signal(ended, Signal::KILL);
            }
            // Nothing but its connection is known of it, or somebody else's process has hung up and lives on.
            _ => match instance.session {
                Some(session) => self.hang_up(session),
                None => self.end(id),
            },
        }
    }

    /// Collects children that have ended.
    pub(super) fn reap(&mut self) {
        for (pid, status) in self.launcher.reap() {
            for id in self.hosts.ids().collect::<Vec<_>>() {
                if let Some(instance) = self.hosts[id].instance.as_deref_mut()
                    && instance.supervisor == Some(pid)
                {
                    instance.supervisor_status = Some(status);
                }
            }
        }
    }

    /// The supervisor's process has ended. What it said last is still to be heard.
    pub(super) fn supervisor_ended(&mut self, id: HostId) {
        let Some(instance) = self.hosts.get(id).and_then(|host| host.instance.as_deref()) else {
            return;
        };
        // The event may be of an earlier one.
        if instance.clearing || !instance.ended.as_ref().is_some_and(crate::sockets::is_readable) {
            return;
        }
        self.reap();
        if let Some(session) = self.hosts[id].instance.as_deref().and_then(|instance| instance.session) {
            self.hear_out(session);
        }
        // Its last words may have been its end already.
        if self.hosts.get(id).is_some() {
            self.instance_over(id);
        }
    }

    /// Takes what a connection still holds, then closes it.
    fn hear_out(&mut self, session: SessionId) {
        while let Some(open) = self.sessions.get_mut(session) {
            match open.channel.receive::<ToBroker>() {
                Ok(Some(message)) => self.hear(session, message),
                Ok(None) | Err(ChannelError::Closed | ChannelError::Io(_)) => break,
                Err(error) => {
                    tracing::warn!(%error, "a supervisor's last words are unintelligible");
                    break;
                }
            }
        }
        self.sessions.remove(session, &self.registry);
        self.forget_waits(session);
    }

    /// A connection of a host's program has ended.
    pub(super) fn program_hung_up(&mut self, id: HostId) {
        let Some(instance) = self.hosts[id].instance.as_deref_mut() else {
            return;
        };
        instance.session = None;
        let serial = instance.serial;
        match &instance.ended {
            None => self.instance_over(id),
            // Without it the host cannot be told anything. It is dying anyway, or it is broken.
            Some(ended) if instance.launched && instance.exited.is_none() => {
                let _ = pidfd_send_signal(ended, Signal::KILL);
            }
            Some(_) if self.lifetime.is_going_down() && !instance.launched => self.end(id),
            // A process lets go of its files a moment before it is gone.
            Some(_) => self.timers.after(SUPERVISOR_GRACE, Timer::Kill(id, serial)),
        }
    }

    /// The one place where an instance's end is decided.
    fn instance_over(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        let Some(instance) = host.instance.as_deref_mut() else {
            return;
        };
        if let Some(ended) = &instance.ended {
            let _ = self.registry.deregister(&mut SourceFd(&ended.as_raw_fd()));
        }
        if instance.exited.is_some() {
            self.end(id);
            return;
        }
        // Nobody has seen the program end: it may still run, with the host's ports.
        instance.clearing = true;
        let (serial, boot) = (instance.serial, instance.boot);
        let directories = instance.cgroups.as_ref().unwrap_or(&self.cgroups).clone();
        let number = instance.supervisor.map(|pid| pid.to_string());
        let (supervisor, program) = (instance.supervisor, instance.leader);
        let name = self.hosts[id].name(&self.cluster).clone();
        let names = [Some(name.as_str()), number.as_deref()];
        let cgroups = directories.iter().flat_map(|directory| {
            let names = names.into_iter().flatten();
            names.map(|host| directory.join(cgroup_paths::of_host(&self.cluster.project, host)))
        });
        let pids = Pids {
            cgroups: cgroups.collect(),
            // One that somebody else started may lead a session with more in it than the host.
            supervisor: supervisor.filter(|_| boot.is_some()),
            program,
            connected: self.sessions.iter().filter_map(|(_, session)| session.pid).collect(),
        };
        let notifier = self.notices.notifier().clone();
        let done = move || notifier.tell(Notice::Cleared { host: id, serial });
        self.launcher.clear(&name, boot, pids, Box::new(done));
    }

    /// What this supervisor left is gone.
    pub(super) fn cleared(&mut self, id: HostId, serial: u64) {
        let instance = self.hosts.get(id).and_then(|host| host.instance.as_deref());
        if instance.is_some_and(|instance| instance.clearing && instance.serial == serial) {
            self.end(id);
        }
    }

    fn end(&mut self, id: HostId) {
        self.record_wake(id);
        let Some(instance) = self.hosts[id].instance.take() else {
            return;
        };
        let status = instance.exited.unwrap_or(ExitStatus::Lost);
        let detail = match (instance.exited, instance.supervisor_status, instance.program) {
            // It never got as far as the program: its own words are in the log.
            (None, Some(ended @ ExitStatus::Code(_)), None) => Some(format!(
                "its supervisor {ended}; see {}",
                self.paths.log(self.hosts[id].name(&self.cluster).as_str()).display()
            )),
            (Some(ended @ ExitStatus::NotExecuted(_)), _, _) => self.hosts[id]
                .command(&self.cluster)
                .first()
                .map(|program| format!("'{program}' {ended}")),
            _ => None,
        };
        if let Some(session) = instance.session {
            self.sessions.remove(session, &self.registry);
            self.forget_waits(session);
        }
        self.feed(id, Input::Ended { status, detail });
    }
}

/// A number that no other boot has, on this machine or after a restart.
fn new_token() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys this hasher at random.
    let token = std::hash::RandomState::new().build_hasher().finish();
    token.max(1)
}
