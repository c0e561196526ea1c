//! The nursery: an `imsup` that has started, and has nothing more to do than to become the supervisor of a host when one is booted (fork(2)). To execute
//! one takes as long as all the rest of a boot: linking, the first touch of its memory, filters to compile.

//!
//! It is asked, and its answer is heard when it comes: one that was stopped, or is swapped out, holds up the boots that it was asked for, and nothing else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::nursery::{Birth, Born};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::child::pidfd_of;
use crate::own_program;
use crate::tokens::Source;

/// How long it may take to answer before it is done without.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// How many in a row may end without an answer before none is started any more. One alone may have been killed by somebody.
const MOST_SILENT: u32 = 3;

/// The nursery of this broker, started when it is first thought of.
#[derive(Debug)]
pub(super) struct Nursery {
    executable: PathBuf,
    registry: Registry,
    running: Option<Running>,
    /// How many in a row never answered, or could not be started.
    silent: u32,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    process: OwnedFd,
    channel: Channel,
    /// The boots for which it has not answered yet, and when it was asked, the first one first.
    asked: VecDeque<(u64, Instant)>,
    has_answered: bool,
    /// It could not be asked, and is being ended.
    is_broken: bool,
}

impl Nursery {
    /// None yet; its answers will be events ([`Source::Nursery`]).
    pub(super) fn new(executable: PathBuf, registry: Registry) -> Self {
        Self {
            executable,
            registry,
            running: None,
            silent: 0,
        }
    }

    /// Starts it where it does not run; gives its process where it was started. Where it cannot be, supervisors are executed.
    pub(super) fn start(&mut self, project: &str) -> Option<u32> {
        if self.running.is_some() || self.silent >= MOST_SILENT {
            return None;
        }
        match Running::start(&self.executable, project, &self.registry) {
            Ok(running) => Some(self.running.insert(running).pid),
            Err(error) => {
                tracing::debug!(%error, "there is no nursery: hosts boot more slowly");
                self.silent = MOST_SILENT;
                None
            }
        }
    }

    /// Asks it for a supervisor; false where it cannot be asked.
    pub(super) fn ask(&mut self, birth: &Birth, fds: Vec<OwnedFd>) -> bool {
        let Some(running) = self.running.as_mut().filter(|running| !running.is_broken) else {
            return false;
        };
        if let Err(error) = running.channel.send(birth, fds) {
            tracing::debug!(%error, "the nursery cannot be asked");
            // Its end is an event.
            running.is_broken = true;
            let _ = pidfd_send_signal(&running.process, Signal::KILL);
            return false;
        }
        running.asked.push_back((birth.boot, Instant::now()));
        true
    }

    /// What has become of boots that it was asked for: their supervisors, or that it made none.
    pub(super) fn hear(&mut self) -> Vec<(u64, Option<u32>)> {
        let mut made = Vec::new();
        let Some(running) = self.running.as_mut() else {
            return made;
        };
        let error = loop {
            match running.hear() {
                Ok(Some((boot, Ok(pid)))) => {
                    self.silent = 0;
                    running.has_answered = true;
                    made.push((boot, Some(pid)));
                }
                Ok(Some((boot, Err(errno)))) => {
                    tracing::debug!(error = %io::Error::from_raw_os_error(errno), "the nursery cannot fork");
                    made.push((boot, None));
                }
                Ok(None) if running.is_overdue() => break ChannelError::Io(io::ErrorKind::TimedOut.into()),
                Ok(None) => return made,
                Err(error) => break error,
            }
        };
        tracing::debug!(%error, "the nursery does not answer");
        self.silent += u32::from(!running.has_answered);
        let unanswered = running.asked.drain(..).map(|(boot, _)| (boot, None));
        made.extend(unanswered);
        self.drop_running();
        made
    }

    /// Ends it, and waits for its end.
    pub(super) fn end(&mut self) {
        let Some(running) = &self.running else { return };
        let _ = pidfd_send_signal(&running.process, Signal::KILL);
        // Blocking: after the loop, for a process that was killed. The loop may have reaped it already.
        let _ = waitid(WaitId::PidFd(running.process.as_fd()), WaitIdOptions::EXITED);
        self.drop_running();
    }

    fn drop_running(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = self
                .registry
                .deregister(&mut SourceFd(&running.channel.socket().as_raw_fd()));
        }
    }
}

impl Running {
    fn start(executable: &Path, project: &str, registry: &Registry) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&ours.as_raw_fd()), Source::Nursery.into(), interest)?;
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
            asked: VecDeque::new(),
            has_answered: false,
            is_broken: false,
        })
    }

    /// Its next answer, and for which boot.
    fn hear(&mut self) -> Result<Option<(u64, Born)>, ChannelError> {
        if let Some(born) = self.channel.receive::<Born>()? {
            let (boot, _) = self.asked.pop_front().ok_or(ChannelError::Closed)?;
            return Ok(Some((boot, born)));
        }
        self.channel.flush()?;
        Ok(None)
    }

    fn is_overdue(&self) -> bool {
        self.asked.front().is_some_and(|(_, since)| since.elapsed() >= TIMEOUT)
    }
}

impl Drop for Running {
    /// The loop reaps it.
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}
