//! The store of images: content by digest, names, and layers that are unpacked once.
//!
//! A user has one store, which all projects of the user share. Many processes use it at once:
//!
//! * Whatever is at its final place is whole: files and layers are made in `temporary/` and renamed.
//! * `adding.lock` is shared by those who add images, and exclusive for whoever removes content.
//! * A layer is unpacked by the process that holds the layer's lock in `locks/`.
//! * A directory in `temporary/` is locked by its process. The next process that opens the store
//!   removes those that nobody locks.

mod addition;
mod layers;
mod lock;
mod names;
mod place;
mod projects;
mod prune;
mod remove;
mod temporary;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, ConfigFile, ImageConfig};
use crate::digest::Digest;
use crate::manifest::{Document, Manifest, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::unpack::{Owners, UnpackError, is_opaque};

pub use addition::Addition;
pub use layers::LayerSource;
pub use place::default_path;
pub use prune::Pruned;

/// The most indexes inside each other.
const MOST_NESTED: usize = 4;

/// A failure of the store. The store itself stays whole.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store.
    #[error("{what} {}: {source}", .path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The disk is full.
    #[error("there is no space left on the disk of the images ({}); 'imsup images prune' frees what nothing uses", .0.display())]
    DiskFull(PathBuf),
    /// A manifest of the store, or one that is added.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A configuration of the store, or one that is added.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The table of names is damaged.
    #[error("{} is damaged: {source}; after 'rm' of it, load or pull the images again", .path.display())]
    Names {
        /// The file.
        path: PathBuf,
        /// The damage.
        source: serde_json::Error,
    },
    /// Content that is not what its name says.
    #[error("{what} {expected} has another content: its digest is {found}")]
    WrongDigest {
        /// What it is.
        what: &'static str,
        /// The name.
        expected: Digest,
        /// The content's digest.
        found: Digest,
    },
    /// A layer that cannot be unpacked.
    #[error("unpacking the layer {layer}: {source}")]
    Unpack {
        /// The layer.
        layer: Digest,
        /// The reason.
        source: UnpackError,
    },
    /// A layer's stream failed.
    #[error("reading the layer {layer}: {source}")]
    Read {
        /// The layer.
        layer: Digest,
        /// The reason.
        source: io::Error,
    },
    /// The configuration and the manifest name different numbers of layers.
    #[error("its manifest has {layers} layers, but its configuration {diff_ids}")]
    LayerCount {
        /// Those of the manifest.
        layers: usize,
        /// Those of the configuration.
        diff_ids: usize,
    },
    /// The image went away while a project was about to use it.
    #[error("the image {0} was removed meanwhile")]
    Removed(Reference),
}

/// The error of a step, with the path.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull(path.to_owned()),
        _ => StoreError::File {
            what,
            path: path.to_owned(),
            source,
        },
    }
}

/// An image whose layers are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name by which it was asked for.
    pub name: Reference,
    /// The digest that the name stands for: that of the index, if there is one.
    pub digest: Digest,
    /// The digest of the platform's manifest.
    pub manifest: Digest,
    /// The platform that it was made for.
    pub platform: Platform,
    /// What it runs.
    pub config: ImageConfig,
    /// The directories of the layers, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// An image by name, for a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Reference,
    /// The digest that the name stands for.
    pub digest: Digest,
    /// The bytes of the files of its layers, which other images may share.
    pub size: u64,
    /// The projects that use it now, sorted.
    pub used_by: Vec<String>,
}

/// The images of one user.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    owners: Owners,
}

