//! Directories of work in progress.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock::Lock;
use super::{Store, StoreError, failed, make_directory, remove};

/// A directory of this process, which is removed on drop, or, if the process dies, by the next
/// process that opens the store.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    _lock: Lock,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What remains is removed by whoever opens the store next.
        let _ = remove::tree(&self.path);
    }
}

impl Store {
    pub(super) fn temporary(&self) -> Result<Temporary, StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Nobody looks for leftovers between the making of the directory and its lock.
        let _making = Lock::shared(&self.path.join("temporary.lock"))?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // A thread of another pid namespace may have this pid as well.
        let path = (0..).map(|again| {
            let pid = std::process::id();
            self.path.join(format!("temporary/{pid}-{number}-{again}"))
        });
        let path = path.into_iter().find(|path| !path.exists()).expect("endless");
        make_directory(&path)?;
        let lock = Lock::try_existing(&path).map_err(failed("locking", &path))?;
        match lock {
            Some(lock) => Ok(Temporary { path, _lock: lock }),
            // Made by another process at the same moment.
            None => self.temporary(),
        }
    }

    /// Removes the directories of processes that are dead.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        let directory = self.path.join("temporary");
        let _making = Lock::exclusive(&self.path.join("temporary.lock"))?;
        let entries = std::fs::read_dir(&directory).map_err(failed("reading", &directory))?;
        for entry in entries {
            let path = entry.map_err(failed("reading", &directory))?.path();
            // Gone meanwhile, or not to be opened: then nobody can use it as a store either.
            if let Ok(Some(_lock)) = Lock::try_existing(&path) {
                // Files of subordinate ids are not this process's to remove, if the process is
                // outside of their user namespace.
                let _ = remove::tree(&path);
            }
        }
        Ok(())
    }

    /// Writes a file of the store: whole, or not at all.
    pub(super) fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temporary = self.temporary()?;
        let new = temporary.path().join("file");
        let write = || {
            let mut file = File::create_new(&new)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&new, path)
        };
        write().map_err(failed("writing", path))
    }
}
