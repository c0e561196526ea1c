//! Becoming a supervisor: what `imsup run` and `imsup exec` end in.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use imsup_protocol::message::Role;
use imsup_supervisor::RunOptions;
use imsup_wire::{ExitStatus, HostName};

use super::failure::Annotate;
use super::logging;
use super::output;
use super::project::Project;

/// The status of `run` and `exec` where imsup itself failed, which tells that from a failure of the command (as docker has
/// it).
pub const OWN_FAILURE: u8 = 125;

/// Set to anything but nothing and `0`, it asks for a trace.
const TRACE_VARIABLE: &str = "IMSUP_TRACE";

/// A command to run as a host.
pub struct Job {
    /// The host's name; `None` for a transient one that the broker names.
    pub host: Option<HostName>,
    /// What this is to the host.
    pub role: Role,
    /// `USER[:GROUP]` to become.
    pub user: Option<String>,
    /// Whether its trapped calls are told; [`TRACE_VARIABLE`] asks for it too, also for hosts that a broker launches.
    pub trace: bool,
    /// The soft limit of descriptors to start it with, where it is not our own.
    pub descriptor_limit: Option<u64>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// Runs the command under supervision and gives its status as a shell would.
///
/// # Errors
/// The broker does not take the host, or the kernel lacks something; status [`OWN_FAILURE`].
pub fn run(project: &Project, job: Job) -> Result<ExitCode> {
    logging::start_quietly();
    let asked = std::env::var_os(TRACE_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
    let program = job.command.first().map(|word| word.display().to_string());
    // A launched program must not get the signals of the terminal that the broker was started from.
    let new_session = matches!(job.role, Role::Launched { .. });
    let status = imsup_supervisor::run(&RunOptions {
        broker_socket: project.paths.socket(),
        running_directory: (job.role != Role::Exec).then(|| project.paths.runtime().join("running")),
        hosts_file: project.paths.hosts(),
        host: job.host,
        role: job.role,
        user: job.user,
        command: job.command,
        new_session,
        descriptor_limit: job.descriptor_limit,
        trace: job.trace || asked,
    })
    .status(OWN_FAILURE)?;
    if let ExitStatus::NotExecuted(errno) = status {
        let program = program.context("there is no command")?;
        output::error(&format!(
            "'{program}' cannot be run: {}",
            std::io::Error::from_raw_os_error(errno)
        ));
    }
    Ok(ExitCode::from(status_byte(status)))
}

/// The status as the kernel keeps it: its lowest eight bits.
fn status_byte(status: ExitStatus) -> u8 {
    status.shell_code().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(status_byte(ExitStatus::Code(3)), 3);
        assert_eq!(status_byte(ExitStatus::Signal(15)), 143);
        assert_eq!(status_byte(ExitStatus::NotExecuted(2)), 127);
        assert_eq!(status_byte(ExitStatus::NotExecuted(13)), 126);
    }
}
