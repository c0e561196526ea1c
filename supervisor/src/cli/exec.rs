//! `imsup exec`: a command with a host's identity.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use imsup_wire::message::Role;
use imsup_wire::{HostName, Request};

use super::caller;
use super::connection;
use super::failure::{Annotate, hinted};
use super::project::{Project, ProjectAndFileArgs};
use super::supervise::{self, Job, OWN_FAILURE};

/// Run a command with the identity of a host, which is booted if it does not run
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Run it as this user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The host
    #[arg(value_name = "HOST")]
    host: String,
    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

#[cfg(test)]
impl Args {
    /// The command and its arguments.
    pub fn command(&self) -> &[OsString] {
        &self.command
    }
}

/// Runs the verb and gives the command's status.
///
/// # Errors
/// No project that is up, no such host, one that cannot be started, or as [`supervise::run`]; status [`OWN_FAILURE`].
pub fn run(args: Args) -> Result<ExitCode> {
    let (project, host) = ready(&args).status(OWN_FAILURE)?;
    let job = Job {
        host: Some(host),
        role: Role::Exec,
        user: args.user,
        descriptor_limit: None,
        command: args.command,
    };
    supervise::run(&project, job)
}

/// The host, booted.
fn ready(args: &Args) -> Result<(Project, HostName)> {
    let project = args.project.find()?;
    let mut hosts = connection::select(&project, std::slice::from_ref(&args.host))?;
    if let [_, second, ..] = hosts.as_slice() {
        return Err(hinted(
            anyhow!("'{}' is the name of {} hosts", args.host, hosts.len()),
            format!("name one of them, for example '{second}'"),
        ));
    }
    let host = hosts.pop().context("the broker knows no such host")?;
    let request = Request::Wake {
        hosts: vec![host.clone()],
        by: caller::name(),
        exec: true,
    };
    connection::order(&project, request)?;
    Ok((project, host))
}
