//! The project's files during the broker's life, which other processes may remove.

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

/// The broker's knowledge of its files.
#[derive(Debug)]
pub(crate) struct ProjectFiles {
    pub(crate) lock: ProjectLock,
    pub(crate) watch: Watch,
    pub(crate) routes: Noted,
    /// The broker's socket: device and inode.
    socket: Option<(u64, u64)>,
    /// True if another look for missing files is due soon.
    pub(crate) looks_again: bool,
    /// True if it was logged that the files cannot be made anew.
    pub(crate) warned: bool,
}

impl ProjectFiles {
    /// For a project with all its files.
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
            warned: false,
        };
        known.note_socket(paths);
        Ok(known)
    }

    /// Remembers the socket that is there now as the broker's own.
    pub(crate) fn note_socket(&mut self, paths: &Paths) {
        self.socket = socket_at(&paths.socket());
    }

    /// True if the lock is at its path.
    pub(crate) fn has_lock(&self, paths: &Paths) -> bool {
        self.lock.is_at(&paths.lock())
    }

    /// True if the broker's socket is at its path.
    pub(crate) fn has_socket(&self, paths: &Paths) -> bool {
        self.socket.is_some() && self.socket == socket_at(&paths.socket())
    }
}

fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let there = fs::symlink_metadata(path).ok()?;
    there.file_type().is_socket().then(|| (there.dev(), there.ino()))
}

/// Notes the project's directory: another directory may have the same name.
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

/// Replaces the socket of a dead broker, if any: since the lock is held, no other broker serves
/// there.
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
    // Bound at a temporary path and then renamed, so that supervisors that wait for the socket
    // (inotify) find a listener.
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
