//! The configuration of an image: what it runs, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use imsup_wire::address::Transport;
use serde::Deserialize;

use crate::digest::Digest;
use crate::manifest::or_default;
use crate::platform::Platform;

/// What an image says of the programs that run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// ENTRYPOINT: the first words of the command.
    pub entrypoint: Vec<String>,
    /// CMD: the rest of the command, if nothing else is asked for.
    pub cmd: Vec<String>,
    /// ENV, in its order.
    pub env: Vec<(String, String)>,
    /// WORKDIR.
    pub working_dir: Option<PathBuf>,
    /// USER: `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// EXPOSE, sorted.
    pub exposed_ports: Vec<(u16, Transport)>,
    /// VOLUME, sorted.
    pub volumes: Vec<PathBuf>,
    /// STOPSIGNAL: a name or a number.
    pub stop_signal: Option<String>,
    /// HEALTHCHECK.
    pub healthcheck: Option<Healthcheck>,
    /// LABEL.
    pub labels: BTreeMap<String, String>,
}

/// The check of an image's health. What is `None` has Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", COMMAND]`.
    pub test: Vec<String>,
    /// The time between two checks.
    pub interval: Option<Duration>,
    /// The time that a check may take.
    pub timeout: Option<Duration>,
    /// How long failures do not count after the start.
    pub start_period: Option<Duration>,
    /// The time between two checks within the start period.
    pub start_interval: Option<Duration>,
    /// How many failures in a row make the program unhealthy.
    pub retries: Option<u32>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No JSON, or not of the form of a configuration.
    #[error("the image's configuration cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A root of another kind than layers.
    #[error("the image's root is of the kind '{0}', not 'layers'")]
    RootKind(String),
}

/// The whole configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// What runs.
    pub config: ImageConfig,
    /// The platform that the image was made for.
    pub platform: Platform,
    /// The digests of the layers when unpacked to tar, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ConfigFile {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let file: File = serde_json::from_slice(text)?;
        if !matches!(file.rootfs.kind.as_str(), "layers" | "") {
            return Err(ConfigError::RootKind(file.rootfs.kind));
        }
        Ok(Self {
            config: file.config.into(),
            platform: Platform::new(&file.os, &file.architecture, file.variant.as_deref()),
            diff_ids: file.rootfs.diff_ids,
        })
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    config: Fields,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// The field `config`, with Go's `null` for whatever is empty.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Fields {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<PathBuf>,
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<BTreeMap<PathBuf, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    healthcheck: Option<HealthFields>,
    labels: Option<BTreeMap<String, String>>,
}

/// Durations are in nanoseconds; zero is no value.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthFields {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

impl From<Fields> for ImageConfig {
    fn from(fields: Fields) -> Self {
        let ports = fields.exposed_ports.unwrap_or_default();
        let mut exposed_ports: Vec<(u16, Transport)> = ports.keys().flat_map(|text| exposed(text)).collect();
        exposed_ports.sort_unstable();
        exposed_ports.dedup();
        let variable = |text: String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text, String::new()),
        };
        Self {
            entrypoint: fields.entrypoint.unwrap_or_default(),
            cmd: fields.cmd.unwrap_or_default(),
            env: fields.env.unwrap_or_default().into_iter().map(variable).collect(),
            working_dir: fields.working_dir.filter(|path| !path.as_os_str().is_empty()),
            user: fields.user.filter(|user| !user.is_empty()),
            exposed_ports,
            volumes: fields.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: fields.stop_signal.filter(|signal| !signal.is_empty()),
            healthcheck: fields.healthcheck.map(Healthcheck::from),
            labels: fields.labels.unwrap_or_default(),
        }
    }
}

impl From<HealthFields> for Healthcheck {
    fn from(fields: HealthFields) -> Self {
        let duration = |nanoseconds: i64| {
            let nanoseconds = u64::try_from(nanoseconds).ok().filter(|value| *value > 0);
            nanoseconds.map(Duration::from_nanos)
        };
        Self {
            test: fields.test.unwrap_or_default(),
            interval: duration(fields.interval),
            timeout: duration(fields.timeout),
            start_period: duration(fields.start_period),
            start_interval: duration(fields.start_interval),
            retries: u32::try_from(fields.retries).ok().filter(|value| *value > 0),
        }
    }
}

/// The ports of `80`, `53/udp` or `8000-8010/tcp`; none for SCTP, or for whatever is no port.
fn exposed(text: &str) -> Vec<(u16, Transport)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let transport = match protocol.to_lowercase().as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return Vec::new(),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first @ 1..), Ok(last)) => (first..=last).map(|port| (port, transport)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: &Value) -> ConfigFile {
        let file = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"layer")]},
        });
        ConfigFile::parse(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_field_is_read() {
        let file = read(&json!({
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["postgres"],
            "Env": ["PATH=/bin", "A=b=c", "EMPTY=", "NONE"],
            "WorkingDir": "/srv", "User": "999:998",
            "ExposedPorts": {"5432/tcp": {}, "53/UDP": {}, "80": {}, "8000-8002/tcp": {}, "x": {}, "9/sctp": {}, "0": {}},
            "Volumes": {"/var/lib/postgresql/data": {}}, "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 3, "Timeout": 0},
            "Labels": {"a": "b"}, "OnBuild": null, "ArgsEscaped": true,
        }));
        assert_eq!(
            (file.platform.to_string().as_str(), file.diff_ids.len()),
            ("linux/amd64", 1)
        );
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = ImageConfig {
            entrypoint: vec!["docker-entrypoint.sh".to_owned()],
            cmd: vec!["postgres".to_owned()],
            env: vec![
                pair("PATH", "/bin"),
                pair("A", "b=c"),
                pair("EMPTY", ""),
                pair("NONE", ""),
            ],
            working_dir: Some("/srv".into()),
            user: Some("999:998".to_owned()),
            exposed_ports: vec![
                (53, Transport::Udp),
                (80, Transport::Tcp),
                (5432, Transport::Tcp),
                (8000, Transport::Tcp),
                (8001, Transport::Tcp),
                (8002, Transport::Tcp),
            ],
            volumes: vec!["/var/lib/postgresql/data".into()],
            stop_signal: Some("SIGINT".to_owned()),
            healthcheck: Some(Healthcheck {
                test: vec!["CMD-SHELL".to_owned(), "true".to_owned()],
                interval: Some(Duration::from_secs(5)),
                retries: Some(3),
                ..Healthcheck::default()
            }),
            labels: BTreeMap::from([pair("a", "b")]),
        };
        assert_eq!(file.config, expected);
    }

    #[test]
    fn null_and_empty_are_nothing() {
        let nothing = ImageConfig::default();
        assert_eq!(read(&json!(null)).config, nothing);
        let nulls = json!({"Entrypoint": null, "Cmd": null, "Env": null, "Volumes": null, "User": "", "WorkingDir": "",
            "Healthcheck": null, "ExposedPorts": null, "Labels": null, "StopSignal": ""});
        assert_eq!(read(&nulls).config, nothing);
    }

    #[test]
    fn other_roots_are_refused() {
        let error = |text: &str| ConfigFile::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error(r#"{"rootfs": {"type": "windows"}}"#).contains("windows"));
        assert!(error("{}").contains("rootfs"));
        assert!(error(r#"{"rootfs": {"diff_ids": ["sha256:x"]}}"#).contains("64 digits"));
    }
}
