//! Descriptors of the threads that make trapped calls, duplicated by pidfds.

use std::collections::VecDeque;
use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;

use super::means::Means;
use super::{holders, pidfd, process};

/// Threads remembered. Servers call from few threads at a time; a thread beyond this costs one more system call.
const CAPACITY: usize = 64;

/// Duplicates descriptors of the threads that make trapped calls.
///
/// A pidfd of a thread that died stays dead when its number is used again (it answers ESRCH), so entries need no other
/// check than their use. Before Linux 6.9 there are pidfds of processes only. One of those lives on when the thread has ended, and its
/// thread's number may be another process's by then: nothing is remembered there.
#[derive(Debug)]
pub struct Tasks {
    of_threads: bool,
    /// Most recently used first.
    known: VecDeque<(i32, OwnedFd)>,
}

impl Tasks {
    /// With pidfds of threads, if the kernel has them.
    pub fn new(means: Means) -> Self {
        Self {
            of_threads: means.pidfd_thread,
            known: VecDeque::new(),
        }
    }

    /// A duplicate of descriptor `number` of thread `tid`, close-on-exec. The thread must be waiting in a call, or its number may be another thread's:
    /// ask afterwards whether it waits still ([`super::notify::Listener::is_valid`]).
    ///
    /// # Errors
    /// EBADF where it is not open, EPERM where the process may not be inspected (before Linux 6.9: where the thread has descriptors of its own, or
    /// its process's first thread has ended), ESRCH where it is gone.
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

/// A pidfd for the thread `tid`; for its process where the kernel has no thread pidfds.
///
/// # Errors
/// ESRCH where it is gone; without thread pidfds EPERM where its process's descriptors are not its own.
pub fn open_thread(tid: i32) -> Result<OwnedFd, Errno> {
    match Means::present().pidfd_thread {
        true => pidfd::open(tid, pidfd::PIDFD_THREAD),
        false => open_process_of(tid),
    }
}

/// A pidfd for the process that thread `tid` belongs to, with whose descriptors the thread works.
fn open_process_of(tid: i32) -> Result<OwnedFd, Errno> {
    match pidfd::open(tid, 0) {
        // Not its process's first thread: EINVAL, and from 6.16 on ENOENT (fs/pidfs.c, kernel/pid.c).
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
