//! A cluster: what a compose file says, checked and resolved, with nothing of YAML left.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

pub use imsup_wire::Limits;
pub use imsup_wire::restart::{Restart, RestartCondition};
use imsup_wire::{HostName, Transport};
use serde::{Deserialize, Serialize};

use crate::subnet::Subnet;

/// A project and its hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The project's name: `-p`, `name:` in the file, else the name of its directory.
    pub project: String,
    /// The directory of the (first) compose file; what relative paths start from.
    #[serde(with = "bytes")]
    pub directory: PathBuf,
    /// Where the VIPs lie: `x-imsup.subnet`, or the `ipam` subnet of a network; 127.77.0.0/16 where `None`.
    pub subnet: Option<Subnet>,
    /// In the order of the file; replicas follow each other.
    pub hosts: Vec<HostSpec>,
}

/// One host, as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// The service's name; `NAME-1`, `NAME-2` and so on where `deploy.replicas` is more than one.
    pub name: HostName,
    /// What `uname` reports (`hostname`, else the name).
    pub hostname: String,
    /// Further names it answers to, in lower case: the service's name of a replica, `hostname`, `container_name`,
    /// `networks.*.aliases`.
    pub aliases: Vec<String>,
    /// A pinned VIP (`networks.*.ipv4_address`).
    pub address: Option<Ipv4Addr>,
    /// `entrypoint` and `command` joined; never empty.
    pub command: Vec<String>,
    /// Variables added to the broker's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where the program starts; absolute.
    #[serde(with = "bytes")]
    pub working_dir: PathBuf,
    /// `user`, as `USER[:GROUP]` by name or number.
    pub user: Option<String>,
    /// Ports retained as listening (or bound datagram) sockets from the first moment: `expose` and the targets of `ports`.
    pub expose: Vec<(Transport, u16)>,
    /// `ports`.
    pub published: Vec<Publish>,
    /// What `stop` sends first; SIGTERM by default.
    pub stop_signal: i32,
    /// How long the program may take to end; 10 s by default.
    pub stop_grace: Duration,
    /// `restart`, or `deploy.restart_policy`; `None` where the file says neither.
    pub restart: Option<Restart>,
    /// `deploy.resources.limits`.
    pub limits: Limits,
    /// `logging`.
    pub logging: LogBound,
    /// The hosts it depends on (`depends_on`), which boot when it does; empty without `boot_dependencies`.
    pub dependencies: Vec<HostName>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `x-imsup`, the service's over the file's.
    pub imsup: Settings,
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The machine's address; every address where `None`.
    pub machine_ip: Option<IpAddr>,
    /// The machine's port; one chosen by the kernel where `None`.
    pub machine_port: Option<u16>,
    /// The host's port.
    pub port: u16,
    /// The transport.
    pub transport: Transport,
}

/// `logging.options`: how much of what a program prints is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBound {
    /// `max-size` in bytes, by which the oldest output is dropped at once; `None` for no bound.
    pub max_size: Option<u64>,
    /// `max-file`: how many times that is kept at most; from 1 up.
    pub max_files: u32,
}

impl Default for LogBound {
    fn default() -> Self {
        Self {
            max_size: Some(10 << 20),
            max_files: 2,
        }
    }
}

/// `x-imsup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a host is idle before it is suspended; `None` for never.
    pub idle_after: Option<Duration>,
    /// The time asleep before termination; `None` for never.
    pub terminate_after: Option<Duration>,
    /// Whether nothing of it is missed when it is terminated: its timers do not keep it, nor do connections with hosts that are
    /// disposable too and sleep as well, and are terminated with it.
    pub disposable: bool,
    /// What deadlines are coalesced to while suspended.
    pub timer_slack: Duration,
    /// Whether a sleeper's memory is paged out.
    pub reclaim: bool,
    /// Whether the look-up of its name boots it (`prefetch: dns`).
    pub prefetch_dns: bool,
    /// The bound of every wait for it.
    pub hold_timeout: Duration,
    /// Whether it is booted by `up` and kept running.
    pub keep_awake: bool,
    /// Whether its boot boots what it depends on, for hosts to which nobody connects first.
    pub boot_dependencies: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_after: Some(Duration::from_secs(5)),
            terminate_after: None,
            disposable: false,
            timer_slack: Duration::from_secs(1),
            reclaim: false,
            prefetch_dns: false,
            hold_timeout: Duration::from_secs(60),
            keep_awake: false,
            boot_dependencies: false,
        }
    }
}

/// Paths as the bytes that they are: not all are UTF-8.
mod bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(Vec::deserialize(deserializer)?).into())
    }
}
