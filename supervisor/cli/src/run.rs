//! `imsup run`: any command as a host, such as a container's or unit's entrypoint.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use imsup_protocol::message::Role;
use imsup_wire::HostName;

use super::background::{self, KeepAlive};
use super::cluster::ClusterArgs;
use super::compose;
use super::connection;
use super::failure::Annotate;
use super::program::ProgramArgs;
use super::project::{Project, ProjectAndFileArgs, ProjectArgs};
use super::supervise::{self, OWN_FAILURE};

/// Run a command as a host of a project
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Run it as this host [default: a new one that exists while it runs]
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    /// Print each trapped system call and what is done with it (also: IMSUP_TRACE=1)
    #[arg(long)]
    trace: bool,
}

/// Runs the verb and gives the command's status.
///
/// # Errors
/// As [`supervise::run`], or no broker can be started.
pub fn run(args: Args) -> Result<ExitCode> {
    let (project, _keep_alive) = with_broker(&args.project).status(OWN_FAILURE)?;
    let role = match &args.host {
        Some(_) => role_as(&project).status(OWN_FAILURE)?,
        None => Role::Transient,
    };
    let mut assignment = supervise::assignment(&project, args.host, role);
    assignment.trace |= args.trace;
    supervise::run(&args.program.into_spec(), &assignment)
}

/// The name is that of a host of the compose file, whose program the command replaces. Only without
/// a compose file is the name new: anywhere else it would be misspelt.
fn role_as(project: &Project) -> Result<Role> {
    let known = connection::hosts(project)?;
    let any_declared = known.iter().any(|known| known.declared);
    Ok(if any_declared { Role::Started } else { Role::Transient })
}

/// The requested project, with a running broker: an ephemeral broker if there was none.
fn with_broker(args: &ProjectAndFileArgs) -> Result<(Project, KeepAlive)> {
    let has_file = compose::is_here(&args.files)?;
    let project = match args.find() {
        Ok(project) => project,
        Err(error) if has_file => return Err(error),
        Err(_) => Project::named(name_of(
            &std::env::current_dir().context("finding the current directory")?,
        )),
    };
    let cluster = ClusterArgs {
        project: ProjectAndFileArgs {
            project: ProjectArgs {
                project: Some(project.name.clone()),
            },
            files: args.files.clone(),
        },
        ..ClusterArgs::default()
    };
    let mut arguments = cluster.to_arguments();
    arguments.push("--ephemeral".into());
    if !has_file {
        arguments.push("--empty".into());
    }
    let keep_alive = background::ensure(&project, &arguments)?;
    Ok((project, keep_alive))
}

/// A project's name made from a directory's name, as in compose: characters other than letters,
/// digits, `-` and `_` are left out.
fn name_of(directory: &Path) -> String {
    let name: String = directory
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(63)
        .collect();
    match name.trim_start_matches(['-', '_']) {
        "" => "default".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_names_a_project() {
        assert_eq!(name_of(Path::new("/home/me/My Shop.v2")), "myshopv2");
        assert_eq!(name_of(Path::new("/")), "default");
        assert_eq!(name_of(Path::new("/_x")), "x");
    }
}