impl Store {
    /// The store in a directory, which is made if it does not exist. What dead processes have left
    /// there is removed. Files belong to those whom layers name if this process is root, else to
    /// the user.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let owners = match rustix::process::geteuid().is_root() {
            true => Owners::Recorded,
            false => Owners::Own,
        };
        // Layers are mounted by whoever, wherever.
        let path = path.into();
        let path = std::path::absolute(&path).map_err(failed("finding", &path))?;
        let store = Self { path, owners };
        for directory in [
            "blobs/sha256",
            "layers/recorded",
            "layers/own",
            "temporary",
            "partial",
            "locks",
            "projects",
        ] {
            make_directory(&store.path.join(directory))?;
        }
        store.write_layout()?;
        store.remove_leftovers()?;
        Ok(store)
    }

    /// The same for other owners of files. Layers of different owners are kept apart.
    pub fn with_owners(self, owners: Owners) -> Self {
        Self { owners, ..self }
    }

    /// The directory of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image of this name, or of this digest, for a platform; `None` if the store does not have
    /// all of it.
    ///
    /// # Errors
    /// The store cannot be read, or has no variant for the platform.
    pub fn resolve(&self, name: &Reference, platform: &Platform) -> Result<Option<Image>, StoreError> {
        let digest = match name.digest() {
            Some(digest) => Some(digest),
            None => self.names()?.get(name),
        };
        match digest {
            Some(digest) => self.image(name, digest, platform),
            None => Ok(None),
        }
    }

    fn image(&self, name: &Reference, digest: Digest, platform: &Platform) -> Result<Option<Image>, StoreError> {
        let Some((manifest_digest, manifest)) = self.manifest(digest, platform)? else {
            return Ok(None);
        };
        let Some(config) = self.blob(manifest.config.digest)? else {
            return Ok(None);
        };
        let config = ConfigFile::parse(&config)?;
        let layers = distinct(&config.diff_ids);
        let mut layers: Vec<PathBuf> = layers.into_iter().map(|id| self.layer_root(id)).collect();
        if !layers.iter().all(|layer| layer.is_dir()) {
            return Ok(None);
        }
        // Overlayfs does not ask whether the root itself is opaque (`ovl_get_root`).
        let lowest = layers.iter().rposition(|layer| is_opaque(layer));
        let layers = layers.split_off(lowest.unwrap_or(0));
        Ok(Some(Image {
            name: name.clone(),
            digest,
            manifest: manifest_digest,
            platform: config.platform,
            config: config.config,
            layers,
        }))
    }

    /// The manifest of a platform, found from an index or a manifest; `None` if it is not there.
    fn manifest(&self, digest: Digest, platform: &Platform) -> Result<Option<(Digest, Manifest)>, StoreError> {
        let mut digest = digest;
        for _ in 0..MOST_NESTED {
            let Some(text) = self.blob(digest)? else {
                return Ok(None);
            };
            match Document::parse(&text)? {
                Document::Manifest(manifest) => return Ok(Some((digest, manifest))),
                Document::Index(index) => digest = index.choose(platform)?.digest,
            }
        }
        Ok(None)
    }

    /// All named images that are whole for some platform, sorted by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let users = self.live_projects()?;
        let names = self.names()?;
        let listed = names.iter().map(|(name, digest)| {
            let content = self.content_of(digest)?;
            let uses =
                |project: &&projects::Project| project.images.iter().any(|image| content.manifests.contains(image));
            let mut used_by: Vec<String> = users.iter().filter(uses).map(|user| user.project.clone()).collect();
            used_by.sort();
            used_by.dedup();
            Ok(Listed {
                name: name.clone(),
                digest,
                size: content.layers.iter().map(|id| self.layer_bytes(*id)).sum(),
                used_by,
            })
        });
        listed.collect()
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// A manifest, an index or a configuration; `None` if it is not there.
    fn blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob_path(digest);
        match std::fs::read(&path) {
            // A file that a crash of the machine has damaged is as good as none.
            Ok(content) => Ok(Some(content).filter(|content| Digest::of(content) == digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", &path)(error)),
        }
    }

    fn write_layout(&self) -> Result<(), StoreError> {
        let path = self.path.join("oci-layout");
        match path.exists() {
            true => Ok(()),
            false => self.write_file(&path, br#"{"imageLayoutVersion":"1.0.0"}"#),
        }
    }
}

/// Layers without repetitions, of which the topmost counts: it hides the others wholly, and
/// overlayfs takes no directory twice.
fn distinct(layers: &[Digest]) -> Vec<Digest> {
    let mut seen = BTreeSet::new();
    let mut distinct: Vec<Digest> = layers
        .iter()
        .rev()
        .copied()
        .filter(|layer| seen.insert(*layer))
        .collect();
    distinct.reverse();
    distinct
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(failed("making the directory", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_layers_the_topmost_counts() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::of(text));
        assert_eq!(distinct(&[a, b, a, c, b]), [a, c, b]);
    }
}
