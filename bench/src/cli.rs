//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::context::{Baseline, Context, repository};
use crate::guest::Role;
use crate::machine::Machine;
use crate::report::{Report, Section};
use crate::suites::{Suite, TABLES};
use crate::{environment, guest, interrupt, machine, regress, report, tidy};

/// Measure imsup against the same programs run natively, interleaved in one run
#[derive(Debug, Parser)]
#[command(name = "imsup-bench", version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Hidden>,
    /// The suites to run, or the tables of which to run all suites [default: all]
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
    /// Only tell whether the imsup to measure is worse than this one
    #[arg(long, value_name = "PATH", conflicts_with_all = ["suites", "list"])]
    against: Option<PathBuf>,
    /// Where the results are written [default: bench/results of the repository]
    #[arg(long, value_name = "DIRECTORY")]
    results: Option<PathBuf>,
    /// Do without: what cannot be measured then is listed, and is no failure
    #[arg(long, value_name = "WHAT")]
    without: Vec<Baseline>,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// One of the programs that are measured
    #[command(hide = true, subcommand)]
    Guest(Role),
    /// Wait for the benchmarks' end, and take away what they left
    #[command(hide = true)]
    Tidy {
        /// imsup.
        imsup: PathBuf,
        /// The benchmarks' directory.
        directory: PathBuf,
    },
}

/// Runs what the command line says.
///
/// # Errors
/// imsup or a directory is missing, or the run was interrupted. A suite that fails is reported, and
/// the others still run.
pub fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.role {
        Some(Hidden::Guest(role)) => guest::run(role).map(|()| ExitCode::SUCCESS),
        Some(Hidden::Tidy { imsup, directory }) => tidy::run(imsup, &directory).map(|()| ExitCode::SUCCESS),
        None => benchmarks(&cli),
    }
}

fn benchmarks(cli: &Cli) -> Result<ExitCode> {
    if cli.list {
        for table in TABLES {
            println!("{}:", table.heading.name);
            for suite in table.suites {
                println!("  {:<10} {}", suite.name, suite.about);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let suites = selected(&cli.suites)?;
    environment::clear()?;
    match &cli.against {
        Some(before) => compare(cli, before),
        None => measure(cli, &suites),
    }
}

/// The selected suites, in the order of their run.
fn selected(names: &[String]) -> Result<Vec<&'static Suite>> {
    let named = TABLES
        .iter()
        .flat_map(|table| table.suites.iter().map(move |suite| (table.heading.name, suite)));
    let named: Vec<(&str, &Suite)> = named.collect();
    let selects = |name: &String, (table, suite): &(&str, &Suite)| name == table || name == suite.name;
    if let Some(unknown) = names
        .iter()
        .find(|name| !named.iter().any(|suite| selects(name, suite)))
    {
        let tables = TABLES.iter().map(|table| table.heading.name);
        let known: Vec<&str> = tables.chain(named.iter().map(|(_, suite)| suite.name)).collect();
        bail!("there is no suite '{unknown}'; there are: {}", known.join(", "));
    }
    let wanted = |suite: &&(&str, &Suite)| names.is_empty() || names.iter().any(|name| selects(name, suite));
    let mut found = Vec::<&Suite>::new();
    for (_, suite) in named.iter().filter(wanted) {
        if found.iter().all(|other| other.name != suite.name) {
            found.push(suite);
        }
    }
    Ok(found)
}

/// Compares the imsup under test with this one: the verdict is the exit status, too.
fn compare(cli: &Cli, before: &Path) -> Result<ExitCode> {
    interrupt::install()?;
    let context = Context::new(cli.imsup.as_deref(), cli.guests.as_deref(), cli.quick)?;
    let outcome = regress::run(&context, before)?;
    print!("{}", outcome.text());
    Ok(if outcome.is_worse() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn measure(cli: &Cli, suites: &[&Suite]) -> Result<ExitCode> {
    interrupt::install()?;
    let mut context = Context::new(cli.imsup.as_deref(), cli.guests.as_deref(), cli.quick)?;
    context.without.clone_from(&cli.without);
    let mut machine = Machine::describe(&context)?;
    print!("{}", report::markdown::machine(&machine));
    let mut sections = Vec::new();
    for suite in suites {
        eprintln!("{}: {}", suite.name, suite.about);
        let began = Instant::now();
        let section = (suite.run)(&context).unwrap_or_else(|error| Section::failed(format!("{error:#}")));
        interrupt::check()?;
        let mut section = section.named(suite.name, suite.about);
        section.took_s = began.elapsed().as_secs();
        print!("{}", report::markdown::section(&section));
        sections.push(section);
    }
    machine.load_after = Some(machine::load());
    let report = Report {
        machine,
        full: !cli.quick,
        sections,
    };
    let results = cli
        .results
        .clone()
        .unwrap_or_else(|| repository().join("bench/results"));
    let tables = TABLES
        .iter()
        .map(|table| (&table.heading, table.names()))
        .collect::<Vec<_>>();
    report::write(&report, &results, &tables)?;
    let failed = report.sections.iter().any(|section| section.failure.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
