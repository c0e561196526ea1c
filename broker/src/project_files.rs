//! The project's files while its broker lives, which somebody may remove.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use imsup_compose::cluster::Cluster;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use crate::error::BrokerError;
use crate::files;
use crate::paths::Paths;
use crate::project_lock::ProjectLock;
use crate::routes::Noted;
use crate::tokens::Source;
use crate::watch::Watch;

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
        let mut known = Self {
            lock,
            watch: Watch::start(paths, registry)?,
            routes: Noted::read(paths),
            socket: None,
            looks_again: false,
            said: false,
        };
        known.note_socket(paths);
        Ok(known)
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
    let there = fs::symlink_metadata(path).ok()?;
    there.file_type().is_socket().then(|| (there.dev(), there.ino()))
}

/// Notes whose project this is: another directory may have the same name.
pub(crate) fn note_directory(cluster: &Cluster, paths: &Paths) {
    if cluster.hosts.is_empty() {
        return;
    }
    let directory = fs::canonicalize(&cluster.directory).unwrap_or_else(|_| cluster.directory.clone());
    if let Err(error) = files::replace(&paths.directory(), directory.as_os_str().as_bytes()) {
        tracing::warn!(
            "{}: {error}: projects of the same name are not told apart",
            paths.directory().display()
        );
    }
}

/// Replaces the socket that a dead broker left, if any: the lock is held, so nobody serves it.
pub(crate) fn listen(paths: &Paths, registry: &mio::Registry) -> Result<UnixListener, BrokerError> {
    const MAX_PATH: usize = 107;
    let path = paths.socket();
    if path.as_os_str().len() > MAX_PATH {
        return Err(BrokerError::PathTooLong(path));
    }
    let file_error = |source| BrokerError::File {
        what: "the broker's socket",
        path: path.clone(),
        source,
    };
    files::remove(&path).map_err(file_error)?;
    // Bound beside its place and moved there, so that supervisors which wait for it (inotify) find it listening.
    let new = path.with_extension("new");
    files::remove(&new).map_err(file_error)?;
    let listener = UnixListener::bind(&new).map_err(file_error)?;
    listener.set_nonblocking(true).map_err(file_error)?;
    fs::rename(&new, &path).map_err(file_error)?;
    registry
        .register(
            &mut SourceFd(&listener.as_raw_fd()),
            Source::Listener.into(),
            Interest::READABLE,
        )
        .map_err(file_error)?;
    Ok(listener)
}
