//! `imsup puller`: brings images into the store. A process of its own, so that neither TLS nor the
//! decompression of strangers' data is in the broker or a supervisor.
//!
//! Prints `NAME@DIGEST` for each image that is there now, in the order of the arguments.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use imsup_images::registry::{Credentials, pull};
use imsup_images::source::Saving;
use imsup_images::wanted::Found;
use imsup_images::{Digest, Image, Reference, Store, Wanted};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::failure::hinted;
use super::fetching::Shown;
use super::image_store;
use super::output;

/// Bring images into the store
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The images
    #[arg(value_name = "NAME[,platform=OS/ARCHITECTURE][,pull=POLICY]", required = true)]
    images: Vec<Wanted>,
}

/// Where an image comes from.
enum Origin {
    Store(Digest),
    Daemon(Saving),
    Registry,
}

/// Runs the verb: all images, or those before the first that fails.
///
/// # Errors
/// The store, the registry, or the image.
pub fn run(args: &Args) -> Result<()> {
    // What is downloaded stays for the next puller.
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
    // Everything that is somebody else's program comes first, as the user: in a user namespace,
    // such programs would take the user for root.
    let store = image_store::look()?;
    let origins = args.images.iter().map(|wanted| find(wanted, &store));
    let origins: Vec<Origin> = origins.collect::<Result<_>>()?;
    let credentials = credentials(&args.images, &origins);
    let needs_nothing = origins.iter().all(|origin| matches!(origin, Origin::Store(_)));
    let store = match needs_nothing {
        true => store,
        false => image_store::enter()?,
    };
    for (wanted, origin) in args.images.iter().zip(origins) {
        let name = wanted.name.familiar();
        let shown = Shown::new(&name, args.quiet);
        let digest = match origin {
            Origin::Store(digest) => Ok(digest),
            Origin::Daemon(saving) => saving
                .load(&store, &wanted.platform(), &shown)
                .map(|loaded| loaded.digest)
                .map_err(anyhow::Error::from),
            Origin::Registry => pull(&store, &wanted.name, &wanted.platform(), &credentials, &shown)
                .map(|pulled| pulled.digest)
                .map_err(anyhow::Error::from),
        };
        shown.end();
        let digest = digest.map_err(|error| match error.to_string().contains(&name) {
            true => error,
            false => error.context(format!("the image {name}")),
        })?;
        let pinned = wanted.name.pinned(digest);
        warn_of_platform(wanted, &store, &pinned)?;
        writeln!(output::stdout(), "{}", pinned.familiar())?;
    }
    Ok(())
}

/// An image without variants may be for another platform, whose programs the machine may emulate.
fn warn_of_platform(wanted: &Wanted, store: &Store, pinned: &Reference) -> Result<()> {
    let platform = wanted.platform();
    let image = store.resolve(pinned, &platform)?;
    let is_other = |image: &Image| !image.platform.architecture.is_empty() && platform.fit(&image.platform).is_none();
    if let Some(image) = image.filter(is_other) {
        let name = wanted.name.familiar();
        output::warning(&format!(
            "the image {name} is for {}, not for {platform}",
            image.platform
        ));
    }
    Ok(())
}

fn find(wanted: &Wanted, store: &Store) -> Result<Origin> {
    let sources = match wanted.find(store, SystemTime::now())? {
        Found::Here(image) => return Ok(Origin::Store(image.digest)),
        Found::Elsewhere(sources) => sources,
    };
    let saving = match sources.daemons {
        true => Saving::begin(&wanted.name)?,
        false => None,
    };
    match (saving, sources.registry) {
        (Some(saving), _) => Ok(Origin::Daemon(saving)),
        (None, true) => Ok(Origin::Registry),
        (None, false) => Err(hinted(
            anyhow!(
                "the image {} is not in the store, nor in Docker's or Podman's, and its pull policy asks no registry",
                wanted.name.familiar()
            ),
            "build it ('docker build'), load it ('imsup load'), or change its pull_policy",
        )),
    }
}

/// The user's logins at the registries that are asked.
fn credentials(images: &[Wanted], origins: &[Origin]) -> Credentials {
    let asked = images.iter().zip(origins);
    let asked = asked.filter(|(_, origin)| matches!(origin, Origin::Registry));
    let registries: BTreeSet<&str> = asked.map(|(wanted, _)| wanted.name.registry()).collect();
    if registries.is_empty() {
        return Credentials::default();
    }
    // As Docker: most images need no login.
    let mut credentials = Credentials::of_user().unwrap_or_else(|error| {
        output::warning(&format!("{error}; registries are asked without a login"));
        Credentials::default()
    });
    for registry in registries {
        credentials.ask_helper(registry);
    }
    credentials
}
