//! What is mounted into the root of a service.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::parse::{bytes, mode};

/// An entry of `volumes`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Volume {
    /// What is mounted.
    #[serde(rename = "type")]
    pub kind: VolumeKind,
    /// The directory of the machine, or the name of a volume; an anonymous volume if `None`.
    pub source: Option<String>,
    /// Where it is mounted.
    #[serde(default)]
    pub target: String,
    /// True if it cannot be written.
    #[serde(default)]
    pub read_only: bool,
    /// Options of directories.
    #[serde(default)]
    pub bind: Bind,
    /// Options of volumes.
    #[serde(default)]
    pub volume: VolumeOptions,
    /// Options of memory file systems.
    #[serde(default)]
    pub tmpfs: Tmpfs,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// A file or directory of the machine.
    Bind,
    /// A named or anonymous volume.
    Volume,
    /// A memory file system.
    Tmpfs,
    /// A pipe of Windows.
    Npipe,
    /// A volume of a cluster.
    Cluster,
    /// An image's files.
    Image,
}

/// Options of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Bind {
    /// How mounts below propagate (mount_namespaces(7)).
    pub propagation: Option<String>,
    /// Whether a directory that is missing is made.
    pub create_host_path: bool,
    /// `z` or `Z`.
    pub selinux: Option<String>,
}

/// Options of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// True if an empty volume does not take the image's content.
    pub nocopy: bool,
    /// The directory of the volume that is mounted.
    pub subpath: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Options of a memory file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Tmpfs {
    /// The largest size, in bytes.
    #[serde(deserialize_with = "bytes")]
    pub size: Option<u64>,
    /// The permissions of the root.
    pub mode: Option<u32>,
}

/// A secret or config of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FileMount {
    /// The key in the file.
    pub source: String,
    /// Where it is mounted; `/SOURCE` if `None`.
    pub target: Option<String>,
    /// The owner.
    pub uid: Option<String>,
    /// The group.
    pub gid: Option<String>,
    /// The permissions.
    #[serde(deserialize_with = "mode")]
    pub mode: Option<u32>,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Device {
    /// The machine's device.
    pub source: String,
    /// The service's device.
    pub target: String,
    /// `r`, `w` and `m` (mknod).
    pub permissions: String,
}
