//! What the file says of a host whose program is an image's.

use std::path::PathBuf;

use imsup_wire::Transport;
use imsup_wire::root::{DEFAULT_CAPABILITIES, capability};
use serde::{Deserialize, Serialize};

use crate::model::{Device, FileMount, Model, PullPolicy, Resource, Service, Volume, VolumeKind};

/// Capabilities over the machine's network, which a program of an image shares.
const OF_THE_NETWORK: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

/// An image, and what is said over the image's own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The image's name; `PROJECT-SERVICE` for a build without one.
    pub image: String,
    /// `platform`; the machine's if `None`.
    pub platform: Option<String>,
    /// `pull_policy`, as written; `build` for a build without one, `missing` if there is neither.
    pub pull: String,
    /// Whether the image is built from the project's files.
    pub is_built: bool,
    /// `entrypoint`; the image's if `None`.
    pub entrypoint: Option<Vec<String>>,
    /// `command`; the image's if `None` or empty.
    pub command: Option<Vec<String>>,
    /// `working_dir`; the image's if `None`.
    pub working_dir: Option<String>,
    /// Whether `stop_signal` is given; the image's if not.
    pub has_stop_signal: bool,
    /// `volumes`, `tmpfs`, `devices`, `secrets` and `configs`.
    pub mounts: Vec<ContainerMount>,
    /// `read_only`.
    pub read_only: bool,
    /// `shm_size`, in bytes; Docker's 64 MiB if `None`.
    pub shm_bytes: Option<u64>,
    /// The capabilities after `cap_add` and `cap_drop`, as a mask (capabilities(7)).
    pub capabilities: u64,
    /// `sysctls`.
    pub sysctls: Vec<(String, String)>,
    /// The ports that only the image declares, once it is known.
    pub exposed: Vec<(Transport, u16)>,
    /// `no-new-privileges` of `security_opt`.
    pub no_new_privs: bool,
}

/// A mount in the root of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMount {
    /// The absolute path in the root.
    pub target: PathBuf,
    /// What is mounted.
    pub source: ContainerSource,
    /// Whether the program may not write there.
    pub read_only: bool,
}

/// The source of a [`ContainerMount`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerSource {
    /// A file or directory of the machine.
    Bind {
        /// Its absolute path.
        path: PathBuf,
        /// Whether a directory is made if there is nothing.
        make: bool,
    },
    /// A volume that outlives the project.
    Named {
        /// Its name on the machine.
        name: String,
        /// The directory of the volume that is mounted.
        subpath: Option<PathBuf>,
        /// Whether the volume must be there already.
        external: bool,
        /// Whether an empty volume takes the image's content.
        fill: bool,
    },
    /// A volume of this host alone.
    Anonymous,
    /// A device of the machine, or a directory of devices.
    Device(PathBuf),
    /// Memory.
    Tmpfs {
        /// The largest size, in bytes.
        bytes: Option<u64>,
        /// The permissions of its root.
        mode: Option<u32>,
    },
    /// A file with this content.
    Content {
        /// The content.
        text: String,
        /// The permissions.
        mode: u32,
    },
}

/// A value that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unhonoured {
    /// The service's key.
    pub key: &'static str,
    /// The reason.
    pub why: String,
}

/// A value that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The service's key.
    pub key: &'static str,
    /// What is wrong.
    pub why: String,
}

impl Refused {
    fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }
}

