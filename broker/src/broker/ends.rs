//! Ending hosts, and noticing the ends of hosts.

use std::os::fd::AsRawFd;
use std::time::Duration;

use imsup_lifecycle::Input;
use imsup_linux::cgroup_paths;
use imsup_protocol::channel::ChannelError;
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::ExitStatus;
use imsup_wire::program::{DEFAULT_STOP_GRACE, DEFAULT_STOP_SIGNAL};
use mio::unix::SourceFd;
use rustix::process::{Signal, pidfd_send_signal};

use super::Broker;
use super::timers::Timer;
use crate::hosts::Instance;
use crate::ids::{HostId, SessionId};
use crate::launcher::Pids;
use crate::loop_messages::LoopMessage;
use crate::sessions::Sent;

/// The grace period of a supervisor beyond the grace period of the program.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(2);

/// How a program is ended. A program that outlives the grace period is killed, unless left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The supervisor was told, and ends the program.
    Notified,
    /// The supervisor is sent SIGTERM. A supervisor that has not introduced itself has started no
    /// program yet, or belongs to a broker that is gone.
    Terminate,
    /// The supervisor is being made, and is told once there.
    Later,
    /// The supervisor is another's process and has hung up. The process is no longer the host's,
    /// and is left alone.
    LeaveAlone(Option<SessionId>),
}

fn how_to_stop(instance: &Instance, is_notified: bool) -> Stop {
    if is_notified {
        Stop::Notified
    } else if instance.launched && instance.ended.is_some() {
        Stop::Terminate
    } else if instance.asked && instance.supervisor.is_none() {
        Stop::Later
    } else {
        Stop::LeaveAlone(instance.session)
    }
}

/// The treatment of a supervisor that has outlived the grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// No action: another supervisor is there by now, or the broker cleans up already.
    Nothing,
    /// The supervisor is sent SIGKILL; the end is then noticed like any other.
    Signal,
    /// Only the connection is known of the supervisor; or the supervisor is another's process that
    /// has hung up and lives on.
    LeaveAlone(Option<SessionId>),
}

fn how_to_kill(instance: &Instance, serial: u64) -> Kill {
    if instance.serial != serial || instance.clearing {
        Kill::Nothing
    } else if instance.ended.is_some() && (instance.launched || instance.session.is_some()) {
        Kill::Signal
    } else {
        Kill::LeaveAlone(instance.session)
    }
}

/// The treatment of a supervisor after the end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HungUp {
    /// The end of the connection is the only sign of the supervisor's end.
    Over,
    /// The supervisor is killed: without the connection the host can get no orders. The supervisor
    /// is dying anyway, or is broken.
    Kill,
    /// The supervisor is another's process, and the broker does not wait for its end.
    End,
    /// The broker waits for the end: a process closes its files a moment before the process is
    /// gone.
    Wait,
}

fn after_hang_up(instance: &Instance, is_going_down: bool) -> HungUp {
    match instance.launched {
        _ if instance.ended.is_none() => HungUp::Over,
        true if instance.exited.is_none() => HungUp::Kill,
        false if is_going_down => HungUp::End,
        _ => HungUp::Wait,
    }
}

/// Sends a signal to a supervisor whose process is known.
fn send(instance: &Instance, signal: Signal) {
    if let Some(ended) = &instance.ended {
        // The kill fails only if the process has ended.
        let _ = pidfd_send_signal(ended, signal);
    }
}

impl Broker {
    /// Ends a host's program through the supervisor.
    pub(super) fn stop(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        let (signal, grace) = host
            .spec(&self.cluster)
            .map_or((DEFAULT_STOP_SIGNAL, DEFAULT_STOP_GRACE), |spec| {
                (spec.program.stop_signal, spec.program.stop_grace)
            });
        let Some(instance) = host.instance.as_deref_mut() else {
            return;
        };
        let is_notified = instance
            .session
            .and_then(|session| self.sessions.get_mut(session))
            .is_some_and(|session| session.send(&ToSupervisor::Stop { signal, grace }, Vec::new()) != Sent::CutOff);
        match how_to_stop(instance, is_notified) {
            Stop::Notified => {}
            Stop::Terminate => send(instance, Signal::TERM),
            Stop::Later => instance.unwanted = true,
            Stop::LeaveAlone(session) => return self.leave_alone(id, session),
        }
        let timer = Timer::Kill(id, instance.serial);
        self.timers.after(grace + SUPERVISOR_GRACE, timer);
    }

    /// Kills this supervisor if still running; the end is then noticed as any other.
    pub(super) fn kill(&mut self, id: HostId, serial: u64) {
        let Some(instance) = self.hosts.get(id).and_then(|host| host.instance.as_deref()) else {
            return;
        };
        match how_to_kill(instance, serial) {
            Kill::Nothing => {}
            Kill::Signal => send(instance, Signal::KILL),
            Kill::LeaveAlone(session) => self.leave_alone(id, session),
        }
    }

