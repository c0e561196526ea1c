//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::context::Context;
use crate::guest::Role;
use crate::machine::Machine;
use crate::report::{Report, Section};
use crate::suites::SUITES;
use crate::{guest, interrupt, machine, report};

/// Measure imsup against the same programs run natively, interleaved in one run
#[derive(Debug, Parser)]
#[command(name = "imsup-bench", version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Hidden>,
    /// The suites to run [default: all]
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
    /// Fewer runs: a look, not a result
    #[arg(long)]
    quick: bool,
    /// List the suites and end
    #[arg(long)]
    list: bool,
    /// The imsup to measure [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    imsup: Option<PathBuf>,
    /// Where `make guests` put the guest programs [default: `guests` in the target directory]
    #[arg(long, value_name = "DIRECTORY")]
    guests: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// One of the programs that are measured
    #[command(hide = true, subcommand)]
    Guest(Role),
}

/// Runs what the command line says.
///
/// # Errors
/// imsup or a directory is missing, or the run was interrupted. A suite that fails is reported, and the others still run.
pub fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Hidden::Guest(role)) = cli.role {
        guest::run(role)?;
        return Ok(ExitCode::SUCCESS);
    }
    if cli.list {
        for suite in SUITES {
            println!("{:<10} {}", suite.name, suite.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = cli
        .suites
        .iter()
        .find(|name| SUITES.iter().all(|suite| suite.name != **name))
    {
        let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        bail!("there is no suite '{unknown}'; there are: {}", known.join(", "));
    }
    measure(&cli)
}

fn measure(cli: &Cli) -> Result<ExitCode> {
    interrupt::install()?;
    let context = Context::new(cli.imsup.as_deref(), cli.guests.as_deref(), cli.quick)?;
    let mut machine = Machine::describe(&context)?;
    print!("{}", report::markdown::machine(&machine));
    let mut sections = Vec::new();
    for suite in SUITES {
        if !cli.suites.is_empty() && !cli.suites.iter().any(|name| name == suite.name) {
            continue;
        }
        eprintln!("{}: {}", suite.name, suite.about);
        let section = (suite.run)(&context).unwrap_or_else(|error| Section::failed(format!("{error:#}")));
        interrupt::check()?;
        let section = section.named(suite.name, suite.about);
        print!("{}", report::markdown::section(&section));
        sections.push(section);
    }
    let complete = cli.suites.is_empty() && !cli.quick;
    machine.load_after = Some(machine::load());
    let report = Report {
        machine,
        complete,
        sections,
    };
    report::write(&report)?;
    let failed = report.sections.iter().any(|section| section.failure.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
