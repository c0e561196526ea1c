//! Hosts with images: what an image says, under what the compose file says.
//!
//! Before the hosts exist, the image of each is looked up, and the host's program is completed
//! ([`complete`], pure but for a look into the image's layers); then its volumes are made
//! ([`Volumes::make`]). A boot finds everything ready.

mod command;
mod copy;
mod volumes;
pub mod workers;

use std::io;
use std::path::{Path, PathBuf};

use imsup_compose::cluster::{Container, ContainerSource, HealthCheck, HostSpec};
use imsup_images::ImageConfig;
use imsup_images::config::Healthcheck;
use imsup_linux::root::accounts::{self, Accounts, NotInRoot};
use imsup_wire::root::{Mount, MountSource};
use imsup_wire::{Ids, RootSpec, Transport};

pub use self::command::NoCommand;
pub use self::volumes::{VolumeError, Volumes};
use crate::files;
use crate::limits;
use crate::paths::Paths;

/// The size of /dev/shm under Docker, in bytes.
const SHM_BYTES: u64 = 64 << 20;

/// The mode of a tmpfs(5) under Docker.
const TMPFS_MODE: u32 = 0o1777;

/// What docker writes to /etc/hosts of every container. Names of hosts are the name server's.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The file with the machine's resolvers, which a root has as well.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The directory, among the roots, of what is to be removed.
pub const GONE: &str = ".gone";

/// Why a host with an image cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither the file nor the image has a command.
    #[error(transparent)]
    Command(#[from] NoCommand),
    /// The image has no such user.
    #[error(transparent)]
    User(#[from] NotInRoot),
    /// No signal.
    #[error("its image's stop signal '{0}' is no signal: set `stop_signal`")]
    StopSignal(String),
}

/// An unpacked image.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked<'a> {
    /// Its configuration.
    pub config: &'a ImageConfig,
    /// The directories of its layers, the lowest first.
    pub layers: &'a [PathBuf],
}

/// Removes a directory of roots, whoever's its files are.
///
/// # Errors
/// Errors of rmdir(2) and unlink(2).
pub fn remove(directory: &Path) -> io::Result<()> {
    files::remove_tree(directory)
}

/// Completes the program, the ports and the root of a host with an image; `ids` are those of the
/// caller, of which [`Ids::One`] becomes the program's. Returns the ports of the image that this user
/// cannot have.
///
/// # Errors
/// Any [`ContainerError`].
pub fn complete(
    host: &mut HostSpec,
    image: Unpacked<'_>,
    ids: &Ids,
    paths: &Paths,
    volumes: &mut Volumes,
) -> Result<Vec<u16>, ContainerError> {
    let Some(container) = host.container.take() else {
        return Ok(Vec::new());
    };
    let declared = host.expose.len();
    let completed = complete_with(host, &container, image, ids, paths, volumes);
    let exposed = host.expose[declared..].to_vec();
    host.container = Some(Box::new(Container { exposed, ..*container }));
    completed
}

fn complete_with(
    host: &mut HostSpec,
    container: &Container,
    image: Unpacked<'_>,
    ids: &Ids,
    paths: &Paths,
    volumes: &mut Volumes,
) -> Result<Vec<u16>, ContainerError> {
    let config = image.config;
    let program = &mut host.program;
    program.command = command::command(container, config)?
        .into_iter()
        .map(Into::into)
        .collect();
    for (name, value) in &config.env {
        let variable = program.environment.entry(name.clone());
        variable.or_insert_with(|| value.clone());
    }
    program.working_dir = working_dir(container.working_dir.as_deref(), config.working_dir.as_deref());
    if program.user.is_none() {
        program.user = config.user.clone().filter(|user| !user.is_empty());
    }
    if let Some(signal) = config.stop_signal.as_ref().filter(|_| !container.has_stop_signal) {
        let number = imsup_compose::signal(signal);
        program.stop_signal = number.ok_or_else(|| ContainerError::StopSignal(signal.clone()))?;
    }
    host.health = health(host.health.take(), config.healthcheck.as_ref());
    let own = paths.roots().join(host.name.as_str());
    let (mounts, targets) = mounts(container, config, &host.hostname, &own, paths, volumes);
    let one = one_id(program.user.as_deref(), config, image.layers)?;
    let ids = match ids {
        Ids::One { .. } => one,
        Ids::Identity | Ids::Ranges { .. } => ids.clone(),
    };
    // Only user 0 of the root could set them (ipc/ipc_sysctl.c, ipc_permissions).
    let sets_sysctls = !matches!(ids, Ids::One { uid, .. } if uid != 0);
    let sysctls = container.sysctls.iter().filter(|_| sets_sysctls).cloned().collect();
    let root = RootSpec {
        layers: image.layers.iter().map(Into::into).collect(),
        changes: own.into(),
        mount_point: paths.roots().join(".mount").into(),
        read_only: container.read_only,
        ids,
        hostname: host.hostname.clone(),
        mounts,
        shm_bytes: container.shm_bytes.unwrap_or(SHM_BYTES),
        capabilities: container.capabilities,
        sysctls,
        no_new_privs: container.no_new_privs,
    };
    volumes.fill_from(&root, targets);
    program.root = Some(Box::new(root));
    Ok(retain(host, config))
}

