//! Starting a broker in the background.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, anyhow};
use imsup_broker::client::{Client, ClientError};
use imsup_broker::own_program;
use imsup_linux::inherited;
use imsup_protocol::{Request, Response};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::compose;
use super::connection;
use super::failure::hinted;
use super::output;
use super::project::Project;
use super::readiness::{self, Word};

/// The number of apparent changes of the broker during a question that are accepted; more are taken
/// for another problem.
const STRANGE: u32 = 3;

/// The maximum wait for a broker that starts or ends, before a check that the broker still exists.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Another broker has the project.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AlreadyUp(String);

/// A connection that keeps an ephemeral broker alive.
pub struct KeepAlive {
    _connection: UnixStream,
}

/// Ensures that the project has a broker, starting `imsup broker ARGUMENTS` if there is none, and
/// that the broker stays. Others may do the same at the same time, and an ephemeral broker may be
/// about to end.
///
/// # Errors
/// As [`start`].
pub fn ensure(project: &Project, arguments: &[OsString]) -> Result<KeepAlive> {
    let mut strange = 0;
    loop {
        match keep_alive(project) {
            Ok(kept) => return Ok(kept),
            Err(ClientError::Busy { .. } | ClientError::Ended { .. }) => await_change(project)?,
            // One broker may have hung up, and the next be there already.
            Err(ClientError::Version { .. }) if strange < STRANGE => strange += 1,
            Err(ClientError::NoBroker { .. } | ClientError::Dead { .. }) => match start(arguments) {
                Ok(_) => {}
                // Another was quicker.
                Err(error) if error.is::<AlreadyUp>() => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

/// Connects, and makes sure that the broker has accepted: brokers accept in order, so a broker that
/// answers a later connection does not end as unused any more.
fn keep_alive(project: &Project) -> Result<KeepAlive, ClientError> {
    let mut others = 0;
    loop {
        let connection = UnixStream::connect(project.paths.socket());
        let answering = broker_pid(project)?;
        let Ok(connection) = connection else {
            // The socket was missing, but is there now.
            continue;
        };
        let accepting = getsockopt(&connection, PeerCredentials).map(|peer| peer.pid());
        // The connection may be to a broker that was ending, and the answer from the next. If this
        // seems to repeat, the process numbers are of another namespace and mean nothing.
        if accepting.is_ok_and(|pid| pid == answering) || others == STRANGE {
            return Ok(KeepAlive {
                _connection: connection,
            });
        }
        others += 1;
    }
}

/// The process that answers as the project's broker.
///
/// # Errors
/// As [`connection::ask`].
pub fn broker_pid(project: &Project) -> Result<i32, ClientError> {
    let mut pid = 0;
    for answer in connection::ask(project, Request::Broker)? {
        if let Response::Broker { pid: said, .. } = answer? {
            pid = said.cast_signed();
        }
    }
    Ok(pid)
}

/// Waits while the project's broker is neither ready nor gone: until a change of the socket, or of
/// the socket's directory, or the time for another look.
///
/// # Errors
/// inotify(7).
pub fn await_change(project: &Project) -> Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("waiting for the project's broker")?;
    let mask = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF;
    match inotify.add_watch(project.paths.runtime(), mask) {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno).context("waiting for the project's broker"),
    }
    // The check sees changes from before the watch.
    let busy = matches!(
        Client::connect(&project.name, &project.paths),
        Err(ClientError::Busy { .. })
    );
    if busy {
        // A broker that is killed, or fails, leaves its files unchanged.
        let mut polled = [PollFd::new(&inotify, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting for the project's broker"),
        }
    }
    Ok(())
}

/// Starts `imsup broker ARGUMENTS` such that the broker outlives this process, and waits until the
/// broker is ready; returns the project's name.
///
/// # Errors
/// The failure that the broker reports.
fn start(arguments: &[OsString]) -> Result<String> {
    let (mut child, last) = execute("--detach", arguments)?;
    // The child only starts the real broker and ends, so that the broker is not a child of this
    // process: a supervisor, which this process may become, ends all children.
    child.wait().context("starting the broker")?;
    name_of(last)
}

/// As [`start`], for a command that ends soon: the broker is its child until then. No process in
/// between is executed, which takes 2 ms.
///
/// # Errors
/// As [`start`].
pub fn start_at_last(arguments: &[OsString]) -> Result<String> {
    // What this command was started with (a lock, a secret) is not the broker's, which outlives it.
    inherited::keep_from_programs().context("keeping the descriptors that imsup was started with from the broker")?;
    let (_, last) = execute("--report", arguments)?;
    name_of(last)
}

/// Executes `imsup broker HOW ARGUMENTS`, and hears what the broker says until it is ready.
fn execute(how: &str, arguments: &[OsString]) -> Result<(Child, Option<Word>)> {
    let executable = std::env::current_exe().context("finding imsup's own program")?;
    let mut command = own_program::command(&executable);
    command.args(["broker", how]).args(arguments).stdout(Stdio::piped());
    if let Some(stdin) = compose::stdin_again().context("passing standard input on to the broker")? {
        command.stdin(stdin);
    }
    let mut child = command.spawn().context("starting the broker")?;
    let pipe = child.stdout.take().context("the broker has no output")?;
    let last = readiness::listen(pipe, output::warning)?;
    Ok((child, last))
}

/// The project of a broker whose last word this is.
fn name_of(last: Option<Word>) -> Result<String> {
    match last {
        Some(Word::Ready { project }) => Ok(project),
        Some(Word::AlreadyUp { message }) => Err(AlreadyUp(message).into()),
        Some(Word::Failed { message, hint }) => Err(match hint {
            Some(hint) => hinted(anyhow!(message), hint),
            None => anyhow!(message),
        }),
        Some(Word::Warning(_)) | None => Err(anyhow!("the broker ended before it was ready, without saying why")),
    }
}
