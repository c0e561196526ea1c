//! The freezer: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

/// Why no cgroup could be made or used.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// No cgroup2 file system is mounted where this process could use it.
    #[error("no cgroup v2 hierarchy is mounted")]
    NotMounted,
}

/// Why a cgroup could not be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FreezeError {
    /// A process did not stop in time.
    #[error("the freezer did not answer in time")]
    TimedOut,
    /// The kernel refused.
    #[error("the cgroup cannot be frozen ({})", .0.desc())]
    Refused(Errno),
}

/// A cgroup of ours, with the processes of one host.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// Makes cgroup `name` below the one this process is in.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn make(_name: &str) -> Result<Self, CgroupError> {
        Err(CgroupError::NotMounted)
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// Where the process may not be moved.
    pub fn add(&self, _pid: i32) -> Result<(), CgroupError> {
        Err(CgroupError::NotMounted)
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<i32> {
        Vec::new()
    }

    /// Freezes it.
    ///
    /// # Errors
    /// [`FreezeError::TimedOut`] after `patience`; it is thawed then.
    pub fn freeze(&self, _patience: Duration) -> Result<(), FreezeError> {
        Err(FreezeError::TimedOut)
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        false
    }

    /// Thaws it.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn thaw(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Removes it, after its processes ended.
    pub fn remove(self) {
        let _ = std::fs::remove_dir(&self.directory);
    }
}
