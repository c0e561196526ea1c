//! `imsup exec`: a command with a host's identity.

use std::process::ExitCode;

use anyhow::Result;
use imsup_protocol::Request;
use imsup_protocol::message::Role;
use imsup_wire::HostName;

use super::caller;
use super::connection;
use super::failure::Annotate;
use super::program::ProgramArgs;
use super::project::{Project, ProjectAndFileArgs};
use super::supervise::{self, OWN_FAILURE};

/// Run a command with the identity of a host, which is booted if it does not run
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// The host
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
}

/// Runs the verb and gives the command's status.
///
/// # Errors
/// No project that is up, no such host, a host that cannot be started, or as [`supervise::run`];
/// status [`OWN_FAILURE`].
pub fn run(args: Args) -> Result<ExitCode> {
    let (project, host) = ready(&args).status(OWN_FAILURE)?;
    supervise::run(
        &args.program.into_spec(),
        &supervise::assignment(&project, Some(host), Role::Exec),
    )
}

/// The host, booted.
fn ready(args: &Args) -> Result<(Project, HostName)> {
    let project = args.project.find()?;
    let host = connection::select_one(&project, &args.host)?;
    let request = Request::Wake {
        hosts: vec![host.clone()],
        by: caller::name(),
        exec: true,
    };
    connection::order(&project, request)?;
    Ok((project, host))
}
