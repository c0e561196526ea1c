//! Descriptors of other processes: pidfd_open(2), pidfd_getfd(2).

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `PIDFD_THREAD` (6.9): the descriptor refers to the thread, so its own descriptor table is used.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();

/// Threads remembered. Servers call from few threads at a time; a thread beyond this costs one more system call.
const CAPACITY: usize = 64;

/// Duplicates descriptors of the threads that make trapped calls.
///
/// A pidfd of a thread that died stays dead when its number is used again (it answers ESRCH), so entries need no other
/// check than their use.
#[derive(Debug, Default)]
pub struct Tasks {
    /// Most recently used first.
    known: VecDeque<(i32, OwnedFd)>,
}

impl Tasks {
    /// A duplicate of descriptor `number` of thread `tid`, close-on-exec.
    ///
    /// # Errors
    /// EBADF where it is not open, EPERM where the process may not be inspected, ESRCH where it is gone.
    pub fn duplicate(&mut self, tid: i32, number: RawFd) -> Result<OwnedFd, Errno> {
        if number < 0 {
            return Err(Errno::EBADF);
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
        let pidfd = open_thread(tid)?;
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
/// ESRCH where it is gone.
pub fn open_thread(tid: i32) -> Result<OwnedFd, Errno> {
    match open(tid, PIDFD_THREAD) {
        Err(Errno::EINVAL) => open(super::process::thread_group(tid).ok_or(Errno::ESRCH)?, 0),
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
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    owned(fd)
}

fn getfd(pidfd: &OwnedFd, number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three integers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
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
