//! The trapped calls of programs whose supervisors are killed.
//!
//! A killed supervisor closes its files (kernel/exit.c, exit_files) before its program hears of that (exit_notify), and the rest of what it has left is ended
//! by this broker, later. With the last descriptor of the calls' listener every call fails with ENOSYS (kernel/seccomp.c, seccomp_notify_release), and a
//! program that goes on with that answers its clients wrongly. So the broker has a duplicate of the listener, with which the calls wait for the kill.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::Interest;
use mio::unix::SourceFd;

use super::Broker;
use crate::hosts::HostId;
use crate::launcher;
use crate::sessions::Part;
use crate::tokens::{Kind, token};

/// Commands (`imsup exec`) whose supervisors have hung up: their pidfds, and the listeners of their calls. The kernel ends the command's first process before
/// the supervisor's pidfd is readable (kernel/exit.c, exit_notify). Nobody ends what that has left: its calls fail from then on.
#[derive(Debug, Default)]
pub(super) struct Orphaned {
    last: u32,
    commands: HashMap<u32, Command>,
}

/// What a command's supervisor that has hung up leaves here.
#[derive(Debug)]
struct Command {
    supervisor: u32,
    process: OwnedFd,
    /// Held, and never read.
    _listener: OwnedFd,
}

impl Broker {
    /// Keeps the listener that has come with a message. One that has not is missed by nobody: there was no room for it (recvmsg(2), MSG_CTRUNC).
    pub(super) fn keep_notify_listener(&mut self, number: usize, id: HostId, part: Part) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        let listener = session.channel.take_fds(1).ok().and_then(|mut fds| fds.pop());
        let listener = listener.filter(|listener| self.limits.can_spare(listener));
        if part == Part::Command {
            if listener.is_none() {
                return;
            }
            session.notify_listener = listener;
            // One that has lost its connection and has come back is the same.
            let supervisor = session.pid;
            let commands = self.orphaned.commands.iter();
            let earlier: Vec<u32> = commands
                .filter(|(_, command)| Some(command.supervisor) == supervisor)
                .map(|(number, _)| *number)
                .collect();
            earlier.into_iter().for_each(|number| self.command_is_gone(number));
        } else if let Some(instance) = self.hosts[id].instance.as_deref_mut()
            && instance.session == Some(number)
        {
            instance.notify_listener = listener;
        }
    }

    /// Keeps what a command's supervisor has sent until that has ended.
    pub(super) fn orphan_command(&mut self, supervisor: Option<u32>, listener: Option<OwnedFd>) {
        let process = supervisor.and_then(|pid| Some((pid, launcher::open(pid)?)));
        let Some((listener, (supervisor, process))) = listener.zip(process) else {
            return;
        };
        self.orphaned.last = self.orphaned.last.wrapping_add(1);
        let number = self.orphaned.last;
        let registered = self.registry.register(
            &mut SourceFd(&process.as_raw_fd()),
            token(Kind::Orphaned, number),
            Interest::READABLE,
        );
        if registered.is_ok() {
            let command = Command {
                supervisor,
                process,
                _listener: listener,
            };
            self.orphaned.commands.insert(number, command);
        }
    }

    /// A command's supervisor has ended, and with it its program.
    pub(super) fn command_is_gone(&mut self, number: u32) {
        if let Some(command) = self.orphaned.commands.remove(&number) {
            let _ = self.registry.deregister(&mut SourceFd(&command.process.as_raw_fd()));
        }
    }
}
