//! `imsup exec`: a command with a host's identity.

use std::process::ExitCode;

use anyhow::{Result, bail};
use imsup_protocol::message::Role;
use imsup_protocol::{Request, Response};
use imsup_wire::{HostName, ProgramSpec};

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
    let (pid, of_host) = program(&project, &host).status(OWN_FAILURE)?;
    let mut spec = args.program.into_spec();
    let mut assignment = supervise::assignment(&project, Some(host), Role::Exec);
    if let Some(of_host) = of_host.filter(|spec| spec.root.is_some()) {
        assignment.beside = Some(pid);
        join(&mut spec, of_host);
    }
    supervise::run(&spec, &assignment)
}

/// The host's process, and what it was started with.
///
/// # Errors
/// The host does not run, or as [`connection::ask`].
pub fn program(project: &Project, host: &HostName) -> Result<(u32, Option<ProgramSpec>)> {
    let request = Request::Program { host: host.clone() };
    for answer in connection::ask(project, request)? {
        if let Response::Program { pid, spec } = answer? {
            return Ok((pid, spec.map(|spec| *spec)));
        }
    }
    bail!("the broker did not say what host '{host}' runs")
}

/// A command beside the program of an image has the program's root, and what is not said otherwise.
pub fn join(spec: &mut ProgramSpec, of_host: ProgramSpec) {
    let mut environment = of_host.environment;
    environment.extend(std::mem::take(&mut *spec.environment));
    spec.environment = environment;
    spec.working_dir = of_host.working_dir.join(&spec.working_dir);
    spec.user = spec.user.take().or(of_host.user);
    spec.root = of_host.root;
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
