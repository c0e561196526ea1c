//! `imsup check`: one check of a host's health, beside the host's program. A broker starts it, with a
//! connection as its standard input, and hears the status from there: a process that the check leaves
//! behind may hold the output for ever.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use imsup_protocol::message::Role;
use imsup_wire::{HostName, ProgramSpec};
use rustix::process::setpgid;

use super::exec;
use super::logging;
use super::project::Project;
use super::supervise::{self, OWN_FAILURE};

/// Check a host's health
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The project
    #[arg(short, long, value_name = "NAME")]
    project: String,
    /// The host
    #[arg(value_name = "HOST")]
    host: HostName,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    command: Vec<OsString>,
}

/// Runs the verb.
///
/// # Errors
/// The host does not run, or as [`supervise::run`]; status [`OWN_FAILURE`].
pub fn run(args: Args) -> Result<ExitCode> {
    logging::start_quietly();
    // The broker ends the check with all that it has started, as a group.
    setpgid(None, None).context("making a process group")?;
    let broker = take_stdin()?;
    let status = check(args);
    let code = status.as_ref().map_or(OWN_FAILURE, |code| *code);
    // A broker that is gone wants no answer.
    let _ = File::from(broker).write_all(&[code]);
    status.map(ExitCode::from)
}

fn check(args: Args) -> Result<u8> {
    let project = Project::named(args.project);
    let (pid, of_host) = exec::program(&project, &args.host)?;
    let mut spec = ProgramSpec::new(args.command);
    let mut assignment = supervise::assignment(&project, Some(args.host), Role::Exec);
    match of_host {
        Some(of_host) if of_host.root.is_some() => {
            assignment.beside = Some(pid);
            exec::join(&mut spec, of_host);
        }
        Some(of_host) => {
            spec.environment = of_host.environment;
            spec.working_dir = of_host.working_dir;
            spec.user = of_host.user;
        }
        None => {}
    }
    let status = imsup_supervisor::run(&spec, &assignment)?;
    Ok(supervise::status_byte(status))
}

/// The connection to the broker, which the check does not get.
fn take_stdin() -> Result<std::os::fd::OwnedFd> {
    let broker = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).context("taking the connection to the broker")?;
    let null = File::open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(null).context("replacing standard input")?;
    Ok(broker)
}