/// The file's health check over the image's, value by value (moby, daemon/commit.go, merge).
fn health(file: Option<HealthCheck>, image: Option<&Healthcheck>) -> Option<HealthCheck> {
    let (mut health, image) = match (file, image) {
        (file, None) => return file,
        (file, Some(image)) => (file.unwrap_or_default(), image),
    };
    if health.test.is_empty() {
        health.test.clone_from(&image.test);
    }
    health.interval = health.interval.or(image.interval);
    health.timeout = health.timeout.or(image.timeout);
    health.start_period = health.start_period.or(image.start_period);
    health.start_interval = health.start_interval.or(image.start_interval);
    health.retries = health.retries.or(image.retries);
    Some(health)
}

/// `working_dir`, relative to the image's.
fn working_dir(asked: Option<&str>, of_image: Option<&Path>) -> PathBuf {
    let of_image = Path::new("/").join(of_image.unwrap_or(Path::new("")));
    match asked {
        Some(asked) => of_image.join(asked),
        None => of_image,
    }
}

/// The image's ports are retained like declared ones, but for those that this user cannot have.
fn retain(host: &mut HostSpec, config: &ImageConfig) -> Vec<u16> {
    let first = match rustix::process::geteuid().is_root() {
        true => 0,
        false => limits::first_unprivileged_port(),
    };
    let mut missing = Vec::new();
    for (port, transport) in &config.exposed_ports {
        let is_known = host.expose.contains(&(*transport, *port));
        match *port >= first {
            _ if is_known => {}
            true => host.expose.push((*transport, *port)),
            false if *transport == Transport::Tcp => missing.push(*port),
            false => {}
        }
    }
    missing
}

/// The only user of a root of an ordinary user: the program's, else the owner of the image's first
/// volume, as whom servers run that leave root themselves (postgres, redis, mysql), else root.
fn one_id(user: Option<&str>, config: &ImageConfig, layers: &[PathBuf]) -> Result<Ids, NotInRoot> {
    let highest_first: Vec<PathBuf> = layers.iter().rev().cloned().collect();
    if let Some(user) = user {
        let account = Accounts::of(&highest_first).find(user)?;
        return Ok(Ids::One {
            uid: account.uid,
            gid: account.gid,
        });
    }
    let owner = config
        .volumes
        .first()
        .and_then(|volume| accounts::owner_of(&highest_first, volume));
    let (uid, gid) = owner.unwrap_or((0, 0));
    Ok(Ids::One { uid, gid })
}

/// The mounts of a root, and which volumes take the image's content at which target.
fn mounts(
    container: &Container,
    config: &ImageConfig,
    hostname: &str,
    own: &Path,
    paths: &Paths,
    volumes: &mut Volumes,
) -> (Vec<Mount>, Vec<(PathBuf, PathBuf)>) {
    let mut mounts = vec![Mount {
        target: RESOLV_CONF.into(),
        source: MountSource::Bind(RESOLV_CONF.into()),
        read_only: true,
    }];
    if !Path::new(RESOLV_CONF).exists() {
        mounts.clear();
    }
    for (target, text) in [
        ("/etc/hosts", HOSTS.to_owned()),
        ("/etc/hostname", format!("{hostname}\n")),
    ] {
        let file = own.join("content").join(target.replace('/', "-"));
        volumes.content(file.clone(), text, 0o644);
        mounts.push(Mount {
            target: target.into(),
            source: MountSource::Bind(file.into()),
            read_only: false,
        });
    }
    mounts.retain(|mount| !container.mounts.iter().any(|own| own.target == mount.target.as_ref()));
    let mut targets = Vec::new();
    for (number, mount) in container.mounts.iter().enumerate() {
        let source = match &mount.source {
            ContainerSource::Bind { path, make } => {
                volumes.bind(path.clone(), *make);
                MountSource::Bind(path.into())
            }
            ContainerSource::Named {
                name,
                subpath,
                external,
                fill,
            } => {
                let directory = paths.volumes().join(name);
                volumes.named(directory.clone(), name, *external);
                if *fill {
                    targets.push((directory.clone(), mount.target.clone()));
                }
                let within = subpath.as_ref().map_or(directory.clone(), |path| directory.join(path));
                MountSource::Bind(within.into())
            }
            ContainerSource::Anonymous => anonymous(&mount.target, own, volumes, &mut targets),
            ContainerSource::Device(path) => MountSource::Device(path.into()),
            ContainerSource::Tmpfs { bytes, mode } => MountSource::Tmpfs {
                bytes: *bytes,
                mode: mode.unwrap_or(TMPFS_MODE),
            },
            ContainerSource::Content { text, mode } => {
                let file = own.join("content").join(number.to_string());
                volumes.content(file.clone(), text.clone(), *mode);
                MountSource::Bind(file.into())
            }
        };
        mounts.push(Mount {
            target: (&mount.target).into(),
            source,
            read_only: mount.read_only,
        });
    }
    let taken = |target: &Path| container.mounts.iter().any(|mount| mount.target == target);
    for target in config
        .volumes
        .iter()
        .filter(|target| !taken(target) && target.is_absolute())
    {
        mounts.push(Mount {
            target: target.into(),
            source: anonymous(target, own, volumes, &mut targets),
            read_only: false,
        });
    }
    (mounts, targets)
}

/// A volume of one host, kept until the project is taken down.
fn anonymous(target: &Path, own: &Path, volumes: &mut Volumes, targets: &mut Vec<(PathBuf, PathBuf)>) -> MountSource {
    let inside = target.strip_prefix("/").unwrap_or(target);
    let directory = own.join("volumes").join(inside).join("_data");
    volumes.anonymous(directory.clone());
    targets.push((directory.clone(), target.to_owned()));
    MountSource::Bind(directory.into())
}

#[cfg(test)]
mod tests;
