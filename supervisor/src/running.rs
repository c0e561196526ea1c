//! The lock that says that a host runs. The lock outlives a broker, and tells the next broker which
//! hosts to wait for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imsup_wire::{HostName, Index};
use rustix::fs::FlockOperation;

/// The time to wait for another supervisor that still has the lock and is about to release its
/// host: its broker died before any program ran.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The period of the attempts to take the lock.
const RETRY: Duration = Duration::from_millis(10);

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum RunningLockError {
    /// Another supervisor has the lock.
    #[error("host {host} already runs: its supervisor holds {path}; `imsup ps` shows it, `imsup stop {host}` ends it")]
    Locked { host: HostName, path: PathBuf },
    /// The file could not be made.
    #[error("cannot make {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

/// The file's content about a host, and about the supervisor that runs the host.
#[derive(Clone, Debug)]
pub struct Running {
    /// The host.
    pub host: HostName,
    /// The host's address: the next broker gives the address to no other host.
    pub index: Index,
    /// The token of the broker's boot, by which the next broker finds the leftovers of a killed
    /// supervisor.
    pub boot: Option<u64>,
}

/// The lock, held until dropped. The file contains our process id, for people and for a clean-up
/// without a broker. Further lines contain the token of the boot, if any, and the number of the
/// host's address.
#[derive(Debug)]
pub struct RunningLock {
    directory: PathBuf,
    running: Running,
    file: File,
}

impl RunningLock {
    /// Takes the lock of a host.
    ///
    /// Blocking: before the loop, for [`TIMEOUT`] at most.
    ///
    /// # Errors
    /// Any [`RunningLockError`].
    pub fn take(directory: &Path, running: Running) -> Result<Self, RunningLockError> {
        let deadline = Instant::now() + TIMEOUT;
        let file = loop {
            match make_locked(directory, &running) {
                Err(RunningLockError::Locked { .. }) if Instant::now() < deadline => std::thread::sleep(RETRY),
                made => break made?,
            }
        };
        Ok(Self {
            directory: directory.to_owned(),
            running,
            file,
        })
    }

    /// Takes the lock anew if its file has been removed (a cleaner of /tmp, a logout): the old lock
    /// shows to no other process that the host runs.
    ///
    /// # Errors
    /// Any [`RunningLockError`]; the old file is kept then.
    pub fn retake(&mut self) -> Result<(), RunningLockError> {
        if !is_at(&self.file, &self.path()) {
            self.file = make_locked(&self.directory, &self.running)?;
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.directory.join(self.running.host.as_str())
    }
}

/// True if an open file is the file at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let there = fs::metadata(path);
    there.is_ok_and(|there| {
        let open = file.metadata();
        open.is_ok_and(|open| (open.dev(), open.ino()) == (there.dev(), there.ino()))
    })
}

/// Makes the file, locks the file, and writes the owner's data. If the former holder removes the
/// file meanwhile, the file is made again.
fn make_locked(directory: &Path, running: &Running) -> Result<File, RunningLockError> {
    let Running { host, index, boot } = running;
    let path = directory.join(host.as_str());
    let failed = |source: std::io::Error| RunningLockError::File {
        path: path.clone(),
        source,
    };
    let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let mut file = loop {
        let file = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut private = DirBuilder::new();
                private.recursive(true).mode(0o700).create(directory).map_err(failed)?;
                open()
            }
            opened => opened,
        }
        .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&file, &path) => break file,
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => {
                return Err(RunningLockError::Locked {
                    host: host.clone(),
                    path,
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    };
    let token = boot.map_or_else(String::new, |boot| boot.to_string());
    let text = format!("{}\n{token}\n{}\n", std::process::id(), index.number());
    // In one write, so that no reader sees half a number.
    if let Err(error) = file.set_len(0).and_then(|()| file.write_all(text.as_bytes())) {
        // A full disk. The lock itself needs no room.
        let _ = file.set_len(0);
        tracing::warn!(
            "{}: {error}: what this supervisor leaves if it is killed may not be found",
            path.display()
        );
    }
    Ok(file)
}

impl Drop for RunningLock {
    fn drop(&mut self) {
        // Removed while still locked, so that no process finds an unlocked file.
        let _ = fs::remove_file(self.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if another process finds the host running.
    fn is_locked(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::AGAIN)
        })
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_anew() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("shop/running");
        let host: HostName = "web".parse().unwrap();
        let path = directory.join("web");
        let running = Running {
            host,
            index: Index::new(3).unwrap(),
            boot: Some(7),
        };
        let mut lock = RunningLock::take(&directory, running).unwrap();
        lock.retake().unwrap();
        assert!(is_locked(&path), "nothing was removed");
        fs::remove_dir_all(base.path().join("shop")).unwrap();
        lock.retake().unwrap();
        assert!(is_locked(&path));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n7\n3\n", std::process::id()));
        drop(lock);
        assert!(!path.exists());
    }
}
