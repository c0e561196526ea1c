//! Descriptors of the threads that make trapped calls, duplicated by pidfds.

use std::collections::VecDeque;
use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;

use super::support::Support;
use super::{holders, pidfd, process};

/// The number of remembered threads. Servers make calls from few threads at a time; each thread
/// beyond this number costs one more system call.
const CAPACITY: usize = 64;

/// Duplicates descriptors of the threads that make trapped calls.
///
/// The pidfd of a dead thread stays dead after the id is reused (the result is ESRCH), so entries
/// need no check beyond their use. Before Linux 6.9 there are only pidfds of processes. The pidfd
/// of a process outlives the thread, whose id may belong to another process by then, so these
/// pidfds are not remembered.
#[derive(Debug)]
pub struct Tasks {
    of_threads: bool,
    /// Most recently used first.
    known: VecDeque<(i32, OwnedFd)>,
}

impl Tasks {
    /// Uses pidfds of threads if the kernel supports them.
    pub fn new(support: Support) -> Self {
        Self {
            of_threads: support.pidfd_thread,
            known: VecDeque::new(),
        }
    }

    /// A duplicate of descriptor `number` of thread `tid`, close-on-exec. The thread must be
    /// waiting in a call, or the id may belong to another thread. Check afterwards that the thread
    /// still waits ([`super::notify::Listener::is_valid`]).
    ///
    /// # Errors
    /// EBADF if the descriptor is not open, EPERM if the process may not be inspected, ESRCH if the
    /// thread is gone. Before Linux 6.9, also EPERM if the thread has descriptors of its own, or if
    /// the first thread of the process has ended.
    pub fn duplicate(&mut self, tid: i32, number: RawFd) -> Result<OwnedFd, Errno> {
        if number < 0 {
            return Err(Errno::EBADF);
        }
        if !self.of_threads {
            return pidfd::duplicate_from(&open_process_of(tid)?, number);
        }
        if let Some(position) = self.known.iter().position(|(known, _)| *known == tid) {
            match pidfd::duplicate_from(&self.known[position].1, number) {
                Err(Errno::ESRCH) => {
                    self.known.remove(position);
                }
                result => {
                    self.known.swap(0, position);
                    return result;
                }
            }
        }
        let pidfd = pidfd::open(tid, pidfd::PIDFD_THREAD)?;
        let result = pidfd::duplicate_from(&pidfd, number);
        if result.is_ok() {
            self.known.truncate(CAPACITY - 1);
            self.known.push_front((tid, pidfd));
        }
        result
    }
}

/// A pidfd for the thread `tid`; for the thread's process if the kernel has no thread pidfds.
///
/// # Errors
/// ESRCH if the thread is gone; without thread pidfds also EPERM if the thread has a descriptor
/// table of its own.
pub fn open_thread(tid: i32) -> Result<OwnedFd, Errno> {
    match Support::present().pidfd_thread {
        true => pidfd::open(tid, pidfd::PIDFD_THREAD),
        false => open_process_of(tid),
    }
}

/// A pidfd for the process of thread `tid`, if the thread uses the descriptors of the process.
fn open_process_of(tid: i32) -> Result<OwnedFd, Errno> {
    match pidfd::open(tid, 0) {
        // Not the first thread of a process: EINVAL, and from 6.16 on ENOENT (fs/pidfs.c,
        // kernel/pid.c).
        Err(Errno::EINVAL | Errno::ENOENT) => {
            let process = process::thread_group(tid).ok_or(Errno::ESRCH)?;
            let pidfd = pidfd::open(process, 0)?;
            match holders::has_own_table(process, tid) {
                true => Err(Errno::EPERM),
                false => Ok(pidfd),
            }
        }
        result => result,
    }
}
