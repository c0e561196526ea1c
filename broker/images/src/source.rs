//! Where images come from.

mod archive;
mod daemon;
mod docker;
mod files;
mod layout;
mod load;

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::progress::Progress;
use crate::registry::RegistryError;
use crate::store::LayerSource;

pub use daemon::Saving;
pub use load::{LoadError, Loaded, load_path, load_stream};

/// The documents and layers of images.
pub trait Source: Sync {
    /// The text of a manifest, an index or a configuration. The caller checks the digest.
    ///
    /// # Errors
    /// The source does not have it, or cannot be read.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError>;

    /// A layer's stream. A source that is slow may first collect the layer in the file `partial`,
    /// which may have its beginning already.
    ///
    /// # Errors
    /// The source does not have it, or cannot be read.
    fn layer<'a>(
        &'a self,
        descriptor: &Descriptor,
        partial: &Path,
        progress: &dyn Progress,
    ) -> Result<LayerSource<'a>, SourceError>;
}

/// A source that fails.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file.
    #[error("reading {}: {source}", .path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Content that a manifest names is not there.
    #[error("{digest}, which its manifest names, is missing in {}", .path.display())]
    Missing {
        /// The content.
        digest: Digest,
        /// Where it was looked for.
        path: PathBuf,
    },
}
