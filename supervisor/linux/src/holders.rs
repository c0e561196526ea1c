//! The processes that have a socket open: the links of proc_pid_fd(5).

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::fs::Dir;

use super::descriptors::{self, socket_inode};
use super::syscall::syscall;
use super::{inspect, process};

/// `KCMP_FILES` (kcmp(2)): whether two tasks share their table of descriptors.
const KCMP_FILES: i32 = 2;

/// With this many tables of a process a thread's table is compared before its descriptors are
/// inspected.
const FEW_TABLES: usize = 4;

/// The cost of listing a thread's children, in inspected descriptors.
const COST_OF_A_THREAD: usize = 8;

/// A place where a socket is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// A process, or a thread.
    pub tid: i32,
    /// The descriptor's number there.
    pub number: i32,
}

impl Place {
    /// Whether the socket with this inode number is there.
    pub fn has(self, inode: u64) -> bool {
        process::socket_of(self.tid, self.number) == Ok(inode)
    }

    /// True for the same socket, or if the process cannot be inspected: a process that is not
    /// dumpable (PR_SET_DUMPABLE), or of another user (ptrace(2)), may still have it. A stranger
    /// that has got the number of an ended process has it not.
    pub fn may_have(self, inode: u64) -> bool {
        match process::socket_of(self.tid, self.number) {
            Ok(found) => found == inode,
            Err(errno) => errno == Errno::EPERM && process::may_be_descendant(self.tid),
        }
    }

    /// The same place by its process, since a thread ends before its process does. Unchanged if the
    /// thread has its own descriptor table.
    pub fn of_process(self, inode: u64) -> Self {
        let process = Self {
            tid: process::thread_group(self.tid).unwrap_or(self.tid),
            ..self
        };
        if process.has(inode) { process } else { self }
    }
}

/// A search for sockets among the descriptors of all descendants of this process, cut into slices:
/// one walk answers for all.
///
/// Sockets in flight between processes (SCM_RIGHTS, unix(7)) are not found, nor those of processes
/// that may not be inspected.
#[derive(Debug)]
pub struct Search {
    wanted: HashSet<u64>,
    found: HashMap<u64, Place>,
    processes: VecDeque<i32>,
    /// Threads of the current process whose children are still to be listed, and whose descriptors,
    /// if the thread has its own table.
    threads: Vec<i32>,
    process: i32,
    table: Option<Table>,
    hidden: bool,
}

/// A directory of descriptors that is being read.
#[derive(Debug)]
struct Table {
    tid: i32,
    directory: OwnedFd,
    entries: Dir,
}

impl Search {
    /// A search for sockets with these inode numbers.
    pub fn new(wanted: impl IntoIterator<Item = u64>) -> Self {
        Self::among(process::own_children(), wanted)
    }

    /// A search among these processes and their descendants.
    pub fn among(processes: impl IntoIterator<Item = i32>, wanted: impl IntoIterator<Item = u64>) -> Self {
        Self {
            wanted: wanted.into_iter().collect(),
            found: HashMap::new(),
            processes: processes.into_iter().collect(),
            threads: Vec::new(),
            process: 0,
            table: None,
            hidden: false,
        }
    }

    /// Inspects some `count` more descriptors. True once the search is over: everything was
    /// inspected, or all sockets were found.
    pub fn step(&mut self, count: usize) -> bool {
        let mut left = count;
        while left > 0 {
            if self.found.len() == self.wanted.len() {
                return true;
            }
            let cost = if let Some(mut table) = self.table.take() {
                let (read, over) = inspect::as_owner(table.tid, || self.read(&mut table, left));
                if !over {
                    self.table = Some(table);
                }
                read + 1
            } else if let Some(tid) = self.threads.pop() {
                self.processes.extend(process::children_of_thread(self.process, tid));
                if tid != self.process && has_own_table(self.process, tid) {
                    self.open(tid);
                }
                COST_OF_A_THREAD
            } else if let Some(pid) = self.processes.pop_front() {
                self.process = pid;
                self.threads = process::threads(pid);
                self.open(pid);
                COST_OF_A_THREAD
            } else {
                return true;
            };
            left = left.saturating_sub(cost);
        }
        false
    }

    /// The place where a socket was found.
    pub fn place(&self, inode: u64) -> Option<Place> {
        self.found.get(&inode).copied()
    }

