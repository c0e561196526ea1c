//! `imsup version` and `imsup completion`: the binary's information about itself.

use std::io::{self, Write};

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use imsup_protocol::version::OURS;
use serde::Serialize;

use super::Cli;
use super::output;
use super::table::FormatArgs;
use super::table::{Format, Table};

/// Print the version
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    #[command(flatten)]
    format: FormatArgs,
}

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// The output of `version`.
#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    /// The highest version of the messages that is spoken, and the lowest.
    protocol: u16,
    lowest_protocol: u16,
    kernel: String,
}

/// `imsup version`.
///
/// # Errors
/// Errors of writing.
pub fn version(args: &VersionArgs) -> Result<()> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol: OURS.highest(),
        lowest_protocol: OURS.lowest(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    };
    match args.format.format {
        Format::Json => output::json_line(&mut output::stdout(), &version),
        Format::Table => {
            let mut table = Table::new(["IMSUP", "PROTOCOL", "KERNEL"]);
            table.row([
                (version.version.to_owned(), None),
                (version.protocol.to_string(), None),
                (version.kernel, None),
            ]);
            table.print()
        }
    }
}

/// `imsup completion`.
///
/// # Errors
/// Errors of writing.
pub fn completion(args: &CompletionArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "imsup", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
