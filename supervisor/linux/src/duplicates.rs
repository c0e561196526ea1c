//! Duplicates of descriptors of stopped processes: by pidfd_getfd(2), or handed over by one of
//! their stopped threads (unix(7), SCM_RIGHTS).

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::injected;
use super::pidfd;
use super::stopped::Stopped;
use super::support::Support;

/// How descriptors of processes that stand still are duplicated.
#[derive(Clone, Copy, Debug)]
pub enum Duplicates<'a> {
    /// By the kernel.
    Kernel,
    /// By one of their threads, all of which are stopped.
    Threads(&'a Stopped),
}

impl<'a> Duplicates<'a> {
    /// The method for processes of stopped threads.
    pub fn of(stopped: &'a Stopped) -> Self {
        match Support::present().pidfd_getfd {
            true => Self::Kernel,
            false => Self::Threads(stopped),
        }
    }
}

impl Duplicates<'_> {
    /// A duplicate of a descriptor of a process.
    ///
    /// # Errors
    /// EBADF if the descriptor is not open, EPERM if the process may not be inspected, ESRCH if it
    /// is gone, EMFILE if descriptors run out; EOPNOTSUPP if none of its threads can hand the
    /// descriptor over.
    pub fn one(&self, pid: i32, number: i32) -> Result<OwnedFd, Errno> {
        self.all(pid, &[number])?.pop().unwrap_or(Err(Errno::EBADF))
    }

    /// Duplicates of several descriptors, in their order.
    ///
    /// # Errors
    /// As [`Duplicates::one`], except EBADF, which is reported for each.
    pub fn all(&self, pid: i32, numbers: &[i32]) -> Result<Vec<Result<OwnedFd, Errno>>, Errno> {
        match self {
            Self::Kernel => {
                let pidfd = pidfd::open_process(pid)?;
                let duplicate = |number: &i32| match pidfd::duplicate_from(&pidfd, *number) {
                    Err(errno) if errno != Errno::EBADF => Err(errno),
                    duplicate => Ok(duplicate),
                };
                numbers.iter().map(duplicate).collect()
            }
            Self::Threads(stopped) => {
                // The table does not change meanwhile: its threads are stopped.
                let is_open = |number: &i32| std::fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
                let open: Vec<i32> = numbers.iter().copied().filter(is_open).collect();
                let mut found = match open.is_empty() {
                    true => Vec::new(),
                    false => stopped.hand_over(pid, open.clone())?,
                }
                .into_iter();
                let mut open = open.into_iter().peekable();
                let mut next = |number: &i32| match open.next_if_eq(number) {
                    Some(_) => found.next().ok_or(Errno::EBADF),
                    None => Err(Errno::EBADF),
                };
                Ok(numbers.iter().map(&mut next).collect())
            }
        }
    }
}

/// Counts the seccomp filters that a program has from its supervisor, once for the process. Called
/// before the supervisor is confined: a program with filters of its own hands no descriptors over.
pub fn note_filters() {
    injected::note_filters();
}
