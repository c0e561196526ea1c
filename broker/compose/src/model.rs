//! A project as typed values: what `docker compose config` shows, for the parts of imsup that make
//! roots, volumes, images and checks of it.
//!
//! The values come from a [`Document`], whose form the tables of keys guarantee.

mod mounts;
mod parse;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

pub use self::mounts::{Bind, Device, FileMount, Tmpfs, Volume, VolumeKind, VolumeOptions};
use self::parse::{bytes, duration, duration_or_none, extra_hosts, network_mode, pull_policy};
use super::show::Document;

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Model {
    /// The project's name.
    pub name: String,
    /// The enabled services.
    pub services: BTreeMap<String, Service>,
    /// The networks that services use.
    pub networks: BTreeMap<String, Resource>,
    /// The named volumes that services use.
    pub volumes: BTreeMap<String, Resource>,
    /// The secrets that services use.
    pub secrets: BTreeMap<String, Resource>,
    /// The configs that services use.
    pub configs: BTreeMap<String, Resource>,
}

/// A network, volume, secret or config of the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// The name outside of the project: `PROJECT_KEY`, or as written.
    pub name: String,
    /// True if another project or the user makes it.
    pub external: bool,
    /// True for a network that leads nowhere else.
    pub internal: bool,
    /// The driver, if not the default.
    pub driver: Option<String>,
    /// Options of the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The file with a secret's or config's content.
    pub file: Option<String>,
    /// The variable with the content.
    pub environment: Option<String>,
    /// The content itself.
    pub content: Option<String>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// The image.
    pub image: Option<String>,
    /// How the image is built.
    pub build: Option<Build>,
    /// When the image is pulled.
    #[serde(deserialize_with = "pull_policy")]
    pub pull_policy: Option<PullPolicy>,
    /// The platform of the image, for example `linux/amd64`.
    pub platform: Option<String>,
    /// The command; the image's if `None`.
    pub command: Option<Vec<String>>,
    /// The entrypoint; the image's if `None`.
    pub entrypoint: Option<Vec<String>>,
    /// Variables; those that the caller has not set are `None`, and not set.
    pub environment: BTreeMap<String, Option<String>>,
    /// The working directory, as written.
    pub working_dir: Option<String>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
    /// Further groups.
    pub group_add: Vec<String>,
    /// The name that the host reports.
    pub hostname: Option<String>,
    /// The domain that the host reports.
    pub domainname: Option<String>,
    /// The container's name.
    pub container_name: Option<String>,
    /// Volumes, directories and memory file systems.
    pub volumes: Vec<Volume>,
    /// Services whose volumes this one has: `SERVICE[:ro]`.
    pub volumes_from: Vec<String>,
    /// Memory file systems: `PATH[:OPTIONS]`.
    pub tmpfs: Vec<String>,
    /// Secrets as files.
    pub secrets: Vec<FileMount>,
    /// Configs as files.
    pub configs: Vec<FileMount>,
    /// True if the root cannot be written.
    pub read_only: bool,
    /// The size of /dev/shm, in bytes.
    #[serde(deserialize_with = "bytes")]
    pub shm_size: Option<u64>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Whether an init reaps orphans; the engine's choice if `None`.
    pub init: Option<bool>,
    /// True if the program has a terminal.
    pub tty: bool,
    /// True if the program's input stays open.
    pub stdin_open: bool,
    /// Capabilities besides the default ones.
    pub cap_add: Vec<String>,
    /// Default capabilities that are taken away.
    pub cap_drop: Vec<String>,
    /// True for all capabilities and devices.
    pub privileged: bool,
    /// Options of security modules.
    pub security_opt: Vec<String>,
    /// Limits of processes (setrlimit(2)).
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel settings of the service's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Further names with their addresses.
    #[serde(deserialize_with = "extra_hosts")]
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    pub dns_opt: Vec<String>,
    /// The network namespace, if not the service's own networks.
    #[serde(deserialize_with = "network_mode")]
    pub network_mode: Option<NetworkMode>,
    /// Networks.
    pub networks: BTreeMap<String, Option<ServiceNetwork>>,
    /// The services that come first.
    pub depends_on: BTreeMap<String, Dependency>,
    /// How the service's health is checked.
    pub healthcheck: Option<Healthcheck>,
    /// The signal that asks the program to end.
    pub stop_signal: Option<String>,
    /// The time that the program has to end.
    #[serde(deserialize_with = "duration_or_none")]
    pub stop_grace_period: Option<Duration>,
    /// When the program is started again, as written.
    pub restart: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What is done when files of the project change, as written.
    pub develop: Option<serde_json::Value>,
}

