//! Images and volumes of the hosts of a compose file, before a broker makes the hosts.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use imsup_broker::containers::{Unpacked, Volumes, complete, remove, workers};
use imsup_broker::own_program;
use imsup_broker::paths::Paths;
use imsup_compose::cluster::{Cluster, Container};
use imsup_images::wanted::Found;
use imsup_images::{Image, Wanted};
use imsup_linux::root::subordinate::ids_of_caller;
use imsup_linux::single_thread::SingleThread;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::image_store;

/// An image by its name and platform, as the compose file has them.
type Key = (String, Option<String>);

/// Has the images of a cluster brought, completes the hosts' programs by the images, and makes their
/// volumes. For a process with one thread.
///
/// # Errors
/// An image that cannot be had, or what the file asks for and cannot be.
pub fn prepare(cluster: &mut Cluster, mut warn: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let containers = cluster.hosts.iter().filter_map(|host| host.container.as_deref());
    let images: BTreeMap<Key, Container> = containers
        .map(|container| (key(container), container.clone()))
        .collect();
    if images.is_empty() {
        return Ok(());
    }
    let images = bring(&images)?;
    let paths = Paths::of(&cluster.project);
    let ids = ids_of_caller();
    let mut volumes = Volumes::default();
    let mut missing: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for host in &mut cluster.hosts {
        let Some(image) = host
            .container
            .as_deref()
            .and_then(|container| images.get(&key(container)))
        else {
            continue;
        };
        let unpacked = Unpacked {
            config: &image.config,
            layers: &image.layers,
        };
        let ports = complete(host, unpacked, &ids, &paths, &mut volumes)
            .with_context(|| format!("host '{}' of the image {}", host.name, image.name.familiar()))?;
        let are_set = host.program.root.as_ref().is_some_and(|root| !root.sysctls.is_empty());
        let are_asked = host
            .container
            .as_ref()
            .is_some_and(|container| !container.sysctls.is_empty());
        if are_asked && !are_set {
            warn(&format!(
                "host '{}': sysctls are not set: without subordinate ids (subuid(5)) its only user is another than root",
                host.name
            ))?;
        }
        if !ports.is_empty() {
            missing.insert(image.name.familiar(), ports);
        }
    }
    for (image, ports) in missing {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        warn(&format!(
            "the image {image} listens below the first port that an ordinary user may have ({}): \
             connections there do not boot it; have the program listen on another port",
            ports.join(", ")
        ))?;
    }
    workers::mark(cluster);
    let thread = SingleThread::prove().context("making volumes")?;
    let scratch = paths.roots().join(".scratch");
    let made = volumes.make(&scratch, &thread);
    let _ = remove(&scratch);
    if made.is_err() && !paths.events().exists() {
        // No broker has the project, and none will.
        let _ = remove(&paths.roots());
        let _ = std::fs::remove_dir(paths.state());
    }
    made?;
    let used: Vec<Image> = images.into_values().collect();
    image_store::look()?.use_images(&cluster.project, paths.runtime(), &used)?;
    Ok(())
}

fn key(container: &Container) -> Key {
    (container.image.clone(), container.platform.clone())
}

/// An image as the file wants it.
fn wanted(container: &Container) -> Result<Wanted> {
    let name = container.image.parse();
    let platform = container.platform.as_ref().map(|platform| platform.parse());
    Ok(Wanted {
        name: name.with_context(|| format!("the image '{}'", container.image))?,
        platform: platform
            .transpose()
            .with_context(|| format!("the platform of the image {}", container.image))?,
        pull: container.pull.parse()?,
    })
}

/// The images, after the puller has brought what is not here. The puller shows its progress itself.
fn bring(containers: &BTreeMap<Key, Container>) -> Result<BTreeMap<Key, Image>> {
    let mut wanted_by_key = BTreeMap::new();
    for (key, container) in containers {
        wanted_by_key.insert(key.clone(), wanted(container)?);
    }
    let store = image_store::look()?;
    let mut images = BTreeMap::new();
    let mut absent = Vec::new();
    for (key, wanted) in &wanted_by_key {
        match wanted.find(&store, SystemTime::now())? {
            Found::Here(image) => drop(images.insert(key.clone(), *image)),
            Found::Elsewhere(_) => absent.push((key, wanted)),
        }
    }
    if absent.is_empty() {
        return Ok(images);
    }
    pull(absent.iter().map(|(_, wanted)| wanted.to_string()))?;
    for (key, wanted) in absent {
        let image = store.resolve(&wanted.name, &wanted.platform())?;
        let image = image.with_context(|| format!("the image {} has gone again", wanted.name.familiar()))?;
        images.insert(key.clone(), image);
    }
    Ok(images)
}

fn pull(images: impl Iterator<Item = String>) -> Result<()> {
    let executable = std::env::current_exe().context("finding imsup's own program")?;
    let mut puller = own_program::command(&executable);
    puller.arg("puller").arg("--").args(images);
    // Standard output is where the broker tells that it is ready.
    puller.stdin(Stdio::null()).stdout(Stdio::null());
    // A broker that starts is in no terminal's foreground: with `up`, which Ctrl-C ends, nobody wants
    // the images any more.
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
    let status = puller.status().context("starting the puller")?;
    let _ = prctl::set_pdeathsig(None);
    match status.success() {
        true => Ok(()),
        false => bail!("no host exists, as its image cannot be had"),
    }
}