/// The container of a service, unless the service runs a command of the machine. `variable` looks up
/// a variable of the caller.
pub(super) fn of(
    name: &str,
    model: &Model,
    variable: &dyn Fn(&str) -> Option<String>,
    unhonoured: &mut Vec<Unhonoured>,
) -> Result<Option<Container>, Refused> {
    let Some(service) = model.services.get(name) else {
        return Ok(None);
    };
    let image = match (&service.image, &service.build) {
        (Some(image), _) => image.clone(),
        (None, Some(_)) => format!("{}-{name}", model.name),
        (None, None) => return Ok(None),
    };
    let capabilities = capabilities(service, unhonoured)?;
    Ok(Some(Container {
        image,
        platform: service.platform.clone(),
        pull: pull(service),
        is_built: service.build.is_some(),
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        working_dir: service.working_dir.clone().filter(|directory| !directory.is_empty()),
        has_stop_signal: service.stop_signal.is_some(),
        mounts: mounts(service, model, variable, unhonoured)?,
        read_only: service.read_only,
        shm_bytes: service.shm_size,
        capabilities,
        sysctls: sysctls(service, unhonoured),
        exposed: Vec::new(),
        no_new_privs: no_new_privs(service, unhonoured)?,
    }))
}

fn pull(service: &Service) -> String {
    let text = match &service.pull_policy {
        None if service.build.is_some() => "build",
        None | Some(PullPolicy::Missing) => "missing",
        Some(PullPolicy::Always) => "always",
        Some(PullPolicy::Never) => "never",
        Some(PullPolicy::Build) => "build",
        Some(PullPolicy::Older(text)) => text,
    };
    text.to_owned()
}

/// Docker's rules: what is dropped is dropped from the default set, and `ALL` is every one.
fn capabilities(service: &Service, unhonoured: &mut Vec<Unhonoured>) -> Result<u64, Refused> {
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut mask = match all(&service.cap_drop) {
        true => 0,
        false => DEFAULT_CAPABILITIES,
    };
    for name in service.cap_drop.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        mask &= !bit("cap_drop", name)?;
    }
    if all(&service.cap_add) {
        mask = u64::MAX;
    }
    for name in service.cap_add.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        mask |= bit("cap_add", name)?;
    }
    for name in OF_THE_NETWORK {
        let bit = bit("cap_add", name)?;
        if mask & bit != 0 {
            mask &= !bit;
            unhonoured.push(Unhonoured {
                key: "cap_add",
                why: format!("the network is the machine's, so no program of an image has {name}"),
            });
        }
    }
    Ok(mask)
}

fn bit(key: &'static str, name: &str) -> Result<u64, Refused> {
    let number = capability(name).ok_or_else(|| {
        Refused::new(
            key,
            format!("'{name}' is no capability: see capabilities(7) for their names"),
        )
    })?;
    Ok(1 << number)
}

/// The settings of namespaces that a root has of its own: ipc and uts.
fn sysctls(service: &Service, unhonoured: &mut Vec<Unhonoured>) -> Vec<(String, String)> {
    const OWN: [&str; 10] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.hostname",
        "kernel.domainname",
    ];
    let mut own = Vec::new();
    for (name, value) in &service.sysctls {
        match OWN.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            true => own.push((name.clone(), value.clone())),
            false => unhonoured.push(Unhonoured {
                key: "sysctls",
                why: format!("{name} is the machine's: set it there (sysctl -w)"),
            }),
        }
    }
    own
}

/// The options of security modules, as `NAME[=VALUE]` or `NAME[:VALUE]`, of which the last one counts
/// (moby, daemon/daemon_unix.go, parseSecurityOpt).
fn no_new_privs(service: &Service, unhonoured: &mut Vec<Unhonoured>) -> Result<bool, Refused> {
    // imsup has no profile of its own, so none is to be taken away.
    const HARMLESS: [(&str, &str); 3] = [
        ("seccomp", "unconfined"),
        ("apparmor", "unconfined"),
        ("label", "disable"),
    ];
    let mut is_set = false;
    for option in &service.security_opt {
        let split = option.split_once('=').or_else(|| option.split_once(':'));
        match split.unwrap_or((option, "true")) {
            ("no-new-privileges", value) => {
                is_set = match value {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                    _ => {
                        let why = format!("'{option}' is neither 'true' nor 'false'");
                        return Err(Refused::new("security_opt", why));
                    }
                };
            }
            pair if HARMLESS.contains(&pair) => {}
            _ => unhonoured.push(Unhonoured {
                key: "security_opt",
                why: format!("imsup sets no profiles of security modules, so not '{option}'"),
            }),
        }
    }
    Ok(is_set)
}

