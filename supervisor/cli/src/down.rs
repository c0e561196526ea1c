//! `imsup down`: takes the whole project away.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use imsup_broker::client::ClientError;
use imsup_broker::containers;
use imsup_broker::{AbsentError, down_without_broker, lost, projects};
use imsup_compose::cluster::ContainerSource;
use imsup_protocol::Request;
use rustix::fs::FlockOperation;

use super::background;
use super::cluster::ClusterArgs;
use super::connection;
use super::output;
use super::project::{Project, ProjectAndFileArgs, ProjectArgs};

/// The time that `--forget` waits for another process that changes the project records.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Take a project down: end its programs, and leave nothing behind
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Also forget the addresses of its hosts, and the ports they were seen to listen on
    #[arg(long)]
    forget: bool,
    /// Also remove the named volumes of the compose file, but for external ones
    #[arg(short, long)]
    volumes: bool,
    /// No difference: all hosts end
    #[arg(long, hide = true)]
    remove_orphans: bool,
}

/// Runs the verb. A project that is not up is no failure: this is the requested state.
///
/// # Errors
/// The broker, or the rest of a dead one, cannot be ended.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let name = &project.name;
    // Found first: a file that cannot be read is said before anything ends.
    let volumes = match args.volumes {
        true => volumes(args, name)?,
        false => Vec::new(),
    };
    let said = loop {
        // Another `down` may be in progress, or an `up`: its result decides.
        match take_down(&project).with_context(|| format!("taking project '{name}' down"))? {
            Some(said) => break said,
            None => background::await_change(&project)?,
        }
    };
    for volume in volumes {
        let directory = project.paths.volumes().join(&volume);
        if directory.exists() {
            containers::remove(&directory).with_context(|| format!("removing the volume '{volume}'"))?;
            output::note(&format!("volume '{volume}' is removed"));
        }
    }
    if args.forget {
        projects::forget(&project.paths.projects(), name, LOCK_TIMEOUT)?;
    }
    output::note(&said);
    Ok(())
}

/// The project's own volumes.
fn volumes(args: &Args, project: &str) -> Result<Vec<String>> {
    let cluster = ClusterArgs {
        project: ProjectAndFileArgs {
            project: ProjectArgs {
                project: Some(project.to_owned()),
            },
            files: args.project.files.clone(),
        },
        profiles: vec!["*".to_owned()],
        strict: false,
    };
    let cluster = cluster.load(|_| Ok(()));
    let cluster = cluster.context("the compose file says which volumes to remove, and nothing was ended")?;
    let containers = cluster.hosts.iter().filter_map(|host| host.container.as_ref());
    let sources = containers.flat_map(|container| container.mounts.iter().map(|mount| &mount.source));
    let named = sources.filter_map(|source| match source {
        ContainerSource::Named {
            name, external: false, ..
        } => Some(name.clone()),
        _ => None,
    });
    let all: BTreeSet<String> = named.collect();
    Ok(all.into_iter().collect())
}

/// Takes the project down, and returns the message to print; `None` while a broker is starting or
/// ending.
fn take_down(project: &Project) -> Result<Option<String>> {
    let name = &project.name;
    let (left, found) = match ask(project) {
        Ok(()) => return Ok(Some(format!("project '{name}' is down"))),
        Err(ClientError::Busy { .. } | ClientError::Ended { .. }) => return Ok(None),
        // The broker cannot be asked, but receives signals.
        Err(ClientError::Lost { pid, .. }) => {
            return match lost::find(&project.paths) {
                Some(lost) => {
                    lost.end()
                        .with_context(|| format!("ending the broker, process {pid}"))?;
                    Ok(Some(format!("project '{name}' is down")))
                }
                None => Ok(None),
            };
        }
        Err(error @ (ClientError::NoBroker { .. } | ClientError::Dead { .. })) => {
            // Files may be left even if no process runs.
            (down_without_broker(name, &project.paths), error)
        }
        Err(error) => return Err(error.into()),
    };
    let ended = match left {
        Err(AbsentError::HasBroker(_)) => return Ok(None),
        left => left?,
    };
    Ok(Some(match (found, ended.as_slice()) {
        (ClientError::Dead { .. }, []) => format!("project '{name}' is down (its broker had died; no host ran)"),
        (ClientError::Dead { .. }, hosts) => {
            let hosts = hosts.join(", ");
            format!("project '{name}' is down (its broker had died; ended {hosts})")
        }
        _ => format!("project '{name}' was not up"),
    }))
}

/// Asks the broker, and returns when its process releases the project.
fn ask(project: &Project) -> Result<(), ClientError> {
    let lock = File::open(project.paths.lock());
    connection::order(project, Request::Down)?;
    if let Ok(lock) = lock {
        // The lock is granted when the broker has ended; errors do not matter, since the broker has
        // answered that all is gone.
        let _ = rustix::fs::flock(&lock, FlockOperation::LockShared);
    }
    Ok(())
}
