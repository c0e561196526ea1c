//! `imsup ls`: the projects that are up.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use imsup_wire::HostState;
use serde::Serialize;

use super::connection;
use super::output;
use super::project::{self, Project};
use super::table::{Format, FormatArgs, Table};

/// List the projects that are up
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: FormatArgs,
    /// Print only the names
    #[arg(short, long)]
    quiet: bool,
    /// No difference: what is not up is nowhere
    #[arg(short, long, hide = true)]
    all: bool,
}

/// One project.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    hosts: usize,
    running: usize,
    suspended: usize,
    directory: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// The directory of all projects cannot be read.
pub fn run(args: &Args) -> Result<()> {
    let names = project::up()?;
    let mut out = output::stdout();
    if args.quiet {
        names.iter().try_for_each(|name| writeln!(out, "{name}"))?;
        return Ok(());
    }
    // A project that goes down meanwhile is left out.
    let rows: Vec<Row> = names.into_iter().filter_map(|name| look(name).ok()).collect();
    match args.format.format {
        Format::Json => rows.iter().try_for_each(|row| output::json_line(&mut out, row)),
        Format::Table => {
            drop(out);
            table(&rows).print()
        }
    }
}

fn look(name: String) -> Result<Row> {
    let project = Project::named(name.as_str());
    let hosts = connection::hosts(&project)?;
    let count = |states: &[HostState]| hosts.iter().filter(|host| states.contains(&host.state)).count();
    Ok(Row {
        name,
        hosts: hosts.len(),
        running: count(&[HostState::Running, HostState::Booting]),
        suspended: count(&[HostState::Suspended]),
        directory: project.paths.directory_of_file(),
    })
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["NAME", "HOSTS", "RUNNING", "SUSPENDED", "DIRECTORY"]);
    for row in rows {
        let directory = row
            .directory
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string());
        table.row([
            (row.name.clone(), None),
            (row.hosts.to_string(), None),
            (row.running.to_string(), None),
            (row.suspended.to_string(), None),
            (directory, None),
        ]);
    }
    table
}
