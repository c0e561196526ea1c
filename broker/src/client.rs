//! Asking a project's broker.
//!
//! Blocking: a client of the broker, in a process of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use imsup_linux::pidfd::open_process;
use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::control::Opening;
use imsup_protocol::version::{OURS, Versions};
use imsup_protocol::{Request, Response};
use imsup_wire::{ErrorKind, Failure};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::geteuid;

use crate::absent;
use crate::keeper;
use crate::lost;
use crate::paths::Paths;

/// The time for a process that has closed its connections to end.
const ENDING: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The time for the next broker started by a keeper: all its attempts, on a busy machine.
const NEXT_BROKER: Duration = Duration::from_secs(30);
/// The interval of checks for a keeper.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The reasons why a broker could not be asked, or did not obey.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum ClientError {
    /// None runs.
    #[error("project '{project}' is not up: `imsup up` brings it up")]
    NoBroker { project: String },
    /// A broker ran, and was killed.
    #[error(
        "the broker of project '{project}' died and left its files{}: `imsup up` takes them over, `imsup down` removes them",
        running(.hosts)
    )]
    Dead { project: String, hosts: Vec<String> },
    /// A broker runs, but its files were removed and cannot be made anew.
    #[error(
        "project '{project}' is up, but its files were removed, and cannot be made anew: its broker is process {pid}, and says why in its log; \
         `imsup down` ends it and its hosts"
    )]
    Lost { project: String, pid: u32 },
    /// A broker is starting or ending.
    #[error("the broker of project '{project}' is starting or ending; try again")]
    Busy { project: String },
    /// The broker speaks another version.
    #[error(
        "the broker of project '{project}' {} of imsup's messages, and this imsup {OURS}: use the imsup that started it, \
         or end its process{} and run `imsup up` again",
        speaks(.theirs),
        process(.pid)
    )]
    Version {
        project: String,
        /// The versions that the broker speaks, if known.
        theirs: Option<Versions>,
        /// The broker's process, if visible from here.
        pid: Option<u32>,
    },
    /// The connection failed.
    #[error("the broker of project '{project}' could not be asked: {source}")]
    Io { project: String, source: io::Error },
    /// The broker ended in the middle of its answers.
    #[error("the broker of project '{project}' ended before it had answered")]
    Ended { project: String },
    /// The broker refused, or failed.
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl ClientError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoBroker { .. } => ErrorKind::NotUp,
            Self::Dead { .. } | Self::Ended { .. } => ErrorKind::BrokerDied,
            Self::Busy { .. } => ErrorKind::BrokerBusy,
            Self::Lost { .. } | Self::Io { .. } => ErrorKind::Unreachable,
            Self::Version { .. } => ErrorKind::VersionMismatch,
            Self::Refused(failure) => failure.kind,
        }
    }
}

fn speaks(theirs: &Option<Versions>) -> String {
    match theirs {
        Some(theirs) => format!("speaks {theirs}"),
        None => "speaks another version".to_owned(),
    }
}

fn process(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" ({pid})"))
}

fn running(hosts: &[String]) -> String {
    match hosts {
        [] => String::new(),
        hosts => format!(" and running hosts ({})", hosts.join(", ")),
    }
}

/// Only this user and root are trusted: in /tmp any user could have made the socket first.
fn check_owner(stream: &UnixStream) -> io::Result<()> {
    let (own, peer) = (geteuid().as_raw(), getsockopt(stream, PeerCredentials)?.uid());
    if is_trusted(own, peer) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "it belongs to user {peer}, who is not trusted; set XDG_RUNTIME_DIR or IMSUP_RUNTIME_DIR to a directory of your own"
        ),
    ))
}

fn is_trusted(own: u32, peer: u32) -> bool {
    own == 0 || peer == 0 || peer == own
}

/// True if connect(2) has found no socket, or a socket without a listener.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | ConnectionRefused)
}

/// A connection to a broker.
#[derive(Debug)]
pub struct Client {
    project: String,
    paths: Paths,
    broker: Process,
    channel: Channel,
}

