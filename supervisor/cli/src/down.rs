//! `imsup down`: takes everything away.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use imsup_broker::client::ClientError;
use imsup_broker::{AbsentError, down_without_broker, lost, projects};
use imsup_protocol::Request;
use rustix::fs::FlockOperation;

use super::background;
use super::connection;
use super::output;
use super::project::{Project, ProjectAndFileArgs};

/// How long `--forget` waits for another process that changes what is remembered of projects.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Take a project down: end its programs, and leave nothing behind
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Also forget the addresses of its hosts, and the ports they were seen to listen on
    #[arg(long)]
    forget: bool,
}

/// Runs the verb. That nothing is up is no failure: it is what was asked for.
///
/// # Errors
/// The broker, or what is left of a dead one, cannot be ended.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let name = &project.name;
    let said = loop {
        // Another `down` may be under way, or an `up`: what becomes of it decides.
        match take_down(&project).with_context(|| format!("taking project '{name}' down"))? {
            Some(said) => break said,
            None => background::await_change(&project)?,
        }
    };
    if args.forget {
        projects::forget(&project.paths.projects(), name, LOCK_TIMEOUT)?;
    }
    output::note(&said);
    Ok(())
}

/// Takes the project down, and gives what there is to say; `None` while a broker is starting or ending.
fn take_down(project: &Project) -> Result<Option<String>> {
    let name = &project.name;
    let (left, found) = match ask(project) {
        Ok(()) => return Ok(Some(format!("project '{name}' is down"))),
        Err(ClientError::Busy { .. } | ClientError::Ended { .. }) => return Ok(None),
        // It cannot be asked, but it hears signals.
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
            // Files may be left even where nothing runs.
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

/// Asks the broker, and returns when its process lets go of the project.
fn ask(project: &Project) -> Result<(), ClientError> {
    let lock = File::open(project.paths.lock());
    connection::order(project, Request::Down)?;
    if let Ok(lock) = lock {
        // Granted when the broker has ended; whatever else this may say, the broker has answered that all is gone.
        let _ = rustix::fs::flock(&lock, FlockOperation::LockShared);
    }
    Ok(())
}
