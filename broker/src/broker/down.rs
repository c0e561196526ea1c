//! The end of a project.

use std::time::Duration;

use imsup_protocol::{Response, ToSupervisor};
use rustix::process::{Signal, pidfd_send_signal};

use super::{Broker, Timer};
use crate::launcher;
use crate::sessions::{Part, Peer, Reply};
use crate::signals::Received;
use imsup_lifecycle::Input;

/// What a command beside a program (`imsup exec`) may take to end.
const COMMAND_GRACE: Duration = Duration::from_secs(10);
/// How long an ephemeral broker waits for its first supervisor.
const FIRST_SUPERVISOR: Duration = Duration::from_secs(20);
const SIGTERM: i32 = 15;

impl Broker {
    /// Ends everything, then the broker.
    pub(crate) fn go_down(&mut self) {
        if std::mem::replace(&mut self.going_down, true) {
            return;
        }
        for id in self.hosts.ids().collect::<Vec<_>>() {
            // The end of one can be that of another: a transient host that waited for it and has hung up.
            let Some(host) = self.hosts.get(id) else { continue };
            for socket in &host.sockets {
                self.sockets.unwatch(*socket, &self.registry);
            }
            self.feed(id, Input::Retire);
        }
        let command = |peer: &Peer| {
            matches!(
                peer,
                Peer::Supervisor {
                    part: Part::Command,
                    ..
                }
            )
        };
        let commands: Vec<usize> = self
            .sessions
            .iter()
            .filter(|(_, session)| command(&session.peer))
            .map(|(number, _)| number)
            .collect();
        let stop = ToSupervisor::Stop {
            signal: SIGTERM,
            grace: COMMAND_GRACE,
        };
        for number in commands {
            self.tell(number, &stop, Vec::new());
        }
        self.after(COMMAND_GRACE + Duration::from_secs(2), Timer::Farewell);
    }

    /// Kills the commands that are left; programs have timers of their own.
    pub(super) fn kill_commands(&mut self) {
        let left: Vec<(usize, Option<u32>)> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                matches!(
                    session.peer,
                    Peer::Supervisor {
                        part: Part::Command,
                        ..
                    }
                )
            })
            .map(|(number, session)| (number, session.pid))
            .collect();
        for (number, pid) in left {
            if let Some(process) = pid.and_then(launcher::open) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
            self.hang_up(number);
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_over(&mut self) -> bool {
        let programs = self.hosts.ids().any(|id| self.hosts[id].instance.is_some());
        if self.going_down {
            return !programs && !self.sessions.has_supervisors();
        }
        // A connection that has said nothing yet is that of an `imsup run` about to introduce itself.
        let used = programs || self.sessions.has_supervisors() || self.sessions.has_undecided();
        if self.ephemeral && self.had_supervisors && !used {
            self.go_down();
            return true;
        }
        false
    }

    /// Bounds how long an ephemeral broker waits for the one that started it.
    pub(crate) fn await_first(&mut self) {
        if self.ephemeral {
            self.after(FIRST_SUPERVISOR, Timer::Lonely);
        }
    }

    pub(super) fn leave_if_lonely(&mut self) {
        if !self.had_supervisors {
            self.go_down();
        }
    }

    pub(super) fn take_signals(&mut self) {
        for received in self.signals.take() {
            match received {
                Received::Child => self.reap(),
                Received::End if !self.going_down => self.go_down(),
                // Asked twice: no more grace.
                Received::End => {
                    for id in self.hosts.ids().collect::<Vec<_>>() {
                        let instance = self.hosts.get(id).and_then(|host| host.instance.as_deref());
                        if let Some(serial) = instance.map(|instance| instance.serial) {
                            self.kill(id, serial);
                        }
                    }
                    self.kill_commands();
                }
            }
        }
    }

    /// Answers those who asked for the end. Everything else is gone by now.
    pub(crate) fn say_goodbye(&mut self) {
        let asked = |peer: &Peer| matches!(peer, Peer::Client(Reply::Down));
        let waiting: Vec<usize> = self
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

    /// Gives up every socket, so that nothing can be reached any more.
    pub(crate) fn let_go(&mut self) {
        self.listener = None;
        self.sockets.clear();
        self.claim.release();
        self.sockets.store.stop();
    }
}