impl Client {
    /// Connects to a project's broker. If the broker has died, and the project has a keeper: waits
    /// for the next broker and connects to that. If a broker begins, or its files were removed,
    /// waits for a moment.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`], [`ClientError::Dead`], [`ClientError::Lost`],
    /// [`ClientError::Busy`] or [`ClientError::Io`].
    pub fn connect(project: &str, paths: &Paths) -> Result<Self, ClientError> {
        let mut next = None;
        let begun = Instant::now();
        loop {
            let connected = Self::connect_now(project, paths);
            let is_absent = |error: &ClientError| {
                matches!(
                    error,
                    ClientError::NoBroker { .. } | ClientError::Dead { .. } | ClientError::Busy { .. }
                )
            };
            if !connected.as_ref().is_err_and(is_absent) {
                return connected;
            }
            if !keeper::has_keeper(paths) {
                if begun.elapsed() >= lost::REMAKE_TIMEOUT || !lost::is_remaking(paths) {
                    return connected;
                }
                std::thread::sleep(lost::LOOK);
                continue;
            }
            match &mut next {
                // The next look sees changes from before the watch.
                None => next = Some(NextBroker::new(paths)),
                Some(next) => {
                    if !next.wait() {
                        return connected;
                    }
                }
            }
        }
    }

    fn connect_now(project: &str, paths: &Paths) -> Result<Self, ClientError> {
        let owned = project.to_owned();
        let mut connected = UnixStream::connect(paths.socket());
        if connected.as_ref().is_err_and(is_nobody) && !absent::has_broker(paths) {
            if let Some(lost) = lost::find_for_good(paths) {
                let pid = lost.pid;
                return Err(ClientError::Lost { project: owned, pid });
            }
            connected = UnixStream::connect(paths.socket());
        }
        match connected {
            Ok(stream) => match check_owner(&stream) {
                Ok(()) => Ok(Self {
                    project: owned,
                    paths: paths.clone(),
                    broker: Process::at_the_other_end_of(&stream),
                    channel: Channel::connected(stream),
                }),
                Err(source) => Err(ClientError::Io { project: owned, source }),
            },
            Err(error) => Err(match error.kind() {
                _ if is_nobody(&error) && absent::has_broker(paths) => ClientError::Busy { project: owned },
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if absent::adoptable(paths).is_empty() => {
                    ClientError::NoBroker { project: owned }
                }
                _ if is_nobody(&error) => ClientError::Dead {
                    project: owned,
                    hosts: absent::adoptable(paths).into_iter().map(|host| host.host).collect(),
                },
                _ => ClientError::Io {
                    project: owned,
                    source: error,
                },
            }),
        }
    }

    /// Asks, and returns the answers as they come. If the broker dies before the answer, the broker
    /// that the keeper starts is asked, provided that a repetition does no harm.
    ///
    /// # Errors
    /// [`ClientError::Ended`] or [`ClientError::Io`], or as [`Client::connect`] for the next
    /// broker.
    pub fn request(mut self, request: Request) -> Result<Responses, ClientError> {
        while let Err(error) = self.send(&request) {
            match self.next_broker(&request, &error) {
                Some(next) => self = next?,
                None => return Err(self.explain(error, false)),
            }
        }
        Ok(Responses {
            client: Some(self),
            request,
            any: false,
        })
    }

    fn send(&mut self, request: &Request) -> Result<(), ChannelError> {
        self.channel.send(&Opening::Control(request.clone()), Vec::new())
    }

    /// A connection to the next broker, if this broker died before an answer and the request may be
    /// repeated.
    fn next_broker(&self, request: &Request, error: &ChannelError) -> Option<Result<Self, ClientError>> {
        let is_asked = is_repeatable(request) && has_hung_up(error) && keeper::has_keeper(&self.paths);
        (is_asked && self.has_ended()).then(|| Self::connect(&self.project, &self.paths))
    }

    /// True if the listener is gone, or its process is about to end.
    fn has_ended(&self) -> bool {
        UnixStream::connect(self.paths.socket()).is_err() || self.broker.has_ended()
    }

    fn other_version(&self, theirs: Option<Versions>) -> ClientError {
        let peer = getsockopt(self.channel.socket(), PeerCredentials).ok();
        ClientError::Version {
            project: self.project.clone(),
            theirs,
            // 0 if the process is of another pid namespace.
            pid: peer
                .and_then(|peer| u32::try_from(peer.pid()).ok())
                .filter(|pid| *pid != 0),
        }
    }

    fn explain(&self, error: ChannelError, answered: bool) -> ClientError {
        let project = self.project.clone();
        match error {
            ChannelError::Closed if answered => ClientError::Ended { project },
            // The broker hung up because it ended.
            ChannelError::Closed if self.has_ended() => ClientError::Ended { project },
            // The broker hung up on the question, or the answer is malformed: the broker does not
            // understand.
            ChannelError::Closed | ChannelError::Codec(_) | ChannelError::Hello(_) | ChannelError::Descriptors => {
                self.other_version(None)
            }
            ChannelError::Versions(disagreement) => self.other_version(Some(disagreement.theirs)),
            ChannelError::Io(source) => ClientError::Io { project, source },
        }
    }
}

