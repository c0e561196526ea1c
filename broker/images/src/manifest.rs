//! Manifests and indexes, of OCI (image-spec) and of Docker (schema 2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// The longest manifest, index or configuration. Registries refuse manifests above 4 MiB.
pub const MOST_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most layers: as many as the kernel stacks (`OVL_MAX_STACK` of fs/overlayfs).
pub const MOST_LAYERS: usize = 500;

/// Media types that imsup names itself.
pub mod media_type {
    /// An index of OCI.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A manifest of OCI.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A configuration of OCI.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer of OCI that is not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// An index of Docker.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A manifest of Docker.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
}

/// The types of layers that can be unpacked, without their compression.
const LAYERS: [&str; 2] = [media_type::LAYER, "application/vnd.docker.image.rootfs.diff.tar"];
/// The same for layers that may not be passed on, which registries may not have.
const FOREIGN: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A document that is no image's, or one that cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, or not of the form of its type.
    #[error("it is no manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// Longer than any registry allows.
    #[error("it has {0} bytes; a manifest has at most {MOST_DOCUMENT_BYTES}")]
    TooLong(u64),
    /// Docker's format of before 2016.
    #[error("it is a manifest of Docker's schema 1, which is out of use since 2016: push the image again")]
    SchemaOne,
    /// Both an index and a manifest: its meaning would depend on the reader (CVE-2021-41190).
    #[error("it is both an index and a manifest")]
    Ambiguous,
    /// Something else than an image: a chart, a signature.
    #[error("it is no image: its type is '{0}'")]
    NotAnImage(String),
    /// A layer of an unknown type, or an encrypted one.
    #[error("a layer has the type '{0}', which imsup cannot unpack")]
    Layer(String),
    /// A layer that is to be had from its vendor only.
    #[error("a layer may not be passed on (type '{0}'): such layers are of Windows images")]
    Foreign(String),
    /// More layers than can be mounted.
    #[error("it has {0} layers; Linux mounts at most {MOST_LAYERS}")]
    Layers(usize),
    /// No variant for the platform.
    #[error("it has no variant for {wanted}; it has {}", list(.offered))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        offered: Vec<Platform>,
    },
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// The type, digest and length of some content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<PlatformFields>,
    /// Notes of whoever wrote it.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlatformFields {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl Descriptor {
    /// A descriptor without a platform.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The same for a platform.
    pub fn for_platform(mut self, platform: &Platform) -> Self {
        self.platform = Some(PlatformFields {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        });
        self
    }

    /// The platform, if one is named. Attestations, which are no images, name `unknown/unknown`.
    pub fn platform(&self) -> Option<Platform> {
        let platform = self.platform.as_ref()?;
        let known = platform.os != "unknown" && !platform.os.is_empty();
        known.then(|| Platform::new(&platform.os, &platform.architecture, platform.variant.as_deref()))
    }

    fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), media_type::INDEX | media_type::DOCKER_INDEX)
    }
}

/// A list of manifests, one a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// An index of OCI.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::INDEX.to_owned(),
            manifests,
        }
    }

    /// The manifest that runs best on a platform. A manifest without a platform is the last resort,
    /// and so is an index inside the index.
    ///
    /// # Errors
    /// None fits.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        let rank = |descriptor: &Descriptor| match descriptor.platform() {
            Some(platform) => wanted.fit(&platform).map(|fit| u16::from(fit) + 1),
            None => (descriptor.platform.is_none() || descriptor.is_index()).then_some(0),
        };
        // The first of equals: `max_by_key` would give the last.
        let ranked = self
            .manifests
            .iter()
            .filter_map(|manifest| Some((rank(manifest)?, manifest)));
        let best = ranked.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, manifest)| manifest).ok_or_else(|| {
            let mut offered: Vec<Platform> = self.manifests.iter().filter_map(Descriptor::platform).collect();
            offered.dedup();
            ManifestError::Platform {
                wanted: wanted.clone(),
                offered,
            }
        })
    }
}

/// The parts of an image: its configuration and its layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// A manifest of OCI.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::MANIFEST.to_owned(),
            config,
            layers,
        }
    }

    fn check(self) -> Result<Self, ManifestError> {
        if self.layers.len() > MOST_LAYERS {
            return Err(ManifestError::Layers(self.layers.len()));
        }
        let is = |types: &[&str], layer: &str| {
            let compressions = ["", "+gzip", ".gzip", "+zstd", ".zstd"];
            let base = types.iter().find_map(|base| layer.strip_prefix(base));
            base.is_some_and(|compression| compressions.contains(&compression))
        };
        for layer in &self.layers {
            let layer = layer.media_type.as_str();
            if is(&FOREIGN, layer) {
                return Err(ManifestError::Foreign(layer.to_owned()));
            }
            if !is(&LAYERS, layer) {
                return Err(ManifestError::Layer(layer.to_owned()));
            }
        }
        let config = self.config.media_type.as_str();
        match config {
            media_type::CONFIG | "application/vnd.docker.container.image.v1+json" | "" => Ok(self),
            other => Err(ManifestError::NotAnImage(other.to_owned())),
        }
    }
}

/// An index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Variants for several platforms.
    Index(Index),
    /// A single image.
    Manifest(Manifest),
}

/// The keys by which documents are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document. Its own keys decide what it is: not every registry tells.
    ///
    /// # Errors
    /// It is no image's, or a limit of this module is exceeded.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() as u64 > MOST_DOCUMENT_BYTES {
            return Err(ManifestError::TooLong(text.len() as u64));
        }
        let outline: Outline = serde_json::from_slice(text)?;
        if outline.schema_version == 1 {
            return Err(ManifestError::SchemaOne);
        }
        let named = outline.media_type.as_deref().unwrap_or_default();
        let is_index = outline.manifests.is_some();
        let is_manifest = outline.config.is_some() || outline.layers.is_some();
        match (is_index, is_manifest, named) {
            (true, true, _) => Err(ManifestError::Ambiguous),
            (true, _, "" | media_type::INDEX | media_type::DOCKER_INDEX) => {
                Ok(Self::Index(serde_json::from_slice(text)?))
            }
            (_, true, "" | media_type::MANIFEST | media_type::DOCKER_MANIFEST) => {
                let manifest: Manifest = serde_json::from_slice(text)?;
                match outline.artifact_type.filter(|artifact| !artifact.is_empty()) {
                    Some(artifact) => Err(ManifestError::NotAnImage(artifact)),
                    None => Ok(Self::Manifest(manifest.check()?)),
                }
            }
            (_, _, other) => Err(ManifestError::NotAnImage(other.to_owned())),
        }
    }
}

/// Go writes `null` for an empty list or map.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