    /// True if a process could not be inspected: not dumpable (PR_SET_DUMPABLE), or of another user
    /// (ptrace(2)).
    pub fn is_hidden_from(&self) -> bool {
        self.hidden
    }

    fn open(&mut self, tid: i32) {
        let opened = inspect::as_owner(tid, || {
            let directory = descriptors::open(tid)?;
            let entries = Dir::read_from(&directory).ok()?;
            Some(Table {
                tid,
                directory,
                entries,
            })
        });
        self.hidden |= opened.is_none() && !process::is_gone(tid);
        self.table = opened;
    }

    /// Reads at most `most` entries; says how many, and whether there are no more.
    fn read(&mut self, table: &mut Table, most: usize) -> (usize, bool) {
        let mut read = 0;
        while read < most {
            let Some(Ok(entry)) = table.entries.next() else {
                return (read, true);
            };
            read += 1;
            let mut link = [0; 64];
            let Ok(length) = rustix::fs::readlinkat_raw(&table.directory, entry.file_name(), &mut link[..]) else {
                continue;
            };
            if let Some(inode) = socket_inode(&link[..length])
                && self.wanted.contains(&inode)
                && let Some(number) = descriptors::number(entry.file_name())
            {
                self.found.entry(inode).or_insert(Place { tid: table.tid, number });
            }
        }
        (read, false)
    }
}

/// Threads of a process that together have all of its descriptor tables. Mostly that is the first
/// thread alone. A thread that has ended (pthread_exit(3)) has no table, and the others go on.
pub(super) fn tables(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    for tid in process::threads(pid) {
        if tid != pid
            && found
                .iter()
                .take(FEW_TABLES)
                .all(|known| has_another_table(*known, tid))
        {
            found.push(tid);
        }
    }
    found
}

/// True if two threads have different tables. Without kcmp(2): if their numbers of open descriptors
/// differ, or the descriptors if the kernel does not count them.
fn has_another_table(one: i32, other: i32) -> bool {
    match (
        shares_table(one, other),
        descriptors::count(one),
        descriptors::count(other),
    ) {
        (Some(shares), ..) => !shares,
        (None, 0, 0) => names(one) != names(other),
        (None, of_one, of_other) => of_one != of_other,
    }
}

/// True if a thread has its own descriptor table (CLONE_FILES, unshare(2)). Without CONFIG_KCMP: if
/// the two have different descriptors open.
pub(super) fn has_own_table(pid: i32, tid: i32) -> bool {
    shares_table(pid, tid).map_or_else(|| names(pid) != names(tid), |shares| !shares)
}

/// True if two threads share their descriptor table; `None` if kcmp(2) is refused.
fn shares_table(one: i32, other: i32) -> Option<bool> {
    // SAFETY: kcmp takes five integers.
    let order = unsafe { syscall!(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    order.ok().map(|order| order == 0)
}

/// The numbers of a thread's descriptors.
fn names(tid: i32) -> HashSet<OsString> {
    let entries = fs::read_dir(format!("/proc/{tid}/fd")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// The result of a walk over the descriptors of all descendants.
#[derive(Debug, Default)]
pub struct DescendantSockets {
    /// The inode numbers of the descendants' sockets.
    pub sockets: HashSet<u64>,
    /// The number of the descendants' descriptors.
    pub descriptors: usize,
    /// True if all descendants could be inspected.
    pub all_seen: bool,
}

/// Walks over the descriptors of all descendants of this process, including threads with a
/// descriptor table of their own.
pub fn descendant_sockets() -> DescendantSockets {
    let mut found = DescendantSockets {
        all_seen: true,
        ..DescendantSockets::default()
    };
    for tid in process::descendants().into_iter().flat_map(tables) {
        let seen = visit_sockets(tid, |inode| {
            found.descriptors += 1;
            found.sockets.extend(inode);
        });
        // An ended process holds no descriptor.
        found.all_seen &= seen || process::is_gone(tid);
    }
    found
}

/// Calls `visitor` for each descriptor of a process, with the inode number if the descriptor is a
/// socket. False if the process may not be inspected.
fn visit_sockets(pid: i32, mut visitor: impl FnMut(Option<u64>)) -> bool {
    inspect::as_owner(pid, || {
        descriptors::visit(pid, |_, link| {
            visitor(descriptors::socket_inode(link));
            true
        })
    })
}
