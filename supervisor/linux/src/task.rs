//! Descriptors of other processes: pidfd_open(2), pidfd_getfd(2).

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::means::Means;
use super::syscall::syscall;
use super::{holders, process};

/// `PIDFD_THREAD` (6.9): the descriptor refers to the thread, so its own descriptor table is used.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();

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
            return getfd(&open_process_of(tid)?, number);
        }
        if let Some(position) = self.known.iter().position(|(known, _)| *known == tid) {
            match getfd(&self.known[position].1, number) {
                Err(Errno::ESRCH) => {
                    self.known.remove(position);
                }
                result => {
                    self.known.swap(0, position);
                    return result;
                }
            }
        }
        let pidfd = open(tid, PIDFD_THREAD)?;
        let result = getfd(&pidfd, number);
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
        true => open(tid, PIDFD_THREAD),
        false => open_process_of(tid),
    }
}

/// Whether the kernel has pidfds of threads (6.9); one that does not know the flag says EINVAL (pidfd_open(2)).
pub(super) fn has_thread_pidfds() -> bool {
    open(nix::unistd::gettid().as_raw(), PIDFD_THREAD).is_ok()
}

/// A pidfd for the process that thread `tid` belongs to, with whose descriptors the thread works.
fn open_process_of(tid: i32) -> Result<OwnedFd, Errno> {
    match open(tid, 0) {
        // Not its process's first thread: EINVAL, and from 6.16 on ENOENT (fs/pidfs.c, kernel/pid.c).
        Err(Errno::EINVAL | Errno::ENOENT) => {
            let process = process::thread_group(tid).ok_or(Errno::ESRCH)?;
            let pidfd = open(process, 0)?;
            match holders::has_own_table(process, tid) {
                true => Err(Errno::EPERM),
                false => Ok(pidfd),
            }
        }
        result => result,
    }
}

/// A pidfd for the process `pid`: polls readable when it has ended, all its threads included.
///
/// # Errors
/// ESRCH where it is gone, EINVAL where `pid` is a thread and no process.
pub fn open_process(pid: i32) -> Result<OwnedFd, Errno> {
    open(pid, 0)
}

fn open(pid: i32, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { syscall!(libc::SYS_pidfd_open, pid, flags) }?;
    owned(fd)
}

fn getfd(pidfd: &OwnedFd, number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three integers.
    let fd = unsafe { syscall!(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) }?;
    owned(fd)
}

/// Duplicates descriptor `number` of the process behind `pidfd`.
///
/// # Errors
/// As pidfd_getfd(2).
pub fn duplicate_from(pidfd: &OwnedFd, number: RawFd) -> Result<OwnedFd, Errno> {
    getfd(pidfd, number)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
