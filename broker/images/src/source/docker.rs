//! Archives of `docker save` and of `podman save`: `manifest.json` names configurations and layers
//! by their paths.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::files::Files;
use super::{Source, SourceError};
use crate::config::ConfigFile;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Manifest, media_type, or_default};
use crate::progress::Progress;
use crate::store::LayerSource;

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default, deserialize_with = "or_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    layers: Vec<String>,
}

/// An archive as an image's source. Such archives have no manifests: an image gets one in which its
/// layers are not compressed.
pub(super) struct DockerArchive<F> {
    files: F,
    documents: HashMap<Digest, Vec<u8>>,
    /// The paths of layers by the digest of their archives.
    layers: HashMap<Digest, String>,
    images: Vec<(Vec<String>, Descriptor)>,
}

impl<F: Files> DockerArchive<F> {
    /// Reads `manifest.json`; `None` if there is none.
    pub(super) fn open(files: F) -> Result<Result<Self, F>, SourceError> {
        let failed = |files: &F, source| SourceError::File {
            path: files.place().to_owned(),
            source,
        };
        let text = match files.text("manifest.json") {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Err(files)),
            Err(error) => return Err(failed(&files, error)),
        };
        let mut archive = Self {
            files,
            documents: HashMap::new(),
            layers: HashMap::new(),
            images: Vec::new(),
        };
        let read = serde_json::from_slice(&text).map_err(io::Error::from);
        let added = read.and_then(|listed: Vec<Listed>| {
            let mut images = listed.into_iter();
            images.try_for_each(|image| archive.add(image))
        });
        match added {
            Ok(()) => Ok(Ok(archive)),
            Err(error) => Err(failed(&archive.files, error)),
        }
    }

    /// The images, with their names.
    pub(super) fn images(&self) -> &[(Vec<String>, Descriptor)] {
        &self.images
    }

    fn add(&mut self, image: Listed) -> io::Result<()> {
        let missing = |path: &str| io::Error::other(format!("{path}, which manifest.json names, is missing"));
        let config = self.files.text(&image.config)?.ok_or_else(|| missing(&image.config))?;
        let file = ConfigFile::parse(&config).map_err(io::Error::other)?;
        if file.diff_ids.len() != image.layers.len() {
            return Err(io::Error::other(
                "manifest.json and the configuration name different numbers of layers",
            ));
        }
        let mut layers = Vec::new();
        for (id, path) in file.diff_ids.into_iter().zip(image.layers) {
            let (_, length) = self.files.open(&path)?.ok_or_else(|| missing(&path))?;
            layers.push(Descriptor::new(media_type::LAYER, id, length));
            self.layers.insert(id, path);
        }
        let config = self.document(media_type::CONFIG, config);
        let manifest = serde_json::to_vec(&Manifest::new(config, layers))?;
        let manifest = self.document(media_type::MANIFEST, manifest);
        self.images.push((image.repo_tags, manifest));
        Ok(())
    }

    fn document(&mut self, media_type: &str, text: Vec<u8>) -> Descriptor {
        let digest = Digest::of(&text);
        let descriptor = Descriptor::new(media_type, digest, text.len() as u64);
        self.documents.insert(digest, text);
        descriptor
    }

    fn missing(&self, digest: Digest) -> SourceError {
        SourceError::Missing {
            digest,
            path: self.files.place().to_owned(),
        }
    }
}

impl<F: Files> Source for DockerArchive<F> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let text = self.documents.get(&descriptor.digest);
        text.cloned().ok_or_else(|| self.missing(descriptor.digest))
    }

    fn layer<'a>(
        &'a self,
        descriptor: &Descriptor,
        _partial: &Path,
        _progress: &dyn Progress,
    ) -> Result<LayerSource<'a>, SourceError> {
        let path = self.layers.get(&descriptor.digest);
        let path = path.ok_or_else(|| self.missing(descriptor.digest))?;
        let opened = self.files.open(path).map_err(|source| SourceError::File {
            path: self.files.place().to_owned(),
            source,
        })?;
        let (stream, bytes) = opened.ok_or_else(|| self.missing(descriptor.digest))?;
        // The archive may be compressed, so its digest is compared after decompression.
        Ok(LayerSource {
            stream,
            digest: None,
            bytes,
        })
    }
}
