//! Children by descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;

use imsup_linux::pidfd::open_process;

/// A descriptor of the process with this number.
pub(crate) fn open(pid: u32) -> Option<OwnedFd> {
    open_process(i32::try_from(pid).ok()?).ok()
}

/// The descriptor of a child that is not reaped yet (pidfd_open(2)). The child is killed if there
/// is no descriptor: the child would be unknown.
pub(super) fn pidfd_of(child: Child) -> io::Result<OwnedFd> {
    open_with(child, |pid| Ok(open_process(pid)?))
}

/// Blocking: a child that was killed by this function, and runs nothing yet that could hold it up.
fn open_with(mut child: Child, open: impl FnOnce(i32) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    // The child is not reaped yet, so the number is still its own.
    let number = i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidData.into());
    let opened = number.and_then(open);
    if opened.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    opened
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::io::Errno;
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    use super::*;

    /// Makes a child that goes on, and then fails with this errno.
    fn fail(errno: Errno) -> (Pid, io::Error) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let error = open_with(child, |asked| {
            assert_eq!(asked, pid.as_raw_nonzero().get());
            Err(errno.into())
        });
        (pid, error.unwrap_err())
    }

    #[test]
    fn a_child_without_a_descriptor_is_ended_and_waited_for() {
        let (pid, error) = fail(Errno::MFILE);
        assert_eq!(error.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
        let gone = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        assert_eq!(gone.unwrap_err(), Errno::CHILD);
    }

    #[test]
    fn a_child_with_one_goes_on() {
        let child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let stdin = child.stdin.take();
        let process = pidfd_of(child).unwrap();
        let ended = |options| waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&process)), options).unwrap();
        assert!(ended(WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_none());
        drop(stdin);
        assert_eq!(ended(WaitIdOptions::EXITED).unwrap().exit_status(), Some(0));
    }
}
