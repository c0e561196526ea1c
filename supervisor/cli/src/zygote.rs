//! `imsup zygote`: waits, started and with its confinement compiled, to become the supervisors of
//! hosts. The broker starts it, and asks over its standard input.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use imsup_linux::clock::Clocks;
use imsup_linux::single_thread::SingleThread;
use imsup_linux::zygote::{self, Forked};
use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::zygote::{FDS, SpawnReply, SpawnRequest};
use nix::errno::Errno;

use super::logging;
use super::spawned::{self, Spawned};

/// The project, where this is exactly the broker's command line, `zygote --project P`.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let is_zygote = arguments.next()? == "zygote" && arguments.next()? == "--project";
    let project = arguments.next()?.into_string().ok()?;
    (is_zygote && arguments.next().is_none()).then_some(project)
}

/// Serves until the broker is gone (`None`). Also returns in each process that has become a
/// supervisor, with its parameters.
///
/// # Errors
/// Standard input is not a connection to a broker, or fails; in a supervisor, its log or working
/// directory cannot be used.
pub fn serve(project: &str) -> Result<Option<Spawned>> {
    logging::start_for_a_file();
    imsup_supervisor::prepare();
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut channel = Channel::accepted(UnixStream::from(socket));
    loop {
        let request = match channel.receive::<SpawnRequest>() {
            Ok(Some(request)) => request,
            Ok(None) | Err(ChannelError::Closed) => return Ok(None),
            Err(error) => return Err(error).context("hearing the broker; nobody else runs 'imsup zygote'"),
        };
        let fds = channel.take_fds(FDS)?;
        let reply: SpawnReply = match spawn(&request) {
            Ok(Forked::Sibling) => {
                drop(channel);
                return become_supervisor(project, request, fds).map(Some);
            }
            Ok(Forked::Still(child)) => Ok(child.as_raw().cast_unsigned()),
            Err(errno) => Err(errno as i32),
        };
        channel.send(&reply, Vec::new())?;
    }
}

/// Forks for a request, unless the broker has stopped waiting for the reply: the supervisor of that
/// boot was executed.
fn spawn(request: &SpawnRequest) -> Result<Forked, Errno> {
    if request
        .expires_us
        .is_some_and(|expires_us| Clocks::read().boot_us >= expires_us)
    {
        return Err(Errno::ETIME);
    }
    zygote::spawn_sibling(&SingleThread::prove()?)
}

/// Does the launcher's work between fork(2) and execve(2).
fn become_supervisor(project: &str, request: SpawnRequest, fds: Vec<OwnedFd>) -> Result<Spawned> {
    let [log, directory] = <[OwnedFd; FDS]>::try_from(fds)
        .ok()
        .context("descriptors are missing")?;
    spawned::take_no_input()?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    rustix::process::fchdir(&directory).context("entering the working directory")?;
    Ok(Spawned {
        project: project.to_owned(),
        request,
    })
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