    /// A process is no longer the host's.
    fn leave_alone(&mut self, id: HostId, session: Option<SessionId>) {
        match session {
            Some(session) => self.hang_up(session),
            None => self.end(id),
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

    /// The supervisor's process has ended. Its last messages are still to be read.
    pub(super) fn supervisor_ended(&mut self, id: HostId) {
        let Some(instance) = self.hosts.get(id).and_then(|host| host.instance.as_deref()) else {
            return;
        };
        // The event may belong to an earlier supervisor.
        if instance.clearing || !instance.ended.as_ref().is_some_and(crate::sockets::is_readable) {
            return;
        }
        self.reap();
        if let Some(session) = self.hosts[id].instance.as_deref().and_then(|instance| instance.session) {
            self.hear_out(session);
        }
        // The last messages may already have reported the end.
        if self.hosts.get(id).is_some() {
            self.instance_over(id);
        }
    }

    /// Reads the messages left in a connection, then closes the connection.
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
        match after_hang_up(instance, self.lifetime.is_going_down()) {
            HungUp::Over => self.instance_over(id),
            HungUp::Kill => send(instance, Signal::KILL),
            HungUp::End => self.end(id),
            HungUp::Wait => self.timers.after(SUPERVISOR_GRACE, Timer::Kill(id, serial)),
        }
    }

    /// The only place that decides that an instance has ended.
    pub(super) fn instance_over(&mut self, id: HostId) {
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
        // The program's end was not seen: the program may still run, with the host's ports.
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
            // A supervisor started by another process may lead a session with processes of others.
            supervisor: supervisor.filter(|_| boot.is_some()),
            program,
            connected: self.sessions.iter().filter_map(|(_, session)| session.pid).collect(),
        };
        let notifier = self.messages.notifier().clone();
        let done = move || notifier.tell(LoopMessage::Cleared { host: id, serial });
        self.launcher.clear(&name, boot, pids, Box::new(done));
    }

    /// The leftovers of this supervisor are gone.
    pub(super) fn cleared(&mut self, id: HostId, serial: u64) {
        let instance = self.hosts.get(id).and_then(|host| host.instance.as_deref());
        if instance.is_some_and(|instance| instance.clearing && instance.serial == serial) {
            self.end(id);
        }
    }

    /// A host's instance is over, and so are all leftovers.
    pub(super) fn end(&mut self, id: HostId) {
        self.record_wake(id);
        let Some(instance) = self.hosts[id].instance.take() else {
            return;
        };
        let status = instance.exited.unwrap_or(ExitStatus::Lost);
        let detail = match (instance.exited, instance.supervisor_status, instance.program) {
            // The supervisor ended before the start of the program: the supervisor's messages are
            // in the log.
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use slotmap::SlotMap;

    use super::*;

    fn pidfd() -> Option<std::os::fd::OwnedFd> {
        Some(File::open("/dev/null").unwrap().into())
    }

    fn session() -> SessionId {
        SlotMap::<SessionId, ()>::with_key().insert(())
    }

    #[test]
    fn a_supervisor_is_told_to_stop_and_one_that_cannot_be_told_is_signalled_if_it_is_ours() {
        let launched = Instance {
            launched: true,
            ended: pidfd(),
            ..Instance::default()
        };
        assert_eq!(how_to_stop(&launched, true), Stop::Notified);
        assert_eq!(how_to_stop(&launched, false), Stop::Terminate);
        let asked = Instance {
            launched: true,
            asked: true,
            ..Instance::default()
        };
        assert_eq!(how_to_stop(&asked, false), Stop::Later);
        let session = Some(session());
        let of_another = Instance {
            ended: pidfd(),
            session,
            ..Instance::default()
        };
        assert_eq!(how_to_stop(&of_another, false), Stop::LeaveAlone(session));
    }

    #[test]
    fn only_the_supervisor_that_was_meant_is_killed_and_none_that_is_cleared() {
        let instance = |serial, clearing| Instance {
            serial,
            clearing,
            launched: true,
            ended: pidfd(),
            ..Instance::default()
        };
        assert_eq!(how_to_kill(&instance(1, false), 1), Kill::Signal);
        assert_eq!(how_to_kill(&instance(2, false), 1), Kill::Nothing, "another boot");
        assert_eq!(how_to_kill(&instance(1, true), 1), Kill::Nothing);
        let of_another = Instance {
            ended: pidfd(),
            ..Instance::default()
        };
        assert_eq!(how_to_kill(&of_another, 0), Kill::LeaveAlone(None), "it has hung up");
        let unknown = Instance {
            session: Some(session()),
            ..Instance::default()
        };
        assert_eq!(how_to_kill(&unknown, 0), Kill::LeaveAlone(unknown.session));
    }

    #[test]
    fn a_lost_connection_is_the_end_of_what_nothing_else_is_known_of() {
        assert_eq!(after_hang_up(&Instance::default(), false), HungUp::Over);
        let instance = |launched, exited| Instance {
            launched,
            exited,
            ended: pidfd(),
            ..Instance::default()
        };
        let exited = Some(ExitStatus::Code(0));
        assert_eq!(after_hang_up(&instance(true, None), true), HungUp::Kill);
        assert_eq!(after_hang_up(&instance(true, exited), true), HungUp::Wait);
        assert_eq!(after_hang_up(&instance(false, None), true), HungUp::End);
        assert_eq!(after_hang_up(&instance(false, None), false), HungUp::Wait);
    }
}
