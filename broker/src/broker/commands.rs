//! Commands beside the programs of hosts (`imsup exec`), and the trapped calls of programs whose
//! supervisors are killed.
//!
//! A killed supervisor closes all files (kernel/exit.c, exit_files) before the program receives the
//! signal (exit_notify). This broker ends the supervisor's leftovers later still. Without any
//! descriptor of the calls' listener, every call fails with ENOSYS (kernel/seccomp.c,
//! seccomp_notify_release), and a program that goes on after ENOSYS answers clients wrongly. So the
//! broker has a duplicate of the listener, with which the calls stay pending until the program is
//! killed.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::Interest;
use mio::unix::SourceFd;
use slotmap::SecondaryMap;

use super::Broker;
use crate::ids::{HostId, SessionId};
use crate::launcher;
use crate::sessions::Part;
use crate::tokens::Source;

/// Commands that run beside the programs of hosts, and those whose supervisors have hung up and are
/// not known to have ended.
///
/// Of the latter: their pidfds, and the listeners of their calls. The kernel ends the command's
/// first process before the supervisor's pidfd is readable (kernel/exit.c, exit_notify). Nobody
/// ends what that has left: its calls fail from then on.
#[derive(Debug, Default)]
pub(super) struct Commands {
    running: SecondaryMap<HostId, u32>,
    last_orphan: u32,
    orphans: HashMap<u32, Orphan>,
}

/// The descriptors left by a command's supervisor that has hung up.
#[derive(Debug)]
struct Orphan {
    supervisor: u32,
    process: OwnedFd,
    /// Kept open, and never read.
    _listener: OwnedFd,
}

impl Commands {
    /// How many run beside a host's program.
    pub(super) fn count(&self, host: HostId) -> u32 {
        self.running.get(host).copied().unwrap_or(0)
    }

    /// One more runs beside a host's program.
    pub(super) fn began(&mut self, host: HostId) {
        let count = self.count(host);
        self.running.insert(host, count + 1);
    }

    /// One of those has ended.
    pub(super) fn ended(&mut self, host: HostId) {
        match self.count(host) {
            0 | 1 => drop(self.running.remove(host)),
            count => drop(self.running.insert(host, count - 1)),
        }
    }

    /// A host is removed.
    pub(super) fn remove(&mut self, host: HostId) {
        self.running.remove(host);
    }

    /// The orphans of this supervisor.
    fn orphans_of(&self, supervisor: u32) -> Vec<u32> {
        let orphans = self.orphans.iter();
        let of_it = orphans.filter(|(_, orphan)| orphan.supervisor == supervisor);
        of_it.map(|(number, _)| *number).collect()
    }
}

impl Broker {
    /// Keeps the listener received with a message. A listener may be missing for lack of room
    /// (recvmsg(2), MSG_CTRUNC), which is no error.
    pub(super) fn keep_notify_listener(&mut self, number: SessionId, id: HostId, part: Part) {
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
            // A supervisor that has lost its connection and has come back is the same supervisor.
            let earlier = session.pid.map(|pid| self.commands.orphans_of(pid));
            let earlier = earlier.into_iter().flatten();
            earlier.for_each(|number| self.command_is_gone(number));
        } else if let Some(instance) = self.hosts[id].instance_mut()
            && instance.session() == Some(number)
        {
            instance.keep_calls_pending(listener);
        }
    }

    /// Keeps the listener sent by a command's supervisor until that supervisor has ended.
    pub(super) fn orphan_command(&mut self, supervisor: Option<u32>, listener: Option<OwnedFd>) {
        let process = supervisor.and_then(|pid| Some((pid, launcher::open(pid)?)));
        let Some((listener, (supervisor, process))) = listener.zip(process) else {
            return;
        };
        self.commands.last_orphan = self.commands.last_orphan.wrapping_add(1);
        let number = self.commands.last_orphan;
        let registered = self.registry.register(
            &mut SourceFd(&process.as_raw_fd()),
            Source::Orphaned(number).into(),
            Interest::READABLE,
        );
        if registered.is_ok() {
            let orphan = Orphan {
                supervisor,
                process,
                _listener: listener,
            };
            self.commands.orphans.insert(number, orphan);
        }
    }

    /// A command's supervisor has ended, and the command's program with it.
    pub(super) fn command_is_gone(&mut self, number: u32) {
        if let Some(orphan) = self.commands.orphans.remove(&number) {
            let _ = self.registry.deregister(&mut SourceFd(&orphan.process.as_raw_fd()));
        }
    }
}
