//! Pidfds: pidfd_open(2), pidfd_getfd(2).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::syscall::syscall;

/// `PIDFD_THREAD` (6.9): the descriptor refers to the thread, so the thread's own descriptor table
/// is used.
pub(crate) const PIDFD_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();

/// True if the kernel has pidfds of threads (6.9); an older kernel returns EINVAL for the unknown
/// flag (pidfd_open(2)).
pub(crate) fn has_thread_pidfds() -> bool {
    open(nix::unistd::gettid().as_raw(), PIDFD_THREAD).is_ok()
}

/// A pidfd for the process `pid`: polls readable once the process has ended, including all its
/// threads.
///
/// # Errors
/// ESRCH if the process is gone, EINVAL if `pid` is a thread and no process.
pub fn open_process(pid: i32) -> Result<OwnedFd, Errno> {
    open(pid, 0)
}

/// A pidfd with these flags (pidfd_open(2)).
pub(crate) fn open(pid: i32, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { syscall!(libc::SYS_pidfd_open, pid, flags) }?;
    owned(fd)
}

/// Duplicates descriptor `number` of the process behind `pidfd`.
///
/// # Errors
/// As pidfd_getfd(2).
pub fn duplicate_from(pidfd: &OwnedFd, number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three integers.
    let fd = unsafe { syscall!(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) }?;
    owned(fd)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
