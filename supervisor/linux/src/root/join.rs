//! Entering the namespaces of a process that runs in a root (setns(2) with a pidfd, 5.8).

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use imsup_wire::RootSpec;
use nix::errno::Errno;

use super::PlanError;
use crate::syscall::syscall;

/// The root of another process, for a program beside it.
#[derive(Debug)]
pub struct Join<'a> {
    process: BorrowedFd<'a>,
    namespaces: libc::c_int,
    pub(super) working_dir: CString,
    pub(super) capabilities: u64,
}

impl<'a> Join<'a> {
    /// The root of the process with this pidfd, as it was specified.
    ///
    /// # Errors
    /// [`PlanError::Nul`].
    pub fn new(process: BorrowedFd<'a>, spec: &RootSpec, working_dir: &Path) -> Result<Self, PlanError> {
        Ok(Self {
            process,
            namespaces: super::namespaces(&spec.ids),
            working_dir: CString::new(working_dir.as_os_str().as_bytes())?,
            capabilities: spec.capabilities,
        })
    }

    /// Enters all namespaces. Only children of the caller are in the pid namespace
    /// (pid_namespaces(7)). Async-signal-safe; the caller has a single thread.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        // SAFETY: both arguments are numbers.
        unsafe { syscall!(libc::SYS_setns, self.process.as_raw_fd(), self.namespaces) }.map(drop)
    }
}

/// fork(2), but the child is a child of our parent, which reaps it (clone(2), CLONE_PARENT).
///
/// # Safety
/// As fork(2).
pub(crate) unsafe fn fork_sibling() -> Result<libc::c_long, Errno> {
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of our memory and the stack.
    unsafe { syscall!(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) }
}
