//! Locks between processes (flock(2)). They end with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{StoreError, failed};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// The lock of this process alone. Blocking: until others have released theirs.
    pub(super) fn exclusive(path: &Path) -> Result<Self, StoreError> {
        Self::take(path, FlockOperation::LockExclusive)
    }

    /// A lock that others may hold too. Blocking: until an exclusive one is released.
    pub(super) fn shared(path: &Path) -> Result<Self, StoreError> {
        Self::take(path, FlockOperation::LockShared)
    }

    fn take(path: &Path, operation: FlockOperation) -> Result<Self, StoreError> {
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = open.map_err(failed("opening the lock", path))?;
        lock(&file, operation).map_err(failed("locking", path))?;
        Ok(Self { _file: file })
    }

    /// The lock of a file or directory that exists; `None` if another process holds one.
    pub(super) fn try_existing(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        match lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => (),
            result => return Ok(result?),
        }
    }
}
