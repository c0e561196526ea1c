//! `imsup run`: any command as a host; what the broker's launcher executes, and a container's or unit's entrypoint.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use imsup_protocol::message::Role;
use imsup_protocol::zygote::SpawnRequest;
use imsup_wire::HostName;

use super::background::{self, Hold};
use super::cluster::ClusterArgs;
use super::compose;
use super::connection;
use super::failure::Annotate;
use super::project::{Project, ProjectAndFileArgs, ProjectArgs};
use super::supervise::{self, Job, OWN_FAILURE};

/// Run a command as a host of a project
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Run it as this host [default: a new one that exists while it runs]
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,
    /// Run it as this user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Print each trapped system call and what is done with it (also: IMSUP_TRACE=1)
    #[arg(long)]
    trace: bool,
    /// The token of a boot, from the broker's launcher
    #[arg(long, value_name = "TOKEN", hide = true, requires = "host")]
    boot: Option<u64>,
    /// The soft limit of descriptors to start it with, from the broker's launcher
    #[arg(long, value_name = "N", hide = true)]
    nofile: Option<u64>,
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
/// As [`supervise::run`], or no broker can be started.
pub fn run(args: Args) -> Result<ExitCode> {
    let (project, _hold) = with_broker(&args.project).status(OWN_FAILURE)?;
    let role = match (args.boot, &args.host) {
        (Some(boot), _) => Role::Launched { boot },
        (None, Some(_)) => role_as(&project).status(OWN_FAILURE)?,
        (None, None) => Role::Transient,
    };
    let job = Job {
        host: args.host,
        role,
        user: args.user,
        trace: args.trace,
        descriptor_limit: args.nofile,
        command: args.command,
    };
    supervise::run(&project, job)
}

/// A name is that of a host of the compose file, whose part the command takes. Only where there is no compose file it is
/// a new one: anywhere else it would be a misspelt one.
fn role_as(project: &Project) -> Result<Role> {
    let known = connection::hosts(project)?;
    let any_declared = known.iter().any(|known| known.declared);
    Ok(if any_declared { Role::Started } else { Role::Transient })
}

/// The project meant, with a broker that runs: one for as long as it is used where there was none.
fn with_broker(args: &ProjectAndFileArgs) -> Result<(Project, Hold)> {
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
    let hold = background::ensure(&project, &arguments)?;
    Ok((project, hold))
}

/// A project's name made from a directory's, as compose makes it: what is no letter, digit, `-` or `_` is left out.
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

/// What the broker's launcher passes, parsed without clap: see [`launched`].
#[derive(Debug, PartialEq, Eq)]
pub struct Launched {
    project: String,
    host: HostName,
    boot: u64,
    nofile: Option<u64>,
    user: Option<String>,
    command: Vec<OsString>,
}

/// Recognises exactly the launcher's command line, `run --project P --host H --boot T [--nofile N] [--user U] -- CMD...`; `None` for
/// every other, which clap then parses. Every boot of a host goes through here.
pub fn launched(mut arguments: impl Iterator<Item = OsString>) -> Option<Launched> {
    if arguments.next()? != "run" {
        return None;
    }
    let (mut project, mut host, mut boot, mut nofile, mut user) = (None, None, None, None, None);
    loop {
        let option = arguments.next()?;
        if option == "--" {
            break;
        }
        let slot = match option.to_str()? {
            "--project" => &mut project,
            "--host" => &mut host,
            "--boot" => &mut boot,
            "--nofile" => &mut nofile,
            "--user" => &mut user,
            _ => return None,
        };
        *slot = Some(arguments.next()?.into_string().ok()?);
    }
    let command: Vec<OsString> = arguments.collect();
    if command.is_empty() {
        return None;
    }
    Some(Launched {
        project: project?,
        host: host?.parse().ok()?,
        boot: boot?.parse().ok()?,
        nofile: nofile.map(|limit| limit.parse()).transpose().ok()?,
        user,
        command,
    })
}

impl Launched {
    /// The same, as the zygote is told it.
    pub fn from_request(project: &str, request: SpawnRequest) -> Self {
        Self {
            project: project.to_owned(),
            host: request.host,
            boot: request.boot,
            nofile: request.descriptor_limit,
            user: request.user,
            command: request.command.into_iter().map(OsString::from).collect(),
        }
    }

    /// Runs the host's program and gives its status.
    ///
    /// # Errors
    /// As [`supervise::run`].
    pub fn run(self) -> Result<ExitCode> {
        let job = Job {
            host: Some(self.host),
            role: Role::Launched { boot: self.boot },
            user: self.user,
            trace: false,
            descriptor_limit: self.nofile,
            command: self.command,
        };
        supervise::run(&Project::named(self.project), job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Launched> {
        launched(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_launchers_line_is_recognised() {
        let parsed = parse("run --project shop --host web --boot 42 -- nginx --boot 7").unwrap();
        assert_eq!(
            parsed,
            Launched {
                project: "shop".to_owned(),
                host: "web".parse().unwrap(),
                boot: 42,
                nofile: None,
                user: None,
                command: vec!["nginx".into(), "--boot".into(), "7".into()],
            }
        );
        let with_user = parse("run --project shop --host web --boot 42 --user www:www -- nginx").unwrap();
        assert_eq!(with_user.user.as_deref(), Some("www:www"));
    }

    #[test]
    fn every_other_line_is_left_to_clap() {
        for line in [
            "ps",
            "run --project shop --host web -- nginx",
            "run --project shop --host web --boot x -- nginx",
            "run --project shop --host web --boot 42 --",
            "run --project shop --host web --boot 42 nginx",
            "run --project=shop --host web --boot 42 -- nginx",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_directory_names_a_project() {
        assert_eq!(name_of(Path::new("/home/me/My Shop.v2")), "myshopv2");
        assert_eq!(name_of(Path::new("/")), "default");
        assert_eq!(name_of(Path::new("/_x")), "x");
    }
}
