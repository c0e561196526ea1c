//! A cluster: the contents of a compose file, checked and resolved, without any trace of YAML.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

pub use imsup_wire::Limits;
pub use imsup_wire::program::{LogBound, ProgramSpec};
pub use imsup_wire::restart::{Restart, RestartCondition};
use imsup_wire::{HostName, Transport};
use serde::{Deserialize, Serialize};

pub use crate::container::{Container, ContainerMount, ContainerSource};
use crate::subnet::Subnet;

/// A project and its hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The project's name: `-p`, `name:` in the file, else the name of its directory.
    pub project: String,
    /// The directory of the (first) compose file; the base of relative paths.
    #[serde(with = "imsup_wire::path")]
    pub directory: PathBuf,
    /// The subnet of the VIPs: `x-imsup.subnet`, or the `ipam` subnet of a network; 127.77.0.0/16
    /// if `None`.
    pub subnet: Option<Subnet>,
    /// In the order of the file; replicas follow each other.
    pub hosts: Vec<HostSpec>,
}

/// One host, as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// The service's name; `NAME-1`, `NAME-2` and so on if `deploy.replicas` is more than one.
    pub name: HostName,
    /// The name that `uname` reports (`hostname`, else the name).
    pub hostname: String,
    /// Further names of the host, in lower case: the service's name of a replica, `hostname`,
    /// `container_name`, `networks.*.aliases`.
    pub aliases: Vec<String>,
    /// Further names that the host finds (`extra_hosts`), in lower case.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// The networks of the host, by the names that other projects have for them.
    pub networks: Vec<String>,
    /// A pinned VIP (`networks.*.ipv4_address`).
    pub address: Option<Ipv4Addr>,
    /// What the host runs: `entrypoint` and `command` joined, `environment`, `working_dir`, `user`,
    /// `stop_signal`, `stop_grace_period`, `deploy.resources.limits` and `logging`.
    ///
    /// For a host with an image, the command is empty until the image is known.
    pub program: ProgramSpec,
    /// The image and the root, if the program is an image's.
    pub container: Option<Box<Container>>,
    /// Ports retained as listening (or bound datagram) sockets from the first moment: `expose` and
    /// the targets of `ports`.
    pub expose: Vec<(Transport, u16)>,
    /// `ports`.
    pub published: Vec<Publish>,
    /// `restart`, or `deploy.restart_policy`; `None` if the file has neither.
    pub restart: Option<Restart>,
    /// The host's dependencies (`depends_on`), which boot together with the host; empty without
    /// `boot_dependencies`.
    pub dependencies: Vec<HostName>,
    /// What other hosts have to be before this host's program starts (`depends_on`).
    pub prerequisites: Vec<Prerequisite>,
    /// `healthcheck`; completed by the image's once the image is known.
    pub health: Option<HealthCheck>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `x-imsup`, the service's over the file's.
    pub imsup: Settings,
}

/// What another host has to be before a host's program starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prerequisite {
    /// The other host.
    pub host: HostName,
    /// What it has to be.
    pub condition: Condition,
    /// True if the host does not start without it.
    pub is_required: bool,
}

/// See [`Prerequisite`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Its health check has succeeded since its boot (`service_healthy`).
    Healthy,
    /// Its program has ended with status 0 since `up` (`service_completed_successfully`).
    Completed,
}

/// A check of a host's health. What is `None` has docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `CMD` and words, `CMD-SHELL` and a text, or `NONE`; empty if only the image says what is
    /// checked.
    pub test: Vec<String>,
    /// The time between two checks.
    pub interval: Option<Duration>,
    /// The time that a check may take.
    pub timeout: Option<Duration>,
    /// How long failures do not count after the boot.
    pub start_period: Option<Duration>,
    /// The time between two checks within the start period.
    pub start_interval: Option<Duration>,
    /// How many failures in a row make the host unhealthy.
    pub retries: Option<u32>,
}

impl HealthCheck {
    /// The command of a check; `None` if nothing is checked.
    pub fn command(&self) -> Option<Vec<String>> {
        match self.test.split_first() {
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => Some(words.to_vec()),
            Some((kind, words)) if kind == "CMD-SHELL" && !words.is_empty() => {
                let shell = ["/bin/sh", "-c"].map(str::to_owned);
                Some(shell.into_iter().chain([words.join(" ")]).collect())
            }
            _ => None,
        }
    }
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The machine's address; every address if `None`.
    pub machine_ip: Option<IpAddr>,
    /// The machine's port; chosen by the kernel if `None`.
    pub machine_port: Option<u16>,
    /// The host's port.
    pub port: u16,
    /// The transport.
    pub transport: Transport,
}

/// `x-imsup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The idle time before a host is suspended; `None` for never.
    pub idle_after: Option<Duration>,
    /// How long it is suspended before it is terminated; `None` for never.
    pub terminate_after: Option<Duration>,
    /// True if the host can be terminated without loss. Timers do not keep a disposable host, nor
    /// do connections with disposable hosts that also sleep, which are terminated together.
    pub disposable: bool,
    /// The granularity to which deadlines are coalesced while suspended.
    pub timer_slack: Duration,
    /// Whether a sleeper's memory is paged out.
    pub reclaim: bool,
    /// True if a look-up of the host's name boots the host (`prefetch: dns`).
    pub prefetch_dns: bool,
    /// The time-out of every wait for the host.
    pub hold_timeout: Duration,
    /// True if the host is booted by `up` and kept running.
    pub keep_awake: bool,
    /// When the host starts; decided by what is known of the host if `None`.
    pub start: Option<Start>,
    /// True if the host's boot also boots its dependencies, for dependencies without an earlier
    /// connection.
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
            start: None,
            boot_dependencies: false,
        }
    }
}

/// When a host starts (`x-imsup.start`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With `up`.
    Up,
    /// By the first connection.
    Connection,
}
