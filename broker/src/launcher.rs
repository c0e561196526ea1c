//! Where a host runs: a decision behind a trait, whose first answer is "as a process here".

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

pub(crate) use leftovers::{Tree, children_of, clear_alone, leads_session, open};
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
    /// The errno behind it.
    pub fn errno(&self) -> i32 {
        let (Self::Log { source, .. } | Self::WorkingDirectory { source, .. } | Self::Spawn { source, .. }) = self;
        source.raw_os_error().unwrap_or_default()
    }
}

/// What is to be started.
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
    /// Where what it prints goes.
    pub log: PathBuf,
    /// The launch of the same boot before this one had no reply in time: only the surest road will do.
    pub again: bool,
}

/// A supervisor that was started.
#[derive(Debug)]
pub struct Launched {
    /// Its process, where it is one of this machine.
    pub pid: Option<u32>,
    /// Readable when it has ended; its connection decides where there is none.
    pub ended: Option<OwnedFd>,
    /// How it has ended, if it has already.
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
    /// There was no reply in time. A supervisor that comes late is killed by the launcher, and refused by its token: the boot
    /// is to be launched [again](Launch::again), with another token.
    Unanswered,
    /// No supervisor can be started; nothing is left behind.
    Failed(LaunchError),
}

/// Starts hosts on this node, and cleans up after those that died badly.
///
/// A launch takes milliseconds and never blocks the loop: what has become of it is an [`Outcome`]. Nodes themselves are made by
/// an [engine](crate::engine::Engine).
pub trait Launcher {
    /// Gets ready for boots of a project's hosts, so that the first is as quick as the others.
    fn prepare(&mut self, project: &str);

    /// Ends what [`Launcher::prepare`] has made.
    fn finish(&mut self);

    /// Starts a host's supervisor. [`Launcher::outcomes`] says what has become of it, at once or later.
    fn start(&mut self, launch: &Launch<'_>);

    /// What has become of launches since this was last asked. To be asked after [`Launcher::start`], after an event
    /// ([`crate::tokens::Source::Zygote`]), and when [`Launcher::due`] says.
    fn outcomes(&mut self) -> Vec<Outcome>;

    /// In what time outcomes are to be asked for although there is no event, if nothing earlier was said before.
    fn due(&mut self) -> Option<Duration>;

    /// Starts `imsup` with these arguments, for the broker itself: its standard input is a connection to the broker, by whose end it ends.
    /// Gives its pidfd.
    ///
    /// # Errors
    /// pipe(2), clone(2), execve(2).
    fn start_helper(&mut self, arguments: &[&OsStr], stdin: OwnedFd) -> io::Result<OwnedFd>;

    /// Collects supervisors that have ended, by process.
    fn reap(&mut self) -> Vec<(u32, ExitStatus)>;

    /// Ends whatever a dead supervisor left of its host, then calls `done`, from any thread.
    fn clear(&self, host: &HostName, boot: Option<u64>, pids: Pids, done: Box<dyn FnOnce() + Send>);
}

/// Processes of this machine, by what is known of them when a host is cleared.
#[derive(Clone, Debug, Default)]
pub struct Pids {
    /// The host's supervisor, where a session that it leads is the host's own.
    pub supervisor: Option<u32>,
    /// The program's first, where it led a session.
    pub program: Option<u32>,
    /// The cgroups that its supervisor may have made for the host.
    pub cgroups: Vec<PathBuf>,
    /// Those at the other ends of the broker's connections: they are not left behind.
    pub connected: Vec<u32>,
}
