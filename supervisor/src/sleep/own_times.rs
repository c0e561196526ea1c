//! Decides if a host may run by itself. A host in which no thread waits for a time runs only after
//! an outside event: a signal, or a byte that leaves no other trace (over a UNIX socket, or to a
//! port that the kernel chose).

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;

use super::calls;
use super::runtimes;
use super::wait::{Deadline, LimitOf};
use crate::sockets::Retained;
use imsup_linux::duplicates::Duplicates;
use imsup_linux::memory::ThreadMemory;
use imsup_linux::{descriptors, process, socket, timers};

/// A process with more threads or descriptors than this is assumed to wait for a time.
const FEW: u64 = 128;

/// The number of sockets whose time limits are remembered.
const CAPACITY: usize = 256;

/// Tells if any thread or timer of a host waits for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waits {
    /// No.
    No,
    /// No, unless a socket has a time limit (SO_RCVTIMEO). The limit is visible only through the
    /// socket's descriptor: once the host is held.
    Perhaps,
    /// Yes, or unknown.
    Yes,
}

/// A socket that a thread waits for.
#[derive(Clone, Copy, Debug)]
struct Waited {
    pid: i32,
    number: i32,
    inode: u64,
    kind: LimitOf,
}

/// The known waits of the processes of a host.
#[derive(Debug, Default)]
pub struct OwnTimes {
    /// The CPU time of each process at the look, and the wait of the process for a time.
    known: HashMap<i32, (Duration, Waits)>,
    /// The sockets with an unknown time limit.
    doubts: Vec<Waited>,
    /// True for a socket with a time limit, by inode number, as seen when the host was held.
    limited: HashMap<u64, bool>,
}

impl OwnTimes {
    /// Returns the host's wait for a time at the last call. `cpu` is the CPU time used by each
    /// process.
    pub fn before(&mut self, cpu: &[(i32, Duration)], retained: &Retained) -> Waits {
        let waits = |pid: &i32| self.known.get(pid).map_or(Waits::Yes, |(_, waits)| *waits);
        let mut before = cpu.iter().map(|(pid, _)| waits(pid)).max().unwrap_or(Waits::Yes);
        if self.known.len() != cpu.len() {
            before = Waits::Yes;
        }
        self.look(cpu, retained);
        before
    }

    /// Looks at the processes that have run.
    fn look(&mut self, cpu: &[(i32, Duration)], retained: &Retained) {
        let before = std::mem::take(&mut self.known);
        let known = |(pid, used): &(i32, Duration)| before.get(pid).filter(|(at, _)| at == used).copied();
        self.known
            .extend(cpu.iter().filter_map(|one| Some((one.0, known(one)?))));
        let pids = &self.known;
        self.doubts.retain(|doubt| pids.contains_key(&doubt.pid));
        // One process that waits for a time is enough, so the others are not examined. Processes
        // that waited before mostly wait again.
        let mut ran: Vec<_> = cpu.iter().filter(|one| known(one).is_none()).copied().collect();
        ran.sort_by_key(|(pid, _)| before.get(pid).is_none_or(|(_, waits)| *waits != Waits::Yes));
        for (pid, used) in ran {
            if self.known.values().any(|(_, waits)| *waits == Waits::Yes) {
                return;
            }
            let waits = self.waits(pid, retained);
            self.known.insert(pid, (used, waits));
        }
    }

    /// Forgets the findings, which are no longer true: the host was disturbed.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Looks at the sockets of a host that is held; whether any that a thread waited for has a time
    /// limit.
    pub fn learn(&mut self, duplicates: &Duplicates<'_>) -> bool {
        if self.limited.len() + self.doubts.len() > CAPACITY {
            self.limited.clear();
        }
        let limit = |doubt: &Waited| {
            let socket = duplicates.one(doubt.pid, doubt.number).ok()?;
            (socket::inode(socket.as_fd()) == Ok(doubt.inode)).then_some(())?;
            Some(has_limit(&socket, doubt.kind))
        };
        let learned: Vec<_> = self.doubts.iter().map(|doubt| (doubt.inode, limit(doubt))).collect();
        self.limited.extend(
            learned
                .iter()
                .filter_map(|(inode, limited)| Some((*inode, (*limited)?))),
        );
        learned.iter().any(|(_, limited)| limited.unwrap_or(true))
    }

    /// Whether a thread of a process waits with a time limit, or may, or the process has a timer.
    fn waits(&mut self, pid: i32, retained: &Retained) -> Waits {
        let many = u64::from(process::count_threads(pid)) > FEW || descriptors::count(pid) > FEW;
        if many {
            return Waits::Yes;
        }
        let mut most = Waits::No;
        for tid in process::threads(pid) {
            most = most.max(self.waits_in_call(pid, tid, retained));
            if most == Waits::Yes {
                return most;
            }
        }
        let has_timer = !timers::timerfds(pid).is_empty()
            || runtimes::has_posix_timers(pid)
            || timers::may_have_interval_timer(pid);
        if has_timer { Waits::Yes } else { most }
    }

    fn waits_in_call(&mut self, pid: i32, tid: i32, retained: &Retained) -> Waits {
        let Some((number, args, _)) = process::blocked_in(pid, tid) else {
            return Waits::Yes;
        };
        let Ok(wait) = calls::wait_of(number, &args, &ThreadMemory::of(tid)) else {
            return Waits::Yes;
        };
        if !wait.known || wait.deadline != Deadline::Never {
            return Waits::Yes;
        }
        match wait.limited_by {
            None => Waits::No,
            Some((number, kind)) => self.waits_for_socket(pid, number, kind, retained),
        }
    }

    fn waits_for_socket(&mut self, pid: i32, number: i32, kind: LimitOf, retained: &Retained) -> Waits {
        let inode = match process::socket_of(pid, number) {
            Ok(inode) => inode,
            Err(Errno::ENOTSOCK) => return Waits::No,
            Err(_) => return Waits::Yes,
        };
        let limited = match retained.by_inode(inode) {
            Some(socket) => Some(has_limit(socket, kind)),
            None => self.limited.get(&inode).copied(),
        };
        match limited {
            Some(true) => Waits::Yes,
            Some(false) => Waits::No,
            None => {
                self.doubts.push(Waited {
                    pid,
                    number,
                    inode,
                    kind,
                });
                Waits::Perhaps
            }
        }
    }
}

fn has_limit(socket: impl AsFd, kind: LimitOf) -> bool {
    let limit = match kind {
        LimitOf::Receive => socket::receive_timeout(socket.as_fd()),
        LimitOf::Send => socket::send_timeout(socket.as_fd()),
    };
    limit != Ok(None)
}
