//! From a source into the store.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::ConfigFile;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, MOST_DOCUMENT_BYTES, Manifest, ManifestError};
use crate::platform::Platform;
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::source::{Source, SourceError};
use crate::store::{Addition, StoreError};

/// The most indexes inside each other.
const MOST_NESTED: usize = 4;
/// The most layers that are fetched and unpacked at once (Docker's `max-concurrent-downloads`).
const MOST_AT_ONCE: usize = 3;

/// An image that could not be added. Layers that were whole before remain in the store.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl From<ManifestError> for AddError {
    fn from(error: ManifestError) -> Self {
        StoreError::from(error).into()
    }
}

/// Adds the image of a descriptor, which is a manifest's or an index's, and gives it names.
///
/// # Errors
/// See [`AddError`].
pub fn add(
    addition: &Addition,
    source: &dyn Source,
    top: &Descriptor,
    names: &[Reference],
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<(), AddError> {
    let (manifest, documents) = find_manifest(addition, source, top, platform)?;
    let config = document(addition, source, &manifest.config)?;
    let file = ConfigFile::parse(&config).map_err(StoreError::from)?;
    if file.diff_ids.len() != manifest.layers.len() {
        return Err(StoreError::LayerCount {
            layers: manifest.layers.len(),
            diff_ids: file.diff_ids.len(),
        }
        .into());
    }
    let layers: Vec<(&Descriptor, Digest)> = manifest.layers.iter().zip(file.diff_ids).collect();
    add_layers(addition, source, &layers, progress)?;
    // The documents come last: whoever finds a manifest finds its layers too, unless a file was
    // removed by hand.
    addition.blob(manifest.config.digest, &config)?;
    for (digest, text) in documents.iter().rev() {
        addition.blob(*digest, text)?;
    }
    Ok(addition.name(names, top.digest)?)
}

/// Documents with their digests.
type Documents = Vec<(Digest, Vec<u8>)>;

/// The manifest for a platform, and the documents on the way to it.
fn find_manifest(
    addition: &Addition,
    source: &dyn Source,
    top: &Descriptor,
    platform: &Platform,
) -> Result<(Manifest, Documents), AddError> {
    let mut documents = Vec::new();
    let mut descriptor = top.clone();
    for _ in 0..MOST_NESTED {
        let text = document(addition, source, &descriptor)?;
        let parsed = Document::parse(&text)?;
        documents.push((descriptor.digest, text));
        match parsed {
            Document::Manifest(manifest) => return Ok((manifest, documents)),
            Document::Index(index) => descriptor = index.choose(platform)?.clone(),
        }
    }
    Err(ManifestError::NotAnImage("index in an index".to_owned()).into())
}

/// A document by its descriptor, with its digest checked.
fn document(addition: &Addition, source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>, AddError> {
    if let Some(known) = addition.known(descriptor.digest)? {
        return Ok(known);
    }
    if descriptor.size > MOST_DOCUMENT_BYTES {
        return Err(ManifestError::TooLong(descriptor.size).into());
    }
    let text = source.document(descriptor)?;
    let found = Digest::of(&text);
    match found == descriptor.digest {
        true => Ok(text),
        false => Err(StoreError::WrongDigest {
            what: "the document",
            expected: descriptor.digest,
            found,
        }
        .into()),
    }
}

/// Adds layers, several at once. The first failure ends all.
fn add_layers(
    addition: &Addition,
    source: &dyn Source,
    layers: &[(&Descriptor, Digest)],
    progress: &dyn Progress,
) -> Result<(), AddError> {
    let listed: Vec<(Digest, u64)> = layers.iter().map(|(layer, _)| (layer.digest, layer.size)).collect();
    progress.begin(&listed);
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some((layer, id)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = add_layer(addition, source, layer, *id, progress) {
                next.store(layers.len(), Ordering::Relaxed);
                let mut failure = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failure.get_or_insert(error);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        // A machine with one core downloads one layer while it unpacks another.
        for _ in 1..MOST_AT_ONCE.min(layers.len()).min(cores + 1) {
            scope.spawn(work);
        }
        work();
    });
    let failure = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

fn add_layer(
    addition: &Addition,
    source: &dyn Source,
    layer: &Descriptor,
    id: Digest,
    progress: &dyn Progress,
) -> Result<(), AddError> {
    let partial = addition.partial(layer.digest);
    let added = addition.layer(id, || {
        let opened = source.layer(layer, &partial, progress).map_err(AddError::from);
        progress.step(layer.digest, Step::Unpacking);
        opened
    });
    // A download that the source has ended goes on with the next pull. Any other is of no use any
    // more.
    if !matches!(added, Err(AddError::Source(_))) {
        let _ = std::fs::remove_file(&partial);
    }
    let added = added?;
    progress.step(layer.digest, if added { Step::Done } else { Step::Exists });
    Ok(())
}
