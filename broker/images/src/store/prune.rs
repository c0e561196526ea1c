//! Removing what nothing uses.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::{Store, StoreError, failed, remove};
use crate::config::ConfigFile;
use crate::digest::Digest;
use crate::manifest::Document;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names.
    pub names: usize,
    /// Unpacked layers.
    pub layers: usize,
    /// The bytes of the files of the layers, and of downloads that were not complete.
    pub bytes: u64,
}

/// What belongs to an image.
#[derive(Debug, Default)]
pub(super) struct Content {
    blobs: BTreeSet<Digest>,
    pub(super) manifests: BTreeSet<Digest>,
    pub(super) layers: BTreeSet<Digest>,
}

impl Store {
    /// Removes everything that neither a name nor a project that is up uses; with `all`, also the
    /// names that no project uses. Blocking: until no process adds images.
    ///
    /// # Errors
    /// The store cannot be read or written. What remains is whole.
    pub fn prune(&self, all: bool) -> Result<Pruned, StoreError> {
        let _adding = Lock::exclusive(&self.path.join("adding.lock"))?;
        self.forget_dead_projects()?;
        let used: BTreeSet<Digest> = self
            .live_projects()?
            .into_iter()
            .flat_map(|project| project.images)
            .collect();
        let mut pruned = Pruned::default();
        let mut kept = Content::default();
        let mut unused = BTreeSet::new();
        for (name, digest) in self.names()?.iter() {
            let content = self.content_of(digest)?;
            match all && content.manifests.is_disjoint(&used) {
                true => drop(unused.insert(name.clone())),
                false => kept.extend(content),
            }
        }
        for manifest in used {
            kept.extend(self.content_of(manifest)?);
        }
        pruned.names = unused.len();
        self.change_names(|names| names.retain(|name, _| !unused.contains(name)))?;
        self.remove_unless("blobs/sha256", |name| kept.blobs.contains(&name), |_| ())?;
        for owners in ["layers/recorded", "layers/own"] {
            self.remove_unless(
                owners,
                |name| kept.layers.contains(&name),
                |path| {
                    let bytes = std::fs::read_to_string(path.join("bytes")).unwrap_or_default();
                    pruned.layers += 1;
                    pruned.bytes += bytes.trim().parse().unwrap_or(0);
                },
            )?;
        }
        self.remove_unless(
            "partial",
            |_| false,
            |path| {
                pruned.bytes += path.metadata().map_or(0, |file| file.len());
            },
        )?;
        // Nobody waits for these: whoever takes one adds images.
        self.remove_unless("locks", |_| false, |_| ())?;
        Ok(pruned)
    }

    /// Removes the entries of a directory whose names are not kept. Each goes away at once.
    fn remove_unless(
        &self,
        directory: &str,
        is_kept: impl Fn(Digest) -> bool,
        mut removing: impl FnMut(&Path),
    ) -> Result<(), StoreError> {
        let directory = self.path.join(directory);
        let temporary = self.temporary()?;
        let entries = std::fs::read_dir(&directory).map_err(failed("reading", &directory))?;
        let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        for (number, path) in paths.map_err(failed("reading", &directory))?.into_iter().enumerate() {
            let name = path.file_name().and_then(|name| name.to_str());
            let digest = name.and_then(|name| Digest::from_hex(name).ok());
            if digest.is_some_and(&is_kept) {
                continue;
            }
            removing(&path);
            let away = temporary.path().join(number.to_string());
            std::fs::rename(&path, &away).map_err(failed("removing", &path))?;
            remove::tree(&away).map_err(failed("removing", &away))?;
        }
        Ok(())
    }

    /// What the store has of an image, for whatever platforms.
    pub(super) fn content_of(&self, digest: Digest) -> Result<Content, StoreError> {
        let mut content = Content::default();
        let mut open = vec![digest];
        while let Some(digest) = open.pop() {
            let Some(text) = self.blob(digest)? else {
                continue;
            };
            if !content.blobs.insert(digest) {
                continue;
            }
            match Document::parse(&text) {
                Ok(Document::Index(index)) => open.extend(index.manifests.iter().map(|manifest| manifest.digest)),
                Ok(Document::Manifest(manifest)) => {
                    content.manifests.insert(digest);
                    let config = manifest.config.digest;
                    if let Some(Ok(file)) = self.blob(config)?.map(|text| ConfigFile::parse(&text)) {
                        content.blobs.insert(config);
                        content.layers.extend(file.diff_ids);
                    }
                }
                Err(_) => (),
            }
        }
        Ok(content)
    }
}

impl Content {
    fn extend(&mut self, other: Self) {
        self.blobs.extend(other.blobs);
        self.manifests.extend(other.manifests);
        self.layers.extend(other.layers);
    }
}