/// True if a repeated request has the same effect.
fn is_repeatable(request: &Request) -> bool {
    match request {
        Request::Broker
        | Request::Hosts
        | Request::Names
        | Request::Resolve { .. }
        | Request::Wake { .. }
        | Request::Why { .. }
        | Request::Program { .. }
        | Request::Usage { .. } => true,
        // A client that follows events is told of the death; hosts that were to end or to sleep may
        // have been used again since.
        Request::Events { .. }
        | Request::Stop { .. }
        | Request::Restart { .. }
        | Request::Suspend { .. }
        | Request::Resume { .. }
        | Request::KeepAwake { .. }
        | Request::Apply { .. }
        | Request::Down => false,
    }
}

/// True if the error is that of a killed broker: with unread messages, its end resets the
/// connection (unix(7)).
fn has_hung_up(error: &ChannelError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        ChannelError::Closed => true,
        ChannelError::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionReset),
        ChannelError::Codec(_) | ChannelError::Hello(_) | ChannelError::Versions(_) | ChannelError::Descriptors => {
            false
        }
    }
}

/// The wait for the broker that a keeper starts.
struct NextBroker {
    /// Changes in the directory of the socket.
    changes: Option<Inotify>,
    deadline: Instant,
}

impl NextBroker {
    fn new(paths: &Paths) -> Self {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .ok()
            .filter(|changes| {
                let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
                changes.add_watch(paths.runtime(), mask).is_ok()
            });
        Self {
            changes,
            deadline: Instant::now() + NEXT_BROKER,
        }
    }

    /// Waits until there is a change, or a check for the keeper is due; false after the deadline.
    fn wait(&mut self) -> bool {
        match &self.changes {
            Some(changes) => {
                let _ = poll(&mut [PollFd::new(changes, PollFlags::IN)], Some(&LOOK));
                let _ = changes.read_events();
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
        Instant::now() < self.deadline
    }
}

/// A process of which only the end matters.
#[derive(Debug)]
struct Process(Option<OwnedFd>);

impl Process {
    /// The process that listens at the other end of this connection (unix(7), SO_PEERCRED).
    fn at_the_other_end_of(stream: &UnixStream) -> Self {
        let peer = getsockopt(stream, PeerCredentials).ok();
        Self(peer.and_then(|peer| open_process(peer.pid()).ok()))
    }

    /// True if the process has ended, or ends now: a killed process closes all connections before a
    /// wait can succeed.
    fn has_ended(&self) -> bool {
        let Some(process) = &self.0 else { return false };
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&ENDING)), Ok(1..))
    }
}

/// The answers to one request, up to [`Response::Done`], which is not included.
#[derive(Debug)]
pub struct Responses {
    client: Option<Client>,
    request: Request,
    any: bool,
}

impl Responses {
    /// Whether the next answer is there already.
    pub fn has_next(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.channel.has_message())
    }
}

impl Responses {
    /// Has the next broker answer.
    fn ask_again(&mut self, next: Result<Client, ClientError>) -> Option<Result<Response, ClientError>> {
        self.client = None;
        match next.and_then(|next| next.request(self.request.clone())) {
            Ok(responses) => {
                *self = responses;
                self.next()
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for Responses {
    type Item = Result<Response, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let client = self.client.as_mut()?;
        let outcome = match client.channel.receive::<Response>() {
            Ok(Some(Response::Done)) => None,
            Ok(Some(Response::Error(failure))) => Some(Err(ClientError::Refused(failure))),
            Ok(Some(response)) => {
                self.any = true;
                return Some(Ok(response));
            }
            // A blocking socket returns no message only if it is interrupted for good.
            Ok(None) => Some(Err(ClientError::Ended {
                project: client.project.clone(),
            })),
            Err(error) => {
                if let Some(next) = client.next_broker(&self.request, &error).filter(|_| !self.any) {
                    return self.ask_again(next);
                }
                Some(Err(client.explain(error, self.any)))
            }
        };
        self.client = None;
        outcome
    }
}

/// Asks a project's broker and collects its answers.
///
/// # Errors
/// Any [`ClientError`].
pub fn ask(project: &str, paths: &Paths, request: Request) -> Result<Vec<Response>, ClientError> {
    Client::connect(project, paths)?.request(request)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_user_and_root_are_believed() {
        assert!(is_trusted(1000, 1000) && is_trusted(1000, 0) && is_trusted(0, 1000));
        assert!(!is_trusted(1000, 1001));
        let (stream, _other) = UnixStream::pair().unwrap();
        check_owner(&stream).unwrap();
    }
}
