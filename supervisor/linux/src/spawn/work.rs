//! Work of our own in a root: a child that executes nothing.

use std::io::Write;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

use super::{SpawnError, child, errno_from, fork_with, give_ids};
use crate::root::{FailedStep, Root};
use crate::single_thread::SingleThread;

/// Does `work` in a child that is in a new root, as the root's user 0, and gives the child's exit
/// status. The child may allocate: no other thread can hold a lock at the fork.
///
/// # Errors
/// Any [`SpawnError`]; [`SpawnError::Child`] if the child was killed.
pub fn work_in(root: &Root, _: &SingleThread, work: impl FnOnce() -> i32) -> Result<i32, SpawnError> {
    let no_descriptors = |error: std::io::Error| SpawnError::Fork(errno_from(&error));
    let (mut report, mut child_report) = UnixStream::pair().map_err(no_descriptors)?;
    let (mut child_go, mut go) = std::io::pipe().map_err(no_descriptors)?;
    let mut slots = root.slots();
    // SAFETY: there is no other thread (the token), so the child may do anything.
    match unsafe { fork_with(root.namespaces()) }.map_err(SpawnError::Fork)? {
        ForkResult::Child => {
            drop((report, go));
            let code = match child::enter_root_of(root, &mut slots, &mut child_go) {
                Ok(()) => {
                    drop(child_report);
                    work()
                }
                Err(FailedStep { number, errno }) => {
                    let _ = child_report.write_all(&child::report_of(errno as i32, Some(number)));
                    127
                }
            };
            // SAFETY: _exit runs no destructors, as what they would undo is the parent's.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop((child_report, child_go));
            give_ids(child, root, &mut go)?;
            let failed = child::read_report(&mut report);
            match (failed, waitpid(child, None).map_err(SpawnError::Child)?) {
                (Some([errno, step]), _) => {
                    let (number, errno) = (step.cast_unsigned(), Errno::from_raw(errno));
                    Err(SpawnError::Root {
                        step: root.describe(FailedStep { number, errno }),
                        errno,
                    })
                }
                (None, WaitStatus::Exited(_, code)) => Ok(code),
                (None, _) => Err(SpawnError::Child(Errno::ECHILD)),
            }
        }
    }
}