fn mounts(
    service: &Service,
    model: &Model,
    variable: &dyn Fn(&str) -> Option<String>,
    unhonoured: &mut Vec<Unhonoured>,
) -> Result<Vec<ContainerMount>, Refused> {
    let mut mounts = Vec::new();
    for volume in &service.volumes {
        if let Some(source) = source(volume, model, unhonoured) {
            mounts.push(ContainerMount {
                target: target("volumes", &volume.target)?,
                source,
                read_only: volume.read_only,
            });
        }
    }
    for text in &service.tmpfs {
        mounts.push(tmpfs(text)?);
    }
    for asked in &service.devices {
        mounts.push(device(asked)?);
    }
    for (key, files, resources, directory) in [
        ("secrets", &service.secrets, &model.secrets, "/run/secrets/"),
        ("configs", &service.configs, &model.configs, "/"),
    ] {
        for file in files {
            mounts.push(content(key, file, resources.get(&file.source), directory, variable)?);
        }
    }
    // The last mount at a place counts, as under docker compose.
    let mut seen = std::collections::BTreeSet::new();
    mounts.reverse();
    mounts.retain(|mount| seen.insert(mount.target.clone()));
    mounts.reverse();
    Ok(mounts)
}

fn target(key: &'static str, text: &str) -> Result<PathBuf, Refused> {
    let path = PathBuf::from(text);
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    match path.is_absolute() && !climbs && path.parent().is_some() {
        true => Ok(path),
        false => Err(Refused::new(
            key,
            format!("'{text}' is no place for a mount: write an absolute path without '..', other than '/'"),
        )),
    }
}

/// The source of an entry of `volumes`; `None` if the kind has no effect here.
fn source(volume: &Volume, model: &Model, unhonoured: &mut Vec<Unhonoured>) -> Option<ContainerSource> {
    match (volume.kind, &volume.source) {
        (VolumeKind::Bind, Some(path)) => Some(ContainerSource::Bind {
            path: path.into(),
            make: volume.bind.create_host_path,
        }),
        (VolumeKind::Volume, Some(key)) => {
            let resource = model.volumes.get(key);
            Some(ContainerSource::Named {
                name: resource.map_or(key, |resource| &resource.name).clone(),
                subpath: volume.volume.subpath.clone().map(PathBuf::from),
                external: resource.is_some_and(|resource| resource.external),
                fill: !volume.volume.nocopy && volume.volume.subpath.is_none(),
            })
        }
        (VolumeKind::Volume, None) => Some(ContainerSource::Anonymous),
        (VolumeKind::Tmpfs, _) => Some(ContainerSource::Tmpfs {
            bytes: volume.tmpfs.size,
            mode: volume.tmpfs.mode,
        }),
        (VolumeKind::Bind | VolumeKind::Npipe | VolumeKind::Cluster | VolumeKind::Image, _) => {
            unhonoured.push(Unhonoured {
                key: "volumes",
                why: format!("imsup has no volumes of this kind, for {}", volume.target),
            });
            None
        }
    }
}

/// A device by its path. Who may open the device is said by its own mode: `permissions` are a matter
/// of cgroups, and a read-only mount lets devices be written.
fn device(device: &Device) -> Result<ContainerMount, Refused> {
    let source = PathBuf::from(&device.source);
    if !source.is_absolute() {
        return Err(Refused::new(
            "devices",
            format!(
                "'{}' is no absolute path: imsup has no CDI devices, so name the devices by their paths",
                device.source
            ),
        ));
    }
    let at = Some(&device.target).filter(|target| !target.is_empty());
    Ok(ContainerMount {
        target: target("devices", at.unwrap_or(&device.source))?,
        source: ContainerSource::Device(source),
        read_only: false,
    })
}

