//! The nursery: an `imsup` that has started, and has nothing more to do than to become the supervisor of a host when one is booted (fork(2)). To execute
//! one takes as long as all the rest of a boot: linking, the first touch of its memory, filters to compile.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use imsup_wire::channel::{Channel, ChannelError};
use imsup_wire::nursery::{Birth, Born};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::child::pidfd_of;
use crate::own_program;

/// How long it may take to answer: one that was stopped, or is swapped out, is done without.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many in a row may end without an answer before none is started any more. One alone may have been killed by somebody.
const MOST_SILENT: u32 = 3;

/// The nursery of this broker, started when it is first thought of.
#[derive(Debug)]
pub(super) struct Nursery {
    executable: PathBuf,
    running: Option<Running>,
    /// How many in a row never answered, or could not be started.
    silent: u32,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    process: OwnedFd,
    channel: Channel,
    has_answered: bool,
}

impl Nursery {
    /// None yet.
    pub(super) fn new(executable: PathBuf) -> Self {
        Self {
            executable,
            running: None,
            silent: 0,
        }
    }

    /// Starts it where it does not run; gives its process where it was started. Where it cannot be, supervisors are executed.
    pub(super) fn start(&mut self, project: &str) -> Option<u32> {
        if self.running.is_some() || self.silent >= MOST_SILENT {
            return None;
        }
        match Running::start(&self.executable, project) {
            Ok(running) => Some(self.running.insert(running).pid),
            Err(error) => {
                tracing::debug!(%error, "there is no nursery: hosts boot more slowly");
                self.silent = MOST_SILENT;
                None
            }
        }
    }

    /// Has it make a supervisor. `None` where it cannot: it is ended then, and the next is another.
    pub(super) fn make(&mut self, birth: &Birth, fds: Vec<OwnedFd>) -> Option<u32> {
        let running = self.running.as_mut()?;
        match running.make(birth, fds) {
            Ok(Ok(pid)) => {
                self.silent = 0;
                running.has_answered = true;
                return Some(pid);
            }
            Ok(Err(errno)) => {
                tracing::debug!(error = %io::Error::from_raw_os_error(errno), "the nursery cannot fork");
            }
            Err(error) => {
                tracing::debug!(%error, "the nursery does not answer");
                self.silent += u32::from(!running.has_answered);
                self.running = None;
            }
        }
        None
    }

    /// Ends it.
    pub(super) fn end(&mut self) {
        self.running = None;
    }
}

impl Running {
    fn start(executable: &Path, project: &str) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let child = own_program::command(executable)
            .args(["nursery", "--project", project])
            .env_remove("NOTIFY_SOCKET")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self {
            pid: child.id(),
            process: pidfd_of(child)?,
            channel: Channel::new(ours),
            has_answered: false,
        })
    }

    fn make(&mut self, birth: &Birth, fds: Vec<OwnedFd>) -> Result<Born, ChannelError> {
        self.channel.send(birth, fds)?;
        self.channel.receive()?.ok_or(ChannelError::Closed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        // The loop may have reaped it already.
        let _ = waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.process)),
            WaitIdOptions::EXITED,
        );
    }
}
