//! Becoming a supervisor: what `imsup run` and `imsup exec` end in, and what a broker starts.

use std::process::ExitCode;

use anyhow::{Context, Result};
use imsup_protocol::message::Role;
use imsup_supervisor::Assignment;
use imsup_wire::{ExitStatus, HostName, ProgramSpec};

use super::failure::Annotate;
use super::logging;
use super::output;
use super::project::Project;

/// The status of `run` and `exec` if imsup itself failed, as distinct from a failure of the command
/// (as in docker).
pub const OWN_FAILURE: u8 = 125;

/// Any value except the empty value and `0` requests a trace.
const TRACE_VARIABLE: &str = "IMSUP_TRACE";

/// The part that a program takes in a project. [`TRACE_VARIABLE`] asks for a trace, also of hosts
/// that a broker launches.
pub fn assignment(project: &Project, host: Option<HostName>, role: Role) -> Assignment {
    Assignment {
        broker_socket: project.paths.socket(),
        running_directory: (role != Role::Exec).then(|| project.paths.runtime().join("running")),
        hosts_file: project.paths.hosts(),
        host,
        role,
        beside: None,
        trace: std::env::var_os(TRACE_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0"),
    }
}

/// Runs a program under supervision and gives its status as a shell would.
///
/// # Errors
/// The broker does not accept the host, or the kernel lacks a feature; status [`OWN_FAILURE`].
pub fn run(program: &ProgramSpec, assignment: &Assignment) -> Result<ExitCode> {
    logging::start_quietly();
    let status = imsup_supervisor::run(program, assignment).status(OWN_FAILURE)?;
    if let ExitStatus::NotExecuted(errno) = status {
        let name = program.command.first().context("there is no command")?;
        output::error(&format!(
            "'{}' cannot be run: {}",
            name.display(),
            std::io::Error::from_raw_os_error(errno)
        ));
    }
    Ok(ExitCode::from(status_byte(status)))
}

/// The status as the kernel keeps it: its lowest eight bits.
pub fn status_byte(status: ExitStatus) -> u8 {
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
