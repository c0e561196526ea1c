//! `imsup nursery`: waits, started and with its confinement compiled, to become the supervisors of hosts. The broker starts it, and asks over its standard input.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use imsup_linux::nursery::{self, Forked, Newborn};
use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::nursery::{Birth, Born, FDS};

use super::logging;
use super::run::Launched;

/// The project, where this is exactly the broker's command line, `nursery --project P`.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let is_nursery = arguments.next()? == "nursery" && arguments.next()? == "--project";
    let project = arguments.next()?.into_string().ok()?;
    (is_nursery && arguments.next().is_none()).then_some(project)
}

/// Serves until the broker is gone (`None`); returns as well in each process that has become a supervisor, with what it is to run.
///
/// # Errors
/// Standard input is no such socket, or fails; in a supervisor, its log or working directory cannot be used.
pub fn serve(project: &str) -> Result<Option<Launched>> {
    logging::start_for_a_file();
    imsup_supervisor::prepare();
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut channel = Channel::new(UnixStream::from(socket));
    loop {
        let birth = match channel.receive::<Birth>() {
            Ok(Some(birth)) => birth,
            Ok(None) | Err(ChannelError::Closed) => return Ok(None),
            Err(error) => return Err(error).context("hearing the broker; nobody else runs 'imsup nursery'"),
        };
        let fds = channel.take_fds(FDS)?;
        let born: Born = match nursery::fork_sibling() {
            Ok(Forked::Sibling(newborn)) => {
                drop(channel);
                return become_supervisor(newborn, project, birth, fds).map(Some);
            }
            Ok(Forked::Still(child)) => Ok(child.as_raw().cast_unsigned()),
            Err(errno) => Err(errno as i32),
        };
        channel.send(&born, Vec::new())?;
    }
}

/// Does what the launcher does between fork(2) and execve(2).
fn become_supervisor(newborn: Newborn, project: &str, birth: Birth, fds: Vec<OwnedFd>) -> Result<Launched> {
    let [log, directory] = <[OwnedFd; FDS]>::try_from(fds)
        .ok()
        .context("descriptors are missing")?;
    let nothing = std::fs::File::open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    rustix::process::fchdir(&directory).context("entering the working directory")?;
    newborn.change_environment(&birth.removed, &birth.environment);
    Ok(Launched::from_birth(project, birth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_brokers_line_is_meant() {
        let asked = |line: &str| asked(line.split(' ').map(OsString::from));
        assert_eq!(asked("nursery --project shop").as_deref(), Some("shop"));
        for line in [
            "nursery",
            "nursery --project",
            "nursery --project shop x",
            "ps --project shop",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