/// `PATH[:OPTIONS]`, with the options of tmpfs(5) that docker compose takes.
fn tmpfs(text: &str) -> Result<ContainerMount, Refused> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut bytes, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',') {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => {
                let size = crate::size::bytes(size);
                bytes = Some(size.map_err(|error| Refused::new("tmpfs", error.to_string()))?);
            }
            ("mode", octal) => {
                let octal = u32::from_str_radix(octal, 8);
                mode = Some(octal.map_err(|_| Refused::new("tmpfs", format!("no mode in '{text}'")))?);
            }
            ("ro", _) => read_only = true,
            _ => {}
        }
    }
    Ok(ContainerMount {
        target: target("tmpfs", path)?,
        source: ContainerSource::Tmpfs { bytes, mode },
        read_only,
    })
}

/// A secret or a config as a file.
fn content(
    key: &'static str,
    file: &FileMount,
    resource: Option<&Resource>,
    directory: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<ContainerMount, Refused> {
    let named = file.target.clone().unwrap_or_else(|| file.source.clone());
    let at = match named.starts_with('/') {
        true => named,
        false => format!("{directory}{named}"),
    };
    let no_content = |why: &str| Refused::new(key, format!("'{}' {why}", file.source));
    let resource = resource.ok_or_else(|| no_content("is not in the file"))?;
    let mode = file.mode.unwrap_or(0o444);
    let source = match (&resource.file, &resource.environment, &resource.content) {
        (Some(path), _, _) => ContainerSource::Bind {
            path: path.into(),
            make: false,
        },
        (None, Some(name), _) => ContainerSource::Content {
            text: variable(name).ok_or_else(|| no_content(&format!("needs the variable {name}, which is not set")))?,
            mode,
        },
        (None, None, Some(text)) => ContainerSource::Content {
            text: text.clone(),
            mode,
        },
        (None, None, None) => {
            return Err(no_content(
                "has no content here: give it a 'file', 'environment' or 'content' (imsup keeps no secrets of a cluster)",
            ));
        }
    };
    Ok(ContainerMount {
        target: target(key, &at)?,
        source,
        read_only: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_paths() {
        let of = |source: &str, target: &str| {
            let (source, target) = (source.to_owned(), target.to_owned());
            let permissions = "rwm".to_owned();
            let mount = device(&Device {
                source,
                target,
                permissions,
            });
            mount.map(|mount| mount.target).map_err(|refused| refused.why)
        };
        assert_eq!(of("/dev/fuse", "/dev/f"), Ok(PathBuf::from("/dev/f")));
        assert_eq!(of("/dev/fuse", ""), Ok(PathBuf::from("/dev/fuse")));
        let refused = of("vendor.com/gpu=all", "vendor.com/gpu=all").unwrap_err();
        assert!(refused.contains("no CDI devices"), "{refused}");
    }

    #[test]
    fn security_options_have_either_separator_and_the_last_one_counts() {
        let of = |options: &[&str]| {
            let security_opt = options.iter().map(|option| (*option).to_owned()).collect();
            let mut unhonoured = Vec::new();
            let service = Service {
                security_opt,
                ..Service::default()
            };
            let is_set = no_new_privs(&service, &mut unhonoured);
            (is_set.map_err(|refused| refused.key), unhonoured.len())
        };
        assert_eq!(of(&[]), (Ok(false), 0));
        assert_eq!(of(&["no-new-privileges"]), (Ok(true), 0));
        assert_eq!(of(&["no-new-privileges=true", "seccomp:unconfined"]), (Ok(true), 0));
        assert_eq!(
            of(&["no-new-privileges:true", "no-new-privileges:false"]),
            (Ok(false), 0)
        );
        assert_eq!(of(&["no-new-privileges:yes"]), (Err("security_opt"), 0));
        assert_eq!(of(&["seccomp:./profile.json"]), (Ok(false), 1));
    }
}
