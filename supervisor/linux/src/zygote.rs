//! Becoming another process's sibling: clone(2) with CLONE_PARENT.

use nix::errno::Errno;
use nix::unistd::Pid;

use super::single_thread::SingleThread;
use super::syscall::syscall;

/// Who goes on after [`spawn_sibling`].
#[derive(Debug)]
pub enum Forked {
    /// The calling process, with the pid of the sibling.
    Still(Pid),
    /// The sibling.
    Sibling,
}

/// fork(2), but the parent of the child is our own parent, which reaps the child.
///
/// # Errors
/// What clone(2) says.
pub fn spawn_sibling(_: &SingleThread) -> Result<Forked, Errno> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of our memory and the stack it
    // was called on, and there is no other thread (the token) whose locks it could find held. The C
    // library's notion of the thread's id is our own in the child: it looks at it only for mutexes
    // that have an owner, where any number that no other thread of the process has will do.
    let pid = unsafe { syscall!(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid? {
        0 => Ok(Forked::Sibling),
        pid => Ok(Forked::Still(Pid::from_raw(
            i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?,
        ))),
    }
}
