//! Adding images to the store.

use std::fs::File;
use std::path::PathBuf;

use super::layers::verify;
use super::lock::Lock;
use super::names::Named;
use super::{Store, StoreError, failed};
use crate::digest::Digest;
use crate::reference::Reference;

/// The right to add images. As long as it exists, nothing is removed from the store.
#[derive(Debug)]
pub struct Addition {
    pub(super) store: Store,
    _adding: Lock,
}

impl Store {
    /// Begins to add images. Blocking: while another process removes some.
    ///
    /// # Errors
    /// The lock cannot be opened.
    pub fn add(&self) -> Result<Addition, StoreError> {
        Ok(Addition {
            _adding: Lock::shared(&self.path.join("adding.lock"))?,
            store: self.clone(),
        })
    }
}

impl Addition {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A manifest, an index or a configuration that is there already.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn known(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.blob(digest)
    }

    /// Adds a manifest, an index or a configuration.
    ///
    /// # Errors
    /// The content has another digest, or cannot be written.
    pub fn blob(&self, digest: Digest, content: &[u8]) -> Result<(), StoreError> {
        verify("the document", digest, Digest::of(content))?;
        match self.store.blob(digest)? {
            Some(_) => Ok(()),
            None => self.store.write_file(&self.store.blob_path(digest), content),
        }
    }

    /// Gives names to an image that is whole.
    ///
    /// # Errors
    /// The names cannot be written.
    pub fn name(&self, names: &[Reference], digest: Digest) -> Result<(), StoreError> {
        self.store.change_names(|known| {
            known.extend(names.iter().map(|name| (name.clone(), Named::now(digest))));
        })
    }

    /// A file without content, which goes away with the guard.
    pub(crate) fn temporary_file(&self) -> Result<(impl Drop, File), StoreError> {
        let temporary = self.store.temporary()?;
        let path = temporary.path().join("file");
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        let file = open.map_err(failed("making", &path))?;
        Ok((temporary, file))
    }

    /// The place of a layer that is downloaded: kept if the download is interrupted, until the
    /// layer is there or the store is pruned. Only the holder of the layer's lock uses it
    /// ([`Addition::layer`]).
    pub fn partial(&self, digest: Digest) -> PathBuf {
        self.store.path.join("partial").join(digest.hex())
    }
}
