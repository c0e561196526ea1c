//! `imsup images`: the images of the store.

use std::io::Write;

use anyhow::Result;
use imsup_images::Store;
use serde::Serialize;

use super::human;
use super::image_store;
use super::output;
use super::table::{Format, FormatArgs, Table};

/// List the images in the store, with the projects that use them now
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    format: FormatArgs,
    #[command(subcommand)]
    verb: Option<ImagesVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum ImagesVerb {
    Prune(PruneArgs),
}

/// Remove what neither a name nor a project that is up uses
#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Also remove the images that no project uses
    #[arg(short, long)]
    all: bool,
}

/// An image, as JSON.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    digest: String,
    /// The bytes of the files of its layers, which other images may share.
    size: u64,
    used_by: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// The store cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    match &args.verb {
        None => list(&image_store::look()?, args.format.format),
        Some(ImagesVerb::Prune(args)) => prune(&image_store::enter()?, args.all),
    }
}

fn list(store: &Store, format: Format) -> Result<()> {
    let mut rows = store.list()?.into_iter().map(|image| Row {
        name: image.name.familiar(),
        digest: image.digest.to_string(),
        size: image.size,
        used_by: image.used_by,
    });
    match format {
        Format::Json => {
            let mut out = output::stdout();
            rows.try_for_each(|row| output::json_line(&mut out, &row))
        }
        Format::Table => {
            let mut table = Table::new(["NAME", "DIGEST", "SIZE", "USED BY"]);
            for row in rows {
                let used_by = match row.used_by.is_empty() {
                    true => "-".to_owned(),
                    false => row.used_by.join(", "),
                };
                // As long as Docker shows it: the whole digest is in the JSON.
                let digest = row.digest.chars().take("sha256:".len() + 12).collect();
                table.row([row.name, digest, human::bytes(row.size), used_by].map(|cell| (cell, None)));
            }
            table.print()
        }
    }
}

fn prune(store: &Store, all: bool) -> Result<()> {
    let pruned = store.prune(all)?;
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let mut out = output::stdout();
    writeln!(
        out,
        "removed {} and {}, {} in all",
        count(pruned.names, "name"),
        count(pruned.layers, "layer"),
        human::bytes(pruned.bytes)
    )?;
    Ok(())
}