/// How an image is built.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Build {
    /// The directory, or an address elsewhere.
    pub context: Option<String>,
    /// The Dockerfile, relative to the context.
    pub dockerfile: Option<String>,
    /// The Dockerfile's text.
    pub dockerfile_inline: Option<String>,
    /// The stage.
    pub target: Option<String>,
    /// Arguments; those that the caller has not set are `None`.
    pub args: BTreeMap<String, Option<String>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Further names of the image.
    pub tags: Vec<String>,
    /// Platforms.
    pub platforms: Vec<String>,
    /// Further contexts by name.
    pub additional_contexts: BTreeMap<String, String>,
    /// Secrets that steps may read.
    pub secrets: Vec<FileMount>,
    /// The network of steps.
    pub network: Option<String>,
    /// True if base images are pulled each time.
    pub pull: bool,
    /// True if nothing is taken from the cache.
    pub no_cache: bool,
}

/// When an image is pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// At each `up`.
    Always,
    /// Never.
    Never,
    /// If there is none here.
    Missing,
    /// Never: it is built.
    Build,
    /// If it is older, as written: `daily`, `weekly`, `every_12h`, `refresh`.
    Older(String),
}

/// The network namespace of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// No network.
    None,
    /// The machine's.
    Host,
    /// A service's of the project.
    Service(String),
    /// A container's.
    Container(String),
    /// Another, as written.
    Other(String),
}

/// A network of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    /// Further names on the network.
    pub aliases: Vec<String>,
    /// A pinned address.
    pub ipv4_address: Option<String>,
    /// A pinned IPv6 address.
    pub ipv6_address: Option<String>,
}

/// A limit of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    /// The same for both.
    Both(i64),
    /// Each its own.
    Each {
        /// The limit that holds.
        soft: i64,
        /// The limit up to which a process may raise it.
        hard: i64,
    },
}

/// A service that comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Dependency {
    /// What is waited for.
    pub condition: Condition,
    /// Whether the service is needed.
    pub required: bool,
    /// Whether its restart is the dependent's as well.
    #[serde(default)]
    pub restart: bool,
}

/// What a dependent waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It has started.
    ServiceStarted,
    /// Its health check has succeeded.
    ServiceHealthy,
    /// It has ended with status 0.
    ServiceCompletedSuccessfully,
}

/// A health check.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `CMD` and words, `CMD-SHELL` and a text, or `NONE`; the image's if empty.
    pub test: Vec<String>,
    /// The time between two checks.
    #[serde(deserialize_with = "duration_or_none")]
    pub interval: Option<Duration>,
    /// The longest check.
    #[serde(deserialize_with = "duration_or_none")]
    pub timeout: Option<Duration>,
    /// The failures that make a service unhealthy.
    pub retries: Option<u32>,
    /// The time in which failures do not count.
    #[serde(deserialize_with = "duration")]
    pub start_period: Duration,
    /// The time between two checks in that time.
    #[serde(deserialize_with = "duration_or_none")]
    pub start_interval: Option<Duration>,
    /// True if the image's check is not done either.
    pub disable: bool,
}

impl Document {
    /// The document as typed values.
    ///
    /// # Errors
    /// A value that the tables of keys allow, and this model does not: for example a
    /// negative number of a health check's retries.
    pub fn model(&self) -> Result<Model, serde_json::Error> {
        serde_json::from_value(self.value())
    }
}
