//! Images and volumes of the hosts of a compose file, before a broker makes the hosts.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use imsup_broker::containers::{Unpacked, Volumes, complete};
use imsup_broker::own_program;
use imsup_broker::paths::Paths;
use imsup_compose::cluster::{Cluster, Container, Pull};
use imsup_images::{Image, Platform, Reference};
use imsup_linux::root::subordinate::ids_of_caller;
use imsup_linux::single_thread::SingleThread;

use super::failure::hinted;
use super::image_store;
use super::project::Project;

/// An image by its name and platform, as the compose file has them.
type Key = (String, Option<String>);

/// Has the images of a cluster brought, completes the hosts' programs by the images, and makes their
/// volumes. For a process with one thread.
///
/// # Errors
/// An image that cannot be had, or what the file asks for and cannot be.
pub fn prepare(cluster: &mut Cluster, mut warn: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let containers = cluster.hosts.iter().filter_map(|host| host.container.as_deref());
    let wanted: BTreeMap<Key, Container> = containers
        .map(|container| (key(container), container.clone()))
        .collect();
    // Another broker has what a running project needs; that it is up is said later.
    if wanted.is_empty() || Project::named(cluster.project.as_str()).is_up() {
        return Ok(());
    }
    bring(&wanted)?;
    let images = find(&wanted)?;
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
    let thread = SingleThread::prove().context("making volumes")?;
    let scratch = paths.roots().join(".scratch");
    let made = volumes.make(&scratch, &thread);
    let _ = std::fs::remove_dir_all(&scratch);
    made?;
    let used: Vec<Image> = images.into_values().collect();
    image_store::look()?.use_images(&cluster.project, paths.runtime(), &used)?;
    Ok(())
}

fn key(container: &Container) -> Key {
    (container.image.clone(), container.platform.clone())
}

/// Has the puller bring what is missing, a platform at a time. The puller shows its progress itself.
fn bring(wanted: &BTreeMap<Key, Container>) -> Result<()> {
    for policy in [Pull::Always, Pull::Missing] {
        let mut by_platform: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for ((name, platform), container) in wanted {
            // What is built here comes from the builder's store, or from nowhere.
            if container.pull == policy && !container.is_built {
                by_platform.entry(platform.as_deref()).or_default().push(name);
            }
        }
        for (platform, mut names) in by_platform {
            if policy == Pull::Missing {
                names.retain(|name| !is_here(name, platform));
            }
            if !names.is_empty() {
                pull(&names, platform, &policy)?;
            }
        }
    }
    Ok(())
}

fn is_here(name: &str, platform: Option<&str>) -> bool {
    resolve(name, platform).is_ok_and(|image| image.is_some())
}

fn pull(names: &[&str], platform: Option<&str>, policy: &Pull) -> Result<()> {
    let executable = std::env::current_exe().context("finding imsup's own program")?;
    let mut puller = own_program::command(&executable);
    puller.arg("puller").stdin(Stdio::null()).stdout(Stdio::null());
    if *policy == Pull::Missing {
        puller.arg("--missing");
    }
    if let Some(platform) = platform {
        puller.args(["--platform", platform]);
    }
    let status = puller.arg("--").args(names).status().context("starting the puller")?;
    if !status.success() {
        bail!("{} could not be had, as said above; no host exists", names.join(", "));
    }
    Ok(())
}

/// The images of the store.
fn find(wanted: &BTreeMap<Key, Container>) -> Result<BTreeMap<Key, Image>> {
    let mut images = BTreeMap::new();
    for (key, container) in wanted {
        let (name, platform) = key;
        let image = resolve(name, platform.as_deref())?;
        let image = image.ok_or_else(|| missing(name, container))?;
        images.insert(key.clone(), image);
    }
    Ok(images)
}

fn resolve(name: &str, platform: Option<&str>) -> Result<Option<Image>> {
    let reference: Reference = name.parse().with_context(|| format!("the image '{name}'"))?;
    let platform = match platform {
        Some(platform) => platform.parse().with_context(|| format!("the platform '{platform}'"))?,
        None => Platform::of_machine(),
    };
    Ok(image_store::look()?.resolve(&reference, &platform)?)
}

fn missing(name: &str, container: &Container) -> anyhow::Error {
    match container.is_built {
        true => hinted(
            anyhow!("the image {name}, which the compose file builds, is not in the store"),
            "build it, and load it:  docker compose build && docker save IMAGE | imsup load".to_owned(),
        ),
        false => hinted(
            anyhow!("the image {name} is not in the store, and its pull_policy is 'never'"),
            format!("bring it:  imsup load FILE, or docker save {name} | imsup load"),
        ),
    }
}
