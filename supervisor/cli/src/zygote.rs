//! `imsup zygote`: waits, started and with its filters compiled, to become the supervisors of hosts. The broker starts it, and asks over its standard input.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use imsup_linux::zygote::{self, Forked, SingleThread};
use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::zygote::{SpawnRequest, SpawnReply, FDS};

use super::logging;
use super::run::Launched;

/// The project, where this is exactly the broker's command line, `zygote --project P`.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let is_zygote = arguments.next()? == "zygote" && arguments.next()? == "--project";
    let project = arguments.next()?.into_string().ok()?;
    (is_zygote && arguments.next().is_none()).then_some(project)
}

/// Serves until the broker is gone (`None`); returns as well in each process that has become a supervisor, with what it is to run.
///
/// # Errors
/// Standard input is no such socket, or fails; in a supervisor, its log or working directory cannot be used.
pub fn serve(project: &str) -> Result<Option<Launched>> {
    logging::start_for_a_file();
    imsup_supervisor::prepare()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut channel = Channel::new(UnixStream::from(socket));
    loop {
        let request = match channel.receive::<SpawnRequest>() {
            Ok(Some(request)) => request,
            Ok(None) | Err(ChannelError::Closed) => return Ok(None),
            Err(error) => return Err(error).context("hearing the broker; nobody else runs 'imsup zygote'"),
        };
        let fds = channel.take_fds(FDS)?;
        let reply: SpawnReply = match zygote::spawn_sibling() {
            Ok(Forked::Sibling(thread)) => {
                drop(channel);
                return become_supervisor(thread, project, request, fds).map(Some);
            }
            Ok(Forked::Still(child)) => Ok(child.as_raw().cast_unsigned()),
            Err(errno) => Err(errno as i32),
        };
        channel.send(&reply, Vec::new())?;
    }
}

/// Does what the launcher does between fork(2) and execve(2).
fn become_supervisor(thread: SingleThread, project: &str, request: SpawnRequest, fds: Vec<OwnedFd>) -> Result<Launched> {
    let [log, directory] = <[OwnedFd; FDS]>::try_from(fds)
        .ok()
        .context("descriptors are missing")?;
    let nothing = std::fs::File::open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    rustix::process::fchdir(&directory).context("entering the working directory")?;
    thread.change_environment(&request.removed, &request.environment);
    Ok(Launched::from_request(project, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_brokers_line_is_meant() {
        let asked = |line: &str| asked(line.split(' ').map(OsString::from));
        assert_eq!(asked("zygote --project shop").as_deref(), Some("shop"));
        for line in [
            "zygote",
            "zygote --project",
            "zygote --project shop x",
            "ps --project shop",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
