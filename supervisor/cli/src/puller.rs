//! `imsup puller`: brings images into the store. A process of its own, so that neither TLS nor the
//! decompression of strangers' data is in the broker or a supervisor.
//!
//! Prints `NAME@DIGEST` for each image that is there now.

use std::io::Write;

use anyhow::{Context, Result};
use imsup_images::registry::{Credentials, pull};
use imsup_images::source::Saving;
use imsup_images::{Digest, Platform, Reference};

use super::fetching::Shown;
use super::image_store;
use super::output;

/// Bring images into the store
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The platform [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
    /// Take what the store has, and then what Docker or Podman has
    #[arg(long)]
    missing: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<Reference>,
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
    let platform = args.platform.clone().unwrap_or_else(Platform::of_machine);
    let mut credentials = Credentials::of_user()?;
    // Everything that is somebody else's program comes first, as the user: in a user namespace,
    // such programs would take the user for root.
    let mut origins = Vec::new();
    for name in &args.names {
        let origin = match args.missing {
            true => find(name, &platform)?,
            false => Origin::Registry,
        };
        if matches!(origin, Origin::Registry) {
            credentials.ask_helper(name.registry());
        }
        origins.push((name, origin));
    }
    let needs_nothing = origins.iter().all(|(_, origin)| matches!(origin, Origin::Store(_)));
    let store = match needs_nothing {
        true => image_store::look()?,
        false => image_store::enter()?,
    };
    for (name, origin) in origins {
        let shown = Shown::new(&name.familiar(), args.quiet);
        let digest = match origin {
            Origin::Store(digest) => Ok(digest),
            Origin::Daemon(saving) => saving
                .load(&store, &platform, &shown)
                .map(|loaded| loaded.digest)
                .map_err(anyhow::Error::from),
            Origin::Registry => pull(&store, name, &platform, &credentials, &shown)
                .map(|pulled| pulled.digest)
                .map_err(anyhow::Error::from),
        };
        shown.end();
        let digest = digest.with_context(|| format!("the image {}", name.familiar()))?;
        writeln!(output::stdout(), "{}", name.pinned(digest).familiar())?;
    }
    Ok(())
}

fn find(name: &Reference, platform: &Platform) -> Result<Origin> {
    if let Some(image) = image_store::look()?.resolve(name, platform)? {
        return Ok(Origin::Store(image.digest));
    }
    Ok(match Saving::begin(name)? {
        Some(saving) => Origin::Daemon(saving),
        None => Origin::Registry,
    })
}
