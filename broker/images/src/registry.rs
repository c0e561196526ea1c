//! Images of registries (distribution-spec), by HTTP.
//!
//! A process that only pulls calls this: neither TLS nor the parsers of strangers' answers are in
//! the broker or in a supervisor. Content is believed by its digest; registries are known by their
//! certificates, except those of this machine (loopback), which may speak plain HTTP.

mod challenge;
mod client;
mod credentials;
mod download;
mod token;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::add::{AddError, add};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, media_type};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::source::{Source, SourceError};
use crate::store::{LayerSource, Store, StoreError};
use client::Client;

pub use credentials::{Credentials, CredentialsError};

/// Types of documents that a manifest's name may stand for.
const MANIFESTS: [&str; 4] = [
    media_type::INDEX,
    media_type::MANIFEST,
    media_type::DOCKER_INDEX,
    media_type::DOCKER_MANIFEST,
];

/// A registry that does not give an image.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer.
    #[error("the registry {registry} cannot be reached: {}; {}", reason(error), advice(registry))]
    Unreachable {
        /// The registry.
        registry: String,
        /// The reason, which the message has: it is no source.
        error: Box<ureq::Error>,
    },
    /// Nothing by which a registry could be known.
    #[error(
        "{0} cannot be known: this machine has no certificates of authorities (package ca-certificates, or SSL_CERT_FILE)"
    )]
    NoAuthorities(String),
    /// No such image, or none that this user may see.
    #[error("{0} does not exist in its registry")]
    NoImage(String),
    /// A login is needed, or the one that is known is wrong.
    #[error(
        "{registry} wants a login for {repository} (401){note}: 'docker login {registry}', or the image does not exist"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What is known of the credentials.
        note: String,
    },
    /// The user may not have it.
    #[error("{registry} refuses {repository} (403): {message}")]
    Forbidden {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// The registry's reason.
        message: String,
    },
    /// Too many pulls.
    #[error("{0} allows no more pulls for now (429); a login ('docker login') may allow more")]
    TooMany(String),
    /// Another answer.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// What was asked.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// The registry's reason.
        message: String,
    },
    /// An answer that makes no sense.
    #[error("{url} gave an answer that cannot be used: {problem}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk is full.
    #[error("there is no space left on the disk of the images ({}); 'imsup images prune' frees what nothing uses", .0.display())]
    DiskFull(PathBuf),
    /// The file of a download.
    #[error("downloading into {}: {source}", .path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// An error of ureq without its kind, which says nothing to the user.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What to do about a registry that does not answer.
fn advice(registry: &str) -> &'static str {
    match client::is_loopback(registry) {
        true => "does it run?",
        false => "is the name right, and this machine online (HTTPS_PROXY names a proxy)?",
    }
}

/// What was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The digest that the name stands for.
    pub digest: Digest,
    /// Whether the store had the image already.
    pub was_there: bool,
}

/// Pulls an image into the store. Layers that are there are not asked for again; what was
/// downloaded of a layer is kept if the pull is interrupted.
///
/// # Errors
/// See [`AddError`].
pub fn pull(
    store: &Store,
    name: &Reference,
    platform: &Platform,
    credentials: &Credentials,
    progress: &dyn Progress,
) -> Result<Pulled, AddError> {
    let addition = store.add()?;
    let registry = Registry::connect(name, credentials).map_err(SourceError::from)?;
    let (top, text) = registry.top(name).map_err(SourceError::from)?;
    if let Some(pin) = name.digest().filter(|pin| *pin != top.digest) {
        return Err(StoreError::WrongDigest {
            what: "the manifest",
            expected: pin,
            found: top.digest,
        }
        .into());
    }
    let before = store.resolve(&name.pinned(top.digest), platform)?;
    let source = Known {
        documents: HashMap::from([(top.digest, text)]),
        registry,
    };
    add(&addition, &source, &top, std::slice::from_ref(name), platform, progress)?;
    Ok(Pulled {
        digest: top.digest,
        was_there: before.is_some(),
    })
}

/// A registry, with documents that were asked for already.
struct Known<'a> {
    registry: Registry<'a>,
    documents: HashMap<Digest, Vec<u8>>,
}

/// A repository of a registry.
struct Registry<'a> {
    client: Client<'a>,
    repository: String,
}

impl<'a> Registry<'a> {
    fn connect(name: &Reference, credentials: &'a Credentials) -> Result<Self, RegistryError> {
        Ok(Self {
            client: Client::new(name, credentials)?,
            repository: name.repository().to_owned(),
        })
    }

    /// The index or manifest that a name stands for.
    fn top(&self, name: &Reference) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let wanted = match name.digest() {
            Some(digest) => digest.to_string(),
            None => name.tag().unwrap_or("latest").to_owned(),
        };
        let path = format!("{}/manifests/{wanted}", self.repository);
        let text = self.client.document(&path, &MANIFESTS)?;
        let kind = match Document::parse(&text) {
            Ok(Document::Index(_)) => media_type::INDEX,
            _ => media_type::MANIFEST,
        };
        Ok((Descriptor::new(kind, Digest::of(&text), text.len() as u64), text))
    }
}

impl Source for Known<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        if let Some(known) = self.documents.get(&descriptor.digest) {
            return Ok(known.clone());
        }
        let is_manifest = MANIFESTS.contains(&descriptor.media_type.as_str());
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let path = format!("{}/{kind}/{}", self.registry.repository, descriptor.digest);
        let accepted: &[&str] = if is_manifest { &MANIFESTS } else { &["*/*"] };
        Ok(self.registry.client.document(&path, accepted)?)
    }

    fn layer<'a>(
        &'a self,
        descriptor: &Descriptor,
        partial: &Path,
        progress: &dyn Progress,
    ) -> Result<LayerSource<'a>, SourceError> {
        let path = format!("{}/blobs/{}", self.registry.repository, descriptor.digest);
        let file = download::download(&self.registry.client, &path, descriptor, partial, progress)?;
        Ok(LayerSource {
            stream: Box::new(file),
            digest: Some(descriptor.digest),
            bytes: descriptor.size,
        })
    }
}
