//! The end of a project.

use std::time::Duration;

use imsup_protocol::{Response, ToSupervisor};
use rustix::process::{Signal, pidfd_send_signal};

use super::Broker;
use super::lifetime::{Left, Next};
use super::timers::Timer;
use crate::hosts::{Host, Instance};
use crate::ids::SessionId;
use crate::launcher;
use crate::sessions::{Peer, Reply};
use crate::signals::Received;
use imsup_lifecycle::Input;

/// The grace period of a command beside a program (`imsup exec`).
const COMMAND_GRACE: Duration = Duration::from_secs(10);
/// The time that an ephemeral broker waits for the first supervisor.
const FIRST_SUPERVISOR: Duration = Duration::from_secs(20);
const SIGTERM: i32 = 15;

impl Broker {
    /// Ends all hosts and commands, then the broker.
    pub(crate) fn go_down(&mut self) {
        if !self.lifetime.go_down() {
            return;
        }
        for id in self.hosts.ids().collect::<Vec<_>>() {
            // The end of a host can cause the end of another: a transient host that waited for the
            // first host and has hung up.
            if self.hosts.get(id).is_none() {
                continue;
            }
            self.sockets.unwatch_all(id, &self.registry);
            self.feed(id, Input::Retire);
        }
        let commands: Vec<SessionId> = self.sessions.commands().map(|(number, _)| number).collect();
        let stop = ToSupervisor::Stop {
            signal: SIGTERM,
            grace: COMMAND_GRACE,
        };
        for number in commands {
            self.tell(number, &stop, Vec::new());
        }
        self.timers
            .after(COMMAND_GRACE + Duration::from_secs(2), Timer::Farewell);
    }

    /// Kills the remaining commands; programs have separate timers.
    pub(super) fn kill_commands(&mut self) {
        let commands = self.sessions.commands();
        let left: Vec<(SessionId, Option<u32>)> = commands.map(|(number, session)| (number, session.pid)).collect();
        for (number, pid) in left {
            if let Some(process) = pid.and_then(launcher::open) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
            self.hang_up(number);
        }
    }

    /// True if nothing is left to wait for.
    pub(super) fn is_over(&mut self) -> bool {
        if self.lifetime.goes_on() {
            return false;
        }
        let is_used = self.hosts.ids().any(|id| self.hosts[id].instance().is_some()) || self.sessions.has_supervisors();
        let left = Left {
            is_used,
            is_undecided: !is_used && self.sessions.has_undecided(),
        };
        match self.lifetime.decide(&left) {
            Next::Serve => false,
            Next::GoDown => {
                self.go_down();
                true
            }
            Next::Over => true,
        }
    }

    /// Limits the time that an ephemeral broker waits for the client that started the broker.
    pub(crate) fn await_first(&mut self) {
        if self.lifetime.is_ephemeral() {
            self.timers.after(FIRST_SUPERVISOR, Timer::Lonely);
        }
    }

    pub(super) fn leave_if_lonely(&mut self) {
        if !self.lifetime.had_supervisors() {
            self.go_down();
        }
    }

    pub(super) fn take_signals(&mut self) {
        for received in self.signals.take() {
            match received {
                Received::Child => self.launcher.reap(),
                Received::End if !self.lifetime.is_going_down() => self.go_down(),
                // Asked twice: no more grace.
                Received::End => {
                    for id in self.hosts.ids().collect::<Vec<_>>() {
                        let instance = self.hosts.get(id).and_then(Host::instance);
                        if let Some(instance) = instance.map(Instance::id) {
                            self.kill(instance);
                        }
                    }
                    self.kill_commands();
                }
            }
        }
    }

    /// Answers the clients that asked for the end. All hosts are gone by now.
    pub(crate) fn say_goodbye(&mut self) {
        let asked = |peer: &Peer| matches!(peer, Peer::Client(Reply::Down));
        let waiting: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| asked(&session.peer))
            .map(|(number, _)| number)
            .collect();
        for number in waiting {
            if let Some(session) = self.sessions.get_mut(number) {
                session.send(&Response::Done, Vec::new());
            }
        }
    }

    /// Gives up every socket, so that the project cannot be reached any more.
    pub(crate) fn let_go(&mut self) {
        self.sessions.close_listener();
        self.sockets.clear();
        self.claim.release();
        self.sockets.store.stop();
    }
}
