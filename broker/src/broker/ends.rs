//! Ending hosts, and noticing the ends of hosts.

use std::time::Duration;

use imsup_lifecycle::Input;
use imsup_protocol::channel::ChannelError;
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::ExitStatus;
use imsup_wire::program::{DEFAULT_STOP_GRACE, DEFAULT_STOP_SIGNAL};
use rustix::process::Signal;

use super::Broker;
use super::timers::Timer;
use crate::hosts::Instance;
use crate::ids::{HostId, InstanceId, SessionId};
use crate::launcher::{Leftovers, Standing};
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

fn how_to_stop(instance: &Instance, standing: Standing, is_notified: bool) -> Stop {
    if is_notified {
        Stop::Notified
    } else if instance.is_launched() && standing == Standing::Watched {
        Stop::Terminate
    } else if standing == Standing::Starting {
        Stop::Later
    } else {
        Stop::LeaveAlone(instance.session())
    }
}

/// The treatment of a supervisor that has outlived the grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// Nothing: the broker cleans up after it already.
    Nothing,
    /// The supervisor is sent SIGKILL; the end is then noticed like any other.
    Signal,
    /// Only the connection is known of the supervisor; or the supervisor is another's process that
    /// has hung up and lives on.
    LeaveAlone(Option<SessionId>),
}

