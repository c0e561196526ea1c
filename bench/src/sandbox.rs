//! imsup with directories of its own, so that the machine's projects are left alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::tidier::Tidier;

/// imsup with directories of its own.
#[derive(Debug)]
pub struct Sandbox {
    imsup: PathBuf,
    directory: PathBuf,
    /// Removed first, so that the other cleaner has no work.
    _own: Option<(TempDir, Tidier)>,
}

impl Sandbox {
    /// Directories for this imsup; gone when this is dropped.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn new(imsup: PathBuf) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("imsup-bench-")
            .tempdir()
            .context("making a directory for the benchmarks")?;
        let tidier = Tidier::start(&imsup, directory.path())?;
        Ok(Self {
            imsup,
            directory: directory.path().to_owned(),
            _own: Some((directory, tidier)),
        })
    }

    /// The directories of a dead run; they stay on drop.
    pub fn left(imsup: PathBuf, directory: &Path) -> Self {
        Self {
            imsup,
            directory: directory.to_owned(),
            _own: None,
        }
    }

    /// A directory that is gone in the end.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory that containers see at the same path.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn shared(&self) -> Result<PathBuf> {
        let path = self.directory.join("shared");
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// A writable directory; containers have their own at the same path.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn scratch(&self) -> Result<PathBuf> {
        let path = self.directory.join("scratch");
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// The parent of the projects' runtime directories.
    pub fn runtime(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// imsup, to be given arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.imsup);
        command
            .current_dir(&self.directory)
            .env("IMSUP_RUNTIME_DIR", self.runtime())
            .env("IMSUP_STATE_DIR", self.directory.join("state"))
            .env_remove("COMPOSE_PROJECT_NAME")
            .env_remove("COMPOSE_FILE")
            .env_remove("IMSUP_LOG");
        command
    }
}
