//! The lock by which a process is a project's broker.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::error::BrokerError;
use crate::paths::Paths;
use crate::project_directories::{RUNTIME, STATE, make_directory};
use crate::{keeper, lost, watch};

/// How long a broker that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);

/// How long a broker that `imsup run` started for itself may take to be gone after the command.
const LEAVING: Duration = Duration::from_secs(1);

/// The lock that makes this process the project's broker: the file locked with flock(2).
#[derive(Clone, Debug)]
pub(crate) struct ProjectLock(Rc<RefCell<File>>);

impl ProjectLock {
    /// Makes the project's directories and takes the lock that makes this process the project's
    /// broker.
    ///
    /// A broker that `follows` a dead broker waits until the dead broker has released the lock.
    ///
    /// # Errors
    /// The project is up, or was not brought down; or its files cannot be made.
    pub(crate) fn take(project: &str, paths: &Paths, follows: bool) -> Result<Self, BrokerError> {
        Ok(Self(Rc::new(RefCell::new(take(project, paths, follows)?))))
    }

    /// True if the file at this path is it.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        watch::is_at(path, &self.0.borrow())
    }

    /// Notes the identity of the lock's file.
    pub(crate) fn note(&self, paths: &Paths) {
        note_lock(&self.0.borrow(), paths);
    }

    /// Locks a new file in place of the one that nobody finds any more, unless another broker was
    /// faster.
    ///
    /// # Errors
    /// Another broker has the project, or the file cannot be made.
    pub(crate) fn retake(&self, project: &str, paths: &Paths) -> Result<(), BrokerError> {
        let path = paths.lock();
        let taken = try_lock(project, &path, paths.directory_of_file())?;
        let mut lock = taken.ok_or_else(|| BrokerError::File {
            what: "the broker's lock",
            path,
            source: io::ErrorKind::NotFound.into(),
        })?;
        sign(&mut lock, paths);
        self.0.replace(lock);
        Ok(())
    }
}

// Blocking: before the loop.
fn take(project: &str, paths: &Paths, follows: bool) -> Result<File, BrokerError> {
    let start = Instant::now();
    let already_up = |pid| BrokerError::AlreadyUp {
        project: project.to_owned(),
        directory: paths.directory_of_file(),
        pid,
    };
    let mut lock = loop {
        if let Some(lost) = lost::find_for_good(paths) {
            let (project, pid) = (project.to_owned(), lost.pid);
            return Err(BrokerError::Lost { project, pid });
        }
        make_directory(&RUNTIME, paths.runtime())?;
        match try_lock(project, &paths.lock(), paths.directory_of_file()) {
            // The project has a keeper, and thus soon a broker.
            Ok(Some(_)) if !follows && keeper::has_keeper(paths) => return Err(already_up(None)),
            // The files of the project's broker may have been removed just before the lock was
            // there to be taken.
            Ok(Some(lock)) if lost::find(paths).is_none() => break lock,
            Ok(_) => {}
            Err(BrokerError::AlreadyUp { .. }) if follows && start.elapsed() < DYING => std::thread::sleep(LOOK),
            Err(BrokerError::AlreadyUp { pid, .. }) if is_ephemeral(pid) && start.elapsed() < LEAVING => {
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(error),
        }
    };
    // Only now: an ending broker removes all files before releasing the lock.
    make_directory(&RUNTIME, &paths.running(""))?;
    make_directory(&STATE, paths.state())?;
    make_directory(&STATE, &paths.logs())?;
    sign(&mut lock, paths);
    Ok(lock)
}

/// True if this broker ends with its last host: the broker was started by `imsup run`.
///
/// Blocking: for no time, and before the loop.
fn is_ephemeral(pid: Option<u32>) -> bool {
    let Some(pid) = pid else { return false };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).any(|word| word == b"--ephemeral")
}

/// Writes into the lock the process that holds it: only for people, in messages about the project's
/// broker. Notes elsewhere which file is the lock.
fn sign(lock: &mut File, paths: &Paths) {
    if let Err(error) = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())) {
        tracing::warn!("{}: {error}: it does not say who holds it", paths.lock().display());
    }
    note_lock(lock, paths);
}

/// Notes which file is the lock, for processes that cannot find it any more.
fn note_lock(lock: &File, paths: &Paths) {
    if let Err(error) = lost::note_lock(lock, paths) {
        tracing::debug!("{}: {error}", paths.lock_note().display());
    }
}

/// Takes the lock; `None` if an ending broker has just removed the opened file.
fn try_lock(project: &str, path: &Path, directory: Option<PathBuf>) -> Result<Option<File>, BrokerError> {
    let file_error = |source| BrokerError::File {
        what: "the broker's lock",
        path: path.to_owned(),
        source,
    };
    let options = || {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    let mut lock = match options() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(file_error)?,
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text);
            return Err(BrokerError::AlreadyUp {
                project: project.to_owned(),
                directory,
                pid: text.trim().parse().ok(),
            });
        }
        Err(errno) => return Err(file_error(errno.into())),
    }
    let ours = lock.metadata().map_err(file_error)?;
    Ok(match fs::metadata(path) {
        Ok(current) if (current.dev(), current.ino()) == (ours.dev(), ours.ino()) => Some(lock),
        _ => None,
    })
}
