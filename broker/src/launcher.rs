//! The decision about the place of a host, behind a trait; the first implementation is "as a
//! process here".

pub(crate) mod cgroups;
mod child;
#[cfg(test)]
pub(crate) mod double;
mod leftovers;
mod process;
mod supervisors;
mod zygote;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use imsup_wire::{ExitStatus, HostName, ProgramSpec};
use rustix::process::{Pid, Signal};

use crate::ids::InstanceId;

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
    /// The instance that the supervisor will be of.
    pub instance: InstanceId,
    /// The boot's token, by which its supervisor introduces itself. No two launches have the same.
    pub boot: u64,
    /// The file for the output.
    pub log: PathBuf,
    /// Where the program prints instead; closed by the broker once this is started.
    pub output: Option<&'a OwnedFd>,
    /// The launch of the same boot before this one had no reply in time: only the surest road will
    /// do.
    pub again: bool,
}

/// What has happened to the supervisor of an instance.
#[derive(Debug)]
pub struct Outcome {
    /// The instance, which may be over by now.
    pub instance: InstanceId,
    /// What has happened.
    pub event: LaunchEvent,
}

/// See [`Outcome`].
#[derive(Debug)]
pub enum LaunchEvent {
    /// The supervisor runs, or has run.
    Started,
    /// There was no reply in time. A supervisor that comes late is killed by the launcher, and
    /// refused by its token: the boot is to be launched [again](Launch::again), with another token.
    Unanswered,
    /// No supervisor can be started; nothing is left behind.
    Failed(LaunchError),
    /// The supervisor's process has ended. Leftovers are still to be [cleared](Launcher::clear).
    Ended,
}

/// What a launcher can do with the supervisor of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The supervisor is being made. An outcome follows.
    Starting,
    /// The supervisor can be signalled, and its end is an outcome.
    Watched,
    /// Only the supervisor's connection tells of the supervisor.
    Unknown,
}

/// Starts hosts on this node, watches for their ends, and cleans up after those that died badly. A
/// launcher alone knows the processes of supervisors; all others name the instance.
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
    /// connection to the broker, and the process ends with this connection. What it prints goes to
    /// `output`, if given. Returns the process and its pidfd.
    ///
    /// # Errors
    /// pipe(2), clone(2), execve(2).
    fn start_helper(
        &mut self,
        arguments: &[&OsStr],
        stdin: OwnedFd,
        output: Option<OwnedFd>,
    ) -> io::Result<(Pid, OwnedFd)>;

    /// An instance's supervisor is this process, says its connection or its file: a supervisor that
    /// this launcher did not start, or of whose start there is no outcome yet. Returns the
    /// directories in which the supervisor makes the host's cgroup, if these differ from the
    /// launcher's own.
    fn adopt(&mut self, instance: InstanceId, pid: u32) -> Vec<PathBuf>;

    /// An instance's supervisor has started the program: the program's first process, by the
    /// supervisor's number.
    fn note_program(&mut self, instance: InstanceId, pid: u32);

    /// The process of an instance's supervisor, for people and to be compared with a connection's
    /// peer.
    fn process(&self, instance: InstanceId) -> Option<u32>;

    /// What can be done with an instance's supervisor.
    fn standing(&self, instance: InstanceId) -> Standing;

    /// Sends a signal to an instance's supervisor if it is [watched](Standing::Watched).
    fn signal(&mut self, instance: InstanceId, signal: Signal);

    /// An event ([`crate::tokens::Source::Ended`]) says that an instance's supervisor has ended.
    /// [`Launcher::outcomes`] tells so once.
    fn look_at(&mut self, instance: InstanceId);

    /// Collects children that have ended.
    fn reap(&mut self);

    /// Ends all leftovers of a dead supervisor's host, then calls `done`, from any thread.
    fn clear(&mut self, left: &Leftovers<'_>, done: Box<dyn FnOnce() + Send>);

    /// An instance is over: there are no more outcomes, and a supervisor that is still being made
    /// is killed when it is there. Returns the exit status of a child that has ended.
    fn forget(&mut self, instance: InstanceId) -> Option<ExitStatus>;

    /// The directories in which supervisors make cgroups for their hosts.
    fn cgroups(&self) -> Vec<PathBuf>;
}

/// What a launcher needs to know to clear a host.
#[derive(Debug)]
pub struct Leftovers<'a> {
    /// The project.
    pub project: &'a str,
    /// The host.
    pub host: &'a HostName,
    /// The instance whose supervisor has died.
    pub instance: InstanceId,
    /// The boot's token, if the supervisor was launched.
    pub boot: Option<u64>,
    /// The processes at the other ends of the broker's connections, which are not left behind.
    pub connected: Vec<u32>,
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