fn how_to_kill(instance: &Instance, standing: Standing) -> Kill {
    if instance.is_clearing() {
        Kill::Nothing
    } else if standing == Standing::Watched && (instance.is_launched() || instance.session().is_some()) {
        Kill::Signal
    } else {
        Kill::LeaveAlone(instance.session())
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

fn after_hang_up(instance: &Instance, standing: Standing, is_going_down: bool) -> HungUp {
    match instance.is_launched() {
        _ if standing != Standing::Watched => HungUp::Over,
        true if instance.exited().is_none() => HungUp::Kill,
        false if is_going_down => HungUp::End,
        _ => HungUp::Wait,
    }
}

impl Broker {
    /// Ends a host's program through the supervisor.
    pub(super) fn stop(&mut self, id: HostId) {
        if self.stop_held(id) {
            return;
        }
        let host = &mut self.hosts[id];
        let (signal, grace) = host
            .spec(&self.cluster)
            .map_or((DEFAULT_STOP_SIGNAL, DEFAULT_STOP_GRACE), |spec| {
                (spec.program.stop_signal, spec.program.stop_grace)
            });
        let Some(instance) = host.instance_mut() else {
            return;
        };
        let is_notified = instance
            .session()
            .and_then(|session| self.sessions.get_mut(session))
            .is_some_and(|session| session.send(&ToSupervisor::Stop { signal, grace }, Vec::new()) != Sent::CutOff);
        match how_to_stop(instance, self.launcher.standing(instance.id()), is_notified) {
            Stop::Notified => {}
            Stop::Terminate => self.launcher.signal(instance.id(), Signal::TERM),
            Stop::Later => instance.call_off(),
            Stop::LeaveAlone(session) => return self.leave_alone(id, session),
        }
        let timer = Timer::Kill(instance.id());
        self.timers.after(grace + SUPERVISOR_GRACE, timer);
    }

    /// Kills the supervisor of this instance if still running; the end is then noticed as any
    /// other.
    pub(super) fn kill(&mut self, key: InstanceId) {
        let Some(id) = self.hosts.run_by(key) else { return };
        let Some(instance) = self.hosts[id].instance() else {
            return;
        };
        match how_to_kill(instance, self.launcher.standing(key)) {
            Kill::Nothing => {}
            Kill::Signal => self.launcher.signal(key, Signal::KILL),
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

    /// The supervisor's process has ended. Its last messages are still to be read.
    pub(super) fn supervisor_ended(&mut self, id: HostId) {
        let Some(instance) = self.hosts[id].instance() else {
            return;
        };
        if instance.is_clearing() {
            return;
        }
        let key = instance.id();
        if let Some(session) = instance.session() {
            self.hear_out(session);
        }
        // The last messages may already have reported the end.
        if self.hosts.run_by(key).is_some() {
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
        let Some(instance) = self.hosts[id].instance_mut() else {
            return;
        };
        instance.disconnect();
        let key = instance.id();
        match after_hang_up(instance, self.launcher.standing(key), self.lifetime.is_going_down()) {
            HungUp::Over => self.instance_over(id),
            HungUp::Kill => self.launcher.signal(key, Signal::KILL),
            HungUp::End => self.end(id),
            HungUp::Wait => self.timers.after(SUPERVISOR_GRACE, Timer::Kill(key)),
        }
    }

    /// The only place that decides that an instance has ended.
    pub(super) fn instance_over(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        let Some(instance) = host.instance_mut() else {
            return;
        };
        if instance.exited().is_some() {
            self.end(id);
            return;
        }
        // The program's end was not seen: the program may still run, with the host's ports.
        instance.begin_clearing();
        let (key, boot) = (instance.id(), instance.boot());
        let left = Leftovers {
            project: &self.cluster.project,
            host: self.hosts[id].name(&self.cluster),
            instance: key,
            boot,
            connected: self.sessions.iter().filter_map(|(_, session)| session.pid).collect(),
        };
        let notifier = self.messages.notifier().clone();
        let done = move || notifier.tell(LoopMessage::Cleared(key));
        self.launcher.clear(&left, Box::new(done));
    }

    /// The leftovers of this instance's supervisor are gone.
    pub(super) fn cleared(&mut self, key: InstanceId) {
        let Some(id) = self.hosts.run_by(key) else { return };
        let instance = self.hosts[id].instance();
        if instance.is_some_and(Instance::is_clearing) {
            self.end(id);
        }
    }

    /// A host's instance is over, and so are all leftovers.
    pub(super) fn end(&mut self, id: HostId) {
        self.record_wake(id);
        self.close_output(id);
        let Some((instance, supervisor_status)) = self.take_instance(id) else {
            return;
        };
        let status = instance.exited().unwrap_or(ExitStatus::Lost);
        let detail = match (instance.exited(), supervisor_status, instance.program()) {
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
        if let Some(session) = instance.session() {
            self.sessions.remove(session, &self.registry);
            self.forget_waits(session);
        }
        self.feed(id, Input::Ended { status, detail });
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    fn session() -> SessionId {
        SlotMap::<SessionId, ()>::with_key().insert(())
    }

    fn of_another(session: Option<SessionId>) -> Instance {
        let mut instance = Instance::introduced(None, None, None);
        session.into_iter().for_each(|session| instance.connect(session));
        instance
    }

    #[test]
    fn a_supervisor_is_notified_to_stop_and_one_that_cannot_be_told_is_signalled_if_it_is_ours() {
        let launched = Instance::launched(1);
        assert_eq!(how_to_stop(&launched, Standing::Watched, true), Stop::Notified);
        assert_eq!(how_to_stop(&launched, Standing::Watched, false), Stop::Terminate);
        assert_eq!(how_to_stop(&launched, Standing::Starting, false), Stop::Later);
        let session = Some(session());
        let how = how_to_stop(&of_another(session), Standing::Watched, false);
        assert_eq!(how, Stop::LeaveAlone(session));
    }

    #[test]
    fn only_a_supervisor_that_is_watched_is_killed_and_none_that_is_cleared() {
        let mut launched = Instance::launched(1);
        assert_eq!(how_to_kill(&launched, Standing::Watched), Kill::Signal);
        launched.begin_clearing();
        assert_eq!(how_to_kill(&launched, Standing::Watched), Kill::Nothing);
        let hung_up = of_another(None);
        assert_eq!(how_to_kill(&hung_up, Standing::Watched), Kill::LeaveAlone(None));
        let session = Some(session());
        assert_eq!(how_to_kill(&of_another(session), Standing::Watched), Kill::Signal);
        let unknown = how_to_kill(&of_another(session), Standing::Unknown);
        assert_eq!(unknown, Kill::LeaveAlone(session));
    }

    #[test]
    fn a_lost_connection_is_the_end_of_what_nothing_else_is_known_of() {
        let after = |mut instance: Instance, has_exited: bool, is_going_down| {
            if has_exited {
                instance.exit(ExitStatus::Code(0));
            }
            after_hang_up(&instance, Standing::Watched, is_going_down)
        };
        let over = after_hang_up(&of_another(None), Standing::Unknown, false);
        assert_eq!(over, HungUp::Over);
        assert_eq!(after(Instance::launched(1), false, true), HungUp::Kill);
        assert_eq!(after(Instance::launched(1), true, true), HungUp::Wait);
        assert_eq!(after(of_another(None), false, true), HungUp::End);
        assert_eq!(after(of_another(None), false, false), HungUp::Wait);
    }
}
