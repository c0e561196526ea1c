//! The decision about the place of a host, behind a trait; the first implementation is "as a
//! process here".

pub(crate) mod cgroups;
mod child;
mod leftovers;
mod process;
mod zygote;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use imsup_wire::{ExitStatus, HostName, ProgramSpec};

pub(crate) use child::open;
pub(crate) use leftovers::{HostProcesses, children_of, clear_alone, leads_session};
pub use process::ProcessLauncher;

/// Why a host's supervisor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The log could not be opened.
    #[error("its log {path} cannot be written: {source}")]
    Log { path: PathBuf, source: io::Error },
    /// The directory is not there.
    #[error("its working directory {path} cannot be used: {source}")]
    WorkingDirectory { path: PathBuf, source: io::Error },
    /// The supervisor could not be executed.
    #[error("the supervisor {path} could not be started: {source}")]
    Spawn { path: PathBuf, source: io::Error },
}

impl LaunchError {
    /// The errno of the cause.
    pub fn errno(&self) -> i32 {
        let (Self::Log { source, .. } | Self::WorkingDirectory { source, .. } | Self::Spawn { source, .. }) = self;
        source.raw_os_error().unwrap_or_default()
    }
}

/// The parameters of a start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The project.
    pub project: &'a str,
    /// The host.
    pub host: &'a HostName,
    /// What it runs.
    pub program: &'a ProgramSpec,
    /// The boot's token, by which its supervisor introduces itself. No two launches have the same.
    pub boot: u64,
    /// The file for the output.
    pub log: PathBuf,
    /// The launch of the same boot before this one had no reply in time: only the surest road will
    /// do.
    pub again: bool,
}

/// A supervisor that was started.
#[derive(Debug)]
pub struct Launched {
    /// The process, if on this machine.
    pub pid: Option<u32>,
    /// Readable when the process has ended; if `None`, the connection decides.
    pub ended: Option<OwnedFd>,
    /// The exit status, if the process has already ended.
    pub status: Option<ExitStatus>,
}

/// What has become of a launch.
#[derive(Debug)]
pub struct Outcome {
    /// The boot's token.
    pub boot: u64,
    /// What has become of it.
    pub result: LaunchResult,
}

/// See [`Outcome`].
#[derive(Debug)]
pub enum LaunchResult {
    /// The supervisor runs, or has run.
    Started(Launched),
    /// There was no reply in time. A supervisor that comes late is killed by the launcher, and
    /// refused by its token: the boot is to be launched [again](Launch::again), with another token.
    Unanswered,
    /// No supervisor can be started; nothing is left behind.
    Failed(LaunchError),
}

/// Starts hosts on this node, and cleans up after those that died badly.
///
/// A launch takes milliseconds and never blocks the loop: what has become of it is an [`Outcome`].
/// Nodes themselves are made by an [engine](crate::engine::Engine).
pub trait Launcher {
    /// Gets ready for boots of a project's hosts, so that the first is as quick as the others.
    fn prepare(&mut self, project: &str);

    /// Ends the process made by [`Launcher::prepare`].
    fn finish(&mut self);

    /// Starts a host's supervisor. [`Launcher::outcomes`] says what has become of it, at once or
    /// later.
    fn start(&mut self, launch: &Launch<'_>);

    /// What has become of launches since this was last asked. To be asked after
    /// [`Launcher::start`], after an event ([`crate::tokens::Source::Zygote`]), and when
    /// [`Launcher::due`] says.
    fn outcomes(&mut self) -> Vec<Outcome>;

    /// In what time outcomes are to be asked for although there is no event, if nothing earlier was
    /// said before.
    fn due(&mut self) -> Option<Duration>;

    /// Starts `imsup` with these arguments, for the broker itself. The standard input is a
    /// connection to the broker, and the process ends with this connection. Returns its pidfd.
    ///
    /// # Errors
    /// pipe(2), clone(2), execve(2).
    fn start_helper(&mut self, arguments: &[&OsStr], stdin: OwnedFd) -> io::Result<OwnedFd>;

    /// Collects supervisors that have ended, by process.
    fn reap(&mut self) -> Vec<(u32, ExitStatus)>;

    /// Ends all leftovers of a dead supervisor's host, then calls `done`, from any thread.
    fn clear(&self, host: &HostName, boot: Option<u64>, pids: Pids, done: Box<dyn FnOnce() + Send>);
}

/// Known processes of this machine when a host is cleared.
#[derive(Clone, Debug, Default)]
pub struct Pids {
    /// The host's supervisor, if the supervisor's session is the host's own.
    pub supervisor: Option<u32>,
    /// The program's first process, if the leader of a session.
    pub program: Option<u32>,
    /// The cgroups that the supervisor may have made for the host.
    pub cgroups: Vec<PathBuf>,
    /// The processes at the other ends of the broker's connections, which are not left behind.
    pub connected: Vec<u32>,
}
