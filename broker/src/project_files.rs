//! The project's files while its broker lives, which somebody may remove.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;

use mio::Registry;

use crate::paths::Paths;
use crate::routes::Noted;
use crate::run;
use crate::watch::{self, Watch};

/// The lock that makes this process the project's broker: the file that it holds with flock(2).
#[derive(Clone, Debug)]
pub(crate) struct ProjectLock(Rc<RefCell<File>>);

impl ProjectLock {
    /// Of a file that is locked.
    pub(crate) fn new(file: File) -> Self {
        Self(Rc::new(RefCell::new(file)))
    }

    fn is_at(&self, path: &Path) -> bool {
        watch::is_at(path, &self.0.borrow())
    }

    /// Notes which file it is.
    pub(crate) fn note(&self, paths: &Paths) {
        run::note_lock(&self.0.borrow(), paths);
    }

    /// Holds this file in place of the one that nobody finds any more.
    pub(crate) fn replace(&self, file: File) {
        self.0.replace(file);
    }
}

/// What a broker knows of its files.
#[derive(Debug)]
pub(crate) struct ProjectFiles {
    pub(crate) lock: ProjectLock,
    pub(crate) watch: Watch,
    pub(crate) routes: Noted,
    /// The broker's socket: device and inode.
    socket: Option<(u64, u64)>,
    /// It is looked soon whether any are missing.
    pub(crate) looks_again: bool,
    /// It was said that they cannot be made anew.
    pub(crate) said: bool,
}

impl ProjectFiles {
    /// Of a project whose files are there.
    ///
    /// # Errors
    /// inotify(7).
    pub(crate) fn new(lock: ProjectLock, paths: &Paths, registry: &Registry) -> io::Result<Self> {
        let mut files = Self {
            lock,
            watch: Watch::start(paths, registry)?,
            routes: Noted::read(paths),
            socket: None,
            looks_again: false,
            said: false,
        };
        files.note_socket(paths);
        Ok(files)
    }

    /// Remembers the socket that is there now as the broker's own.
    pub(crate) fn note_socket(&mut self, paths: &Paths) {
        self.socket = socket_at(&paths.socket());
    }

    /// Whether the lock is where others look for it.
    pub(crate) fn has_lock(&self, paths: &Paths) -> bool {
        self.lock.is_at(&paths.lock())
    }

    /// Whether the broker's socket is where others look for it.
    pub(crate) fn has_socket(&self, paths: &Paths) -> bool {
        self.socket.is_some() && self.socket == socket_at(&paths.socket())
    }
}

fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let there = std::fs::symlink_metadata(path).ok()?;
    there.file_type().is_socket().then(|| (there.dev(), there.ino()))
}
