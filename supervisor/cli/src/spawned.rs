//! A supervisor that a broker has started: executed, or forked from the [zygote](super::zygote).

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
use imsup_protocol::message::Role;
use imsup_protocol::zygote::{self, SpawnRequest};

use super::project::Project;
use super::supervise;

/// What the supervisor is to do, and in which project.
#[derive(Debug)]
pub struct Spawned {
    /// The project.
    pub project: String,
    /// The host and its program.
    pub request: SpawnRequest,
}

/// The project, if this is exactly the command line of a broker's launcher: `run --project P --host
/// H --boot T`. The command of `imsup run` is missing, since it is in the request on standard
/// input; host and boot are for `ps`.
pub fn asked(arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let arguments: Vec<OsString> = arguments.take(8).collect();
    let [verb, first, project, second, _, third, _] = &*arguments else {
        return None;
    };
    let is_launchers = verb == "run" && first == "--project" && second == "--host" && third == "--boot";
    project.to_str().filter(|_| is_launchers).map(str::to_owned)
}

/// Takes the request from standard input, which is empty from then on.
///
/// # Errors
/// There is no request of this version of imsup.
pub fn receive(project: String) -> Result<Spawned> {
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let request = zygote::read(file).context("reading what to run; nobody but a broker starts a supervisor so")?;
    take_no_input()?;
    Ok(Spawned { project, request })
}

/// Has an empty standard input from here on.
///
/// # Errors
/// open(2) of /dev/null, dup2(2).
pub fn take_no_input() -> Result<()> {
    let nothing = File::open("/dev/null").context("opening /dev/null")?;
    Ok(rustix::stdio::dup2_stdin(&nothing)?)
}

impl Spawned {
    /// Runs the host's program and returns its status.
    ///
    /// # Errors
    /// As [`supervise::run`].
    pub fn run(self) -> Result<ExitCode> {
        let role = Role::Launched {
            boot: self.request.boot,
        };
        let project = Project::named(self.project);
        let assignment = supervise::assignment(&project, Some(self.request.host), role);
        supervise::run(&self.request.program, &assignment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_launchers_line_is_meant() {
        let asked = |line: &str| asked(line.split(' ').map(OsString::from));
        assert_eq!(
            asked("run --project shop --host web --boot 42").as_deref(),
            Some("shop")
        );
        for line in [
            "ps",
            "run --project shop --host web -- nginx",
            "run --project shop --host web --boot 42 nginx",
            "run --project shop --host web --boot 42 -- nginx",
            "run --project=shop --host web --boot 42",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
