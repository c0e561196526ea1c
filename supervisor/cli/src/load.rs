//! `imsup load`: images from files.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use imsup_images::source::{load_path, load_stream};
use imsup_images::{Platform, Reference};

use super::failure::hinted;
use super::fetching::Shown;
use super::image_store;
use super::output;

/// Load images from an OCI layout or an archive of 'docker save' or 'podman save'
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of an image that has none in the file [default: the file's own name]
    #[arg(long, value_name = "NAME")]
    name: Option<Reference>,
    /// The platform, if the file has several [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
    /// A directory or an archive; '-' is standard input
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
    file: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// The file has no image, or the store cannot take it.
pub fn run(args: &Args) -> Result<()> {
    let is_stdin = args.file.as_os_str() == "-";
    if is_stdin && io::stdin().is_terminal() {
        return Err(hinted(
            anyhow!("there is nothing on standard input"),
            "name a file, or pass one on: docker save NAME | imsup load",
        ));
    }
    let store = image_store::enter()?;
    let platform = args.platform.clone().unwrap_or_else(Platform::of_machine);
    let place = match is_stdin {
        true => "standard input".to_owned(),
        false => args.file.display().to_string(),
    };
    let shown = Shown::new(&place, false);
    let loaded = match is_stdin {
        true => load_stream(&store, io::stdin(), args.name.as_ref(), &platform, &shown),
        false => load_path(&store, &args.file, args.name.as_ref(), &platform, &shown),
    };
    shown.end();
    let loaded = loaded.with_context(|| format!("loading {place}"))?;
    let mut out = output::stdout();
    for image in loaded {
        writeln!(out, "{}@{}", image.name.familiar(), image.digest)?;
    }
    Ok(())
}
