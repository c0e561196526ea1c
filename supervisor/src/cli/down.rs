//! `imsup down`: takes everything away.

use std::fs::File;

use anyhow::{Context, Result};
use imsup_broker::client::ClientError;
use imsup_broker::{down_without_broker, projects};
use imsup_wire::Request;
use rustix::fs::FlockOperation;

use super::connection;
use super::output;
use super::project::{Project, ProjectAndFileArgs};

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
    let said = match ask(&project) {
        Ok(()) => format!("project '{name}' is down"),
        Err(ClientError::NoBroker { .. }) => {
            // Files may be left even where nothing runs.
            down_without_broker(name, &project.paths)?;
            format!("project '{name}' was not up")
        }
        Err(ClientError::Dead { .. }) => {
            let ended = down_without_broker(name, &project.paths)?;
            let hosts = match ended.as_slice() {
                [] => "no host ran".to_owned(),
                hosts => format!("ended {}", hosts.join(", ")),
            };
            format!("project '{name}' is down (its broker had died; {hosts})")
        }
        Err(error) => return Err(error).context(format!("taking project '{name}' down")),
    };
    if args.forget {
        projects::forget(&project.paths.projects(), name)?;
    }
    output::note(&said);
    Ok(())
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
