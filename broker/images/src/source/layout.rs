//! OCI layouts (image-spec, "Image Layout"): of directories, and of archives as `podman save
//! --format oci-archive` and Docker since 25 write them.

use std::path::Path;

use super::files::Files;
use super::{Source, SourceError};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, ManifestError};
use crate::progress::Progress;
use crate::store::LayerSource;

/// The name of the tag, or of the whole image (image-spec, "Annotations").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, by containerd and Docker.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A descriptor, and the name that the layout gives it: a whole name, or a tag alone.
pub(super) type Named = (Option<String>, Descriptor);

/// An OCI layout.
pub(super) struct Layout<F>(pub(super) F);

impl<F: Files> Layout<F> {
    /// Whether the files are those of a layout.
    pub(super) fn is_one(files: &F) -> std::io::Result<bool> {
        Ok(files.open("oci-layout")?.is_some() && files.open("index.json")?.is_some())
    }

    /// The images.
    pub(super) fn images(&self) -> Result<Vec<Named>, SourceError> {
        let text = self.0.text("index.json").map_err(|error| self.failed(error))?;
        let named = |descriptor: Descriptor| {
            let annotations = &descriptor.annotations;
            let name = annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME));
            (name.cloned(), descriptor)
        };
        let index = match Document::parse(&text.unwrap_or_default()) {
            Ok(Document::Index(index)) => Ok(index),
            Ok(Document::Manifest(_)) => Err(ManifestError::NotAnImage(
                "a manifest in place of index.json".to_owned(),
            )),
            Err(error) => Err(error),
        };
        let index = index.map_err(|error| self.failed(std::io::Error::other(error)))?;
        Ok(index.manifests.into_iter().map(named).collect())
    }

    fn failed(&self, source: std::io::Error) -> SourceError {
        SourceError::File {
            path: self.0.place().to_owned(),
            source,
        }
    }

    fn missing(&self, digest: Digest) -> SourceError {
        SourceError::Missing {
            digest,
            path: self.0.place().to_owned(),
        }
    }
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl<F: Files> Source for Layout<F> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let text = self
            .0
            .text(&blob(descriptor.digest))
            .map_err(|error| self.failed(error))?;
        text.ok_or_else(|| self.missing(descriptor.digest))
    }

    fn layer<'a>(
        &'a self,
        descriptor: &Descriptor,
        _partial: &Path,
        _progress: &dyn Progress,
    ) -> Result<LayerSource<'a>, SourceError> {
        let opened = self
            .0
            .open(&blob(descriptor.digest))
            .map_err(|error| self.failed(error))?;
        let (stream, bytes) = opened.ok_or_else(|| self.missing(descriptor.digest))?;
        Ok(LayerSource {
            stream,
            digest: Some(descriptor.digest),
            bytes,
        })
    }
}
