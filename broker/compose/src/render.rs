//! A cluster as a compose file again: everything resolved, without defaults, a service for each
//! host.
//!
//! The rendered file can be loaded, and results in the same cluster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use imsup_wire::{HostName, Transport};
use indexmap::IndexMap;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::duration::format;
use crate::cluster::{Cluster, HostSpec, Limits, LogBound, Publish, Restart, RestartCondition, Settings};
use crate::subnet::Subnet;

/// The cluster as YAML.
pub fn render(cluster: &Cluster) -> String {
    serde_saphyr::to_string(&Document::new(cluster)).unwrap_or_else(unreachable_failure)
}

/// The cluster as one JSON object, with the same keys as [`render`].
pub fn render_json(cluster: &Cluster) -> String {
    serde_json::to_string_pretty(&Document::new(cluster)).unwrap_or_else(unreachable_failure)
}

/// The document is made of text and numbers, which both formats can always write.
fn unreachable_failure(error: impl std::fmt::Display) -> String {
    format!("# the cluster could not be written: {error}\n")
}

#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    #[serde(rename = "x-imsup", skip_serializing_if = "Option::is_none")]
    imsup: Option<FileSettings>,
    services: IndexMap<&'a str, Service<'a>>,
}

#[derive(Serialize)]
struct FileSettings {
    subnet: Subnet,
}

#[derive(Serialize)]
struct Service<'a> {
    command: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    environment: BTreeMap<&'a str, String>,
    working_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<Networks<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expose: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deploy: Option<Deploy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logging: Option<Logging>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<String>,
    stop_signal: String,
    stop_grace_period: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, String>,
    #[serde(rename = "x-imsup")]
    imsup: ServiceSettings,
}

#[derive(Serialize)]
struct Networks<'a> {
    default: Network<'a>,
}

#[derive(Serialize)]
struct Network<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    aliases: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4_address: Option<Ipv4Addr>,
}

#[derive(Serialize)]
struct Port {
    target: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_ip: Option<String>,
    protocol: Transport,
}

#[derive(Serialize)]
struct Deploy {
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<RestartPolicy>,
}

#[derive(Serialize)]
struct RestartPolicy {
    condition: &'static str,
    delay: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<String>,
}

#[derive(Serialize)]
struct Resources {
    limits: ResourceLimits,
}

#[derive(Serialize)]
struct ResourceLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<u64>,
}

#[derive(Serialize)]
struct Logging {
    options: LoggingOptions,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LoggingOptions {
    max_size: String,
    max_file: String,
}

#[derive(Serialize)]
struct ServiceSettings {
    idle_after: String,
    terminate_after: String,
    disposable: bool,
    timer_slack: String,
    reclaim: bool,
    prefetch: &'static str,
    hold_timeout: String,
    keep_awake: bool,
    boot_dependencies: bool,
}

impl<'a> Document<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self {
            name: &cluster.project,
            imsup: cluster.subnet.map(|subnet| FileSettings { subnet }),
            services: cluster
                .hosts
                .iter()
                .map(|host| (host.name.as_str(), Service::new(host)))
                .collect(),
        }
    }
}

impl<'a> Service<'a> {
    fn new(host: &'a HostSpec) -> Self {
        let program = &host.program;
        let has_network = !host.aliases.is_empty() || host.address.is_some();
        Self {
            command: program.command_text().iter().map(|word| escape(word)).collect(),
            environment: escape_values(&program.environment),
            working_dir: escape(&path_text(&program.working_dir)),
            user: program.user.as_deref().map(escape),
            hostname: escape(&host.hostname),
            networks: has_network.then_some(Networks {
                default: Network {
                    aliases: &host.aliases,
                    ipv4_address: host.address,
                },
            }),
            expose: host
                .expose
                .iter()
                .map(|(transport, port)| format!("{port}/{transport}"))
                .collect(),
            ports: host.published.iter().map(Port::new).collect(),
            deploy: Deploy::new(host),
            logging: Logging::new(program.logging),
            depends_on: host.dependencies.iter().map(HostName::as_str).collect(),
            restart: host.restart.filter(is_plain).map(|restart| match restart.max_attempts {
                None => condition(restart.condition).to_owned(),
                Some(most) => format!("{}:{most}", condition(restart.condition)),
            }),
            stop_signal: signal_name(program.stop_signal),
            stop_grace_period: format(program.stop_grace),
            labels: escape_values(&host.labels),
            imsup: ServiceSettings::new(&host.imsup),
        }
    }
}

impl Port {
    fn new(publish: &Publish) -> Self {
        Self {
            target: publish.port,
            published: publish.machine_port.map(|port| port.to_string()),
            host_ip: publish.machine_ip.map(|ip| ip.to_string()),
            protocol: publish.transport,
        }
    }
}

impl Deploy {
    fn new(host: &HostSpec) -> Option<Self> {
        let policy = host.restart.filter(|restart| !is_plain(restart));
        (!host.program.limits.is_empty() || policy.is_some()).then(|| Self {
            resources: (!host.program.limits.is_empty()).then(|| Resources::new(&host.program.limits)),
            restart_policy: policy.map(RestartPolicy::new),
        })
    }
}

impl Logging {
    fn new(bound: LogBound) -> Option<Self> {
        (bound != LogBound::default()).then(|| Self {
            options: LoggingOptions {
                max_size: bound.max_size.map_or("-1".to_owned(), |bytes| bytes.to_string()),
                max_file: bound.max_files.to_string(),
            },
        })
    }
}

impl Resources {
    fn new(limits: &Limits) -> Self {
        Self {
            limits: ResourceLimits {
                memory: limits.memory_bytes.map(|bytes| bytes.to_string()),
                cpus: limits
                    .milli_cpus
                    .map(|milli| format!("{}.{:03}", milli / 1000, milli % 1000)),
                pids: limits.pids,
            },
        }
    }
}

impl RestartPolicy {
    fn new(restart: Restart) -> Self {
        Self {
            condition: condition(restart.condition),
            delay: format(restart.delay),
            max_attempts: restart.max_attempts,
            window: restart.window.map(format),
        }
    }
}

/// True if `restart` can express the whole policy.
fn is_plain(restart: &Restart) -> bool {
    let bounded = restart.max_attempts.is_some() && restart.condition != RestartCondition::OnFailure;
    restart.delay.is_zero() && restart.window.is_none() && !bounded
}

fn condition(condition: RestartCondition) -> &'static str {
    match condition {
        RestartCondition::No => "no",
        RestartCondition::Always => "always",
        RestartCondition::UnlessStopped => "unless-stopped",
        RestartCondition::OnFailure => "on-failure",
    }
}

impl ServiceSettings {
    fn new(settings: &Settings) -> Self {
        let or_never = |duration: Option<Duration>| duration.map_or("never".to_owned(), format);
        Self {
            idle_after: or_never(settings.idle_after),
            terminate_after: or_never(settings.terminate_after),
            disposable: settings.disposable,
            timer_slack: format(settings.timer_slack),
            reclaim: settings.reclaim,
            prefetch: if settings.prefetch_dns { "dns" } else { "none" },
            hold_timeout: format(settings.hold_timeout),
            keep_awake: settings.keep_awake,
            boot_dependencies: settings.boot_dependencies,
        }
    }
}

/// A signal by its name; real-time signals have only numbers.
fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

/// Text that stays itself when variables are put in.
fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn escape_values(map: &BTreeMap<String, String>) -> BTreeMap<&str, String> {
    map.iter().map(|(name, value)| (name.as_str(), escape(value))).collect()
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
