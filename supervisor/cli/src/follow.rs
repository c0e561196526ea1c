//! Following a broker to its end, and reporting the kind of the end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Result, anyhow};
use imsup_broker::client::{Client, ClientError};
use imsup_linux::pidfd::open_process;
use imsup_protocol::{Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::connection;
use super::failure::hinted;
use super::output;
use super::project::Project;

/// How long a broker that hung up may take to be gone: `down` removes files meanwhile.
const ENDING: Duration = Duration::from_secs(5);

/// The process of a broker.
#[derive(Debug)]
pub struct Broker {
    /// `None` if the process has ended already.
    process: Option<OwnedFd>,
}

impl Broker {
    /// The broker that a project has now.
    ///
    /// # Errors
    /// As [`connection::ask`].
    pub fn of(project: &Project) -> Result<Self, ClientError> {
        let mut pid = None;
        for answer in connection::ask(project, Request::Broker)? {
            if let Response::Broker { pid: said, .. } = answer? {
                pid = i32::try_from(said).ok();
            }
        }
        Ok(Self {
            process: pid.and_then(|pid| open_process(pid).ok()),
        })
    }

    /// The meaning of a hang-up, which came as this error: no failure if the project was taken
    /// down.
    ///
    /// # Errors
    /// The broker was killed, or hung up for another reason.
    pub fn hung_up(&self, project: &Project, error: ClientError) -> Result<()> {
        if !self.has_ended() {
            return Err(error.into());
        }
        match Client::connect(&project.name, &project.paths) {
            Err(ClientError::NoBroker { .. }) => {
                output::note(&format!("project '{}' is down", project.name));
                Ok(())
            }
            Err(dead @ ClientError::Dead { .. }) => Err(dead.into()),
            // The keeper's.
            Ok(_) => Err(hinted(
                anyhow!(
                    "the broker of project '{}' died, and the next one has taken its place",
                    project.name
                ),
                "repeat the command to follow that one",
            )),
            _ => Err(error.into()),
        }
    }

    /// True if the broker has ended; waits, since the broker may be about to end.
    fn has_ended(&self) -> bool {
        let Some(process) = &self.process else { return true };
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        let timeout = Timespec::try_from(ENDING).ok();
        matches!(rustix::event::poll(&mut polled, timeout.as_ref()), Ok(1))
    }
}
