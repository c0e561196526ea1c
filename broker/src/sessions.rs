//! Connections to the broker's socket: peers, and messages in progress.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use imsup_protocol::Request;
use imsup_protocol::channel::{Channel, ChannelError};
use imsup_wire::{Failure, HostName};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use slotmap::SlotMap;

use crate::changes::Plan;
use crate::ids::{HostId, SessionId};
use crate::peer_lookup::Question;
use crate::tokens::Source;

/// Maximum number of unsent answers to a supervisor; a supervisor that does not read is cut off.
const MAX_QUEUED: usize = 4096;

/// Connections at once.
const MAX_SESSIONS: usize = 16_384;

/// The role of a supervisor: the program of a host, or a command beside the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The supervisor runs the host's program.
    Program,
    /// The supervisor only has the host's identity (`imsup exec`).
    Command,
}

/// The state of the answer to a client of the command line.
#[derive(Debug)]
pub(crate) enum Reply {
    /// These hosts, in reverse order.
    Hosts(Vec<HostId>),
    /// These responses.
    Listed(std::vec::IntoIter<imsup_protocol::Response>),
    /// Events from this number on.
    Events {
        from: u64,
        follow: bool,
        hosts: Vec<HostName>,
    },
    /// All events, once those up to this question have names.
    Unnamed {
        last: Question,
        follow: bool,
        hosts: Vec<HostName>,
    },
    /// The client waits for this number of hosts; with the failures so far.
    Waiting {
        left: usize,
        failures: Vec<Failure>,
        then: Then,
    },
    /// The client waits for the end of all.
    Down,
    /// The answer is complete; the connection is closed when the answer has been sent.
    Over,
}

/// The next step after all hosts that a client waits for are done.
#[derive(Debug)]
pub(crate) enum Then {
    /// No more.
    Done,
    /// Boot these hosts, for this user (`restart`).
    Wake(Vec<HostId>, String),
    /// Send the gathered responses (`why`).
    Say(Vec<imsup_protocol::Response>),
    /// Send the usage of these hosts.
    Usage(Vec<HostId>),
    /// Have a broker with other hosts take this one's place (`up`).
    Apply(Box<Plan>),
}

/// The other end of a connection.
#[derive(Debug)]
pub(crate) enum Peer {
    /// A peer that has not sent a message yet.
    Unknown,
    /// A supervisor.
    Supervisor { host: HostId, part: Part },
    /// The command line.
    Client(Reply),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) peer: Peer,
    /// The process at the other end, if on this machine.
    pub(crate) pid: Option<u32>,
    pub(crate) uid: u32,
    /// As [`crate::hosts::Instance::keep_calls_pending`], of a command.
    pub(crate) notify_listener: Option<OwnedFd>,
}

/// The socket that supervisors and clients connect to, and the table of connections.
#[derive(Debug)]
pub(crate) struct Sessions {
    listener: Option<UnixListener>,
    table: SlotMap<SessionId, Session>,
    /// A connection waits that could not be accepted (EMFILE). The kernel says nothing more of it,
    /// so accept(2) is to be tried again.
    short: bool,
}

impl Sessions {
    /// No connection yet; those that come to this socket.
    pub(crate) fn new(listener: UnixListener) -> Self {
        Self {
            listener: Some(listener),
            table: SlotMap::with_key(),
            short: false,
        }
    }

    /// Takes this socket in place of the one before.
    pub(crate) fn listen(&mut self, listener: UnixListener) {
        self.listener = Some(listener);
    }

    /// Is not told of connections any more.
    pub(crate) fn unwatch_listener(&self, registry: &Registry) {
        if let Some(listener) = &self.listener {
            let _ = registry.deregister(&mut SourceFd(&listener.as_raw_fd()));
        }
    }

    /// Closes the socket: no more connections.
    pub(crate) fn close_listener(&mut self) {
        self.listener = None;
    }

    /// True if a connection waits that could not be accepted.
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// Accepts all that wait. Only this user and root are let in.
    pub(crate) fn accept(&mut self, registry: &Registry) -> Vec<SessionId> {
        let mut accepted = Vec::new();
        let short_before = std::mem::take(&mut self.short);
        loop {
            let Some(listener) = &self.listener else {
                return accepted;
            };
            match listener.accept() {
                Ok((stream, _)) => accepted.extend(self.admit(stream, registry)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return accepted,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.short = true;
                    if !short_before {
                        tracing::warn!(%error, "a connection to the broker could not be accepted");
                    }
                    return accepted;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, registry: &Registry) -> Option<SessionId> {
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        let uid = peer.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            tracing::warn!(uid, "a connection of another user was refused");
            return None;
        }
        if self.table.len() >= MAX_SESSIONS {
            tracing::warn!("too many connections to the broker; one was refused");
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        let descriptor = stream.as_raw_fd();
        let session = Session {
            channel: Channel::accepted(stream),
            peer: Peer::Unknown,
            // 0 if the process is invisible here (another pid namespace).
            pid: u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0),
            uid,
            notify_listener: None,
        };
        let number = self.table.insert(session);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = registry.register(&mut SourceFd(&descriptor), Source::Session(number).into(), interest);
        if registered.is_err() {
            self.table.remove(number);
            return None;
        }
        Some(number)
    }

    /// The connection with this number.
    pub(crate) fn get_mut(&mut self, number: SessionId) -> Option<&mut Session> {
        self.table.get_mut(number)
    }

    /// Closes a connection.
    pub(crate) fn remove(&mut self, number: SessionId, registry: &Registry) -> Option<Session> {
        let session = self.table.remove(number)?;
        let descriptor = session.channel.socket().as_raw_fd();
        // Closing the descriptor right after this would deregister the descriptor as well.
        let _ = registry.deregister(&mut SourceFd(&descriptor));
        Some(session)
    }

    /// All connections, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.table.iter()
    }

    /// The supervisors of commands beside hosts' programs.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.iter().filter(|(_, session)| {
            let part = match &session.peer {
                Peer::Supervisor { part, .. } => Some(*part),
                _ => None,
            };
            part == Some(Part::Command)
        })
    }

    /// Whether a supervisor is connected.
    pub(crate) fn has_supervisors(&self) -> bool {
        self.iter()
            .any(|(_, session)| matches!(session.peer, Peer::Supervisor { .. }))
    }

    /// True if there is a connection without a message yet.
    pub(crate) fn has_undecided(&self) -> bool {
        self.iter().any(|(_, session)| matches!(session.peer, Peer::Unknown))
    }
}

impl Session {
    /// Sends or queues a message.
    pub(crate) fn send<M: serde::Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Sent {
        match self.channel.send(message, fds) {
            Ok(()) if self.channel.queued() <= MAX_QUEUED => Sent::Yes,
            Ok(()) => {
                tracing::warn!(pid = self.pid, "a peer does not read what it is told; it is cut off");
                Sent::CutOff
            }
            Err(ChannelError::Closed) => Sent::Gone,
            Err(error) => {
                tracing::warn!(pid = self.pid, %error, "a peer could not be told something; it is cut off");
                Sent::CutOff
            }
        }
    }
}

/// The result of sending a message to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The message is sent, or queued until the peer reads.
    Yes,
    /// The peer has closed the connection. Earlier messages may still be unread.
    Gone,
    /// The peer does not read, or cannot be told this.
    CutOff,
}

/// A request as a sentence for the log.
pub(crate) fn describe(request: &Request) -> &'static str {
    match request {
        Request::Broker => "broker",
        Request::Hosts => "hosts",
        Request::Names => "names",
        Request::Resolve { .. } => "resolve",
        Request::Events { .. } => "events",
        Request::Wake { .. } => "wake",
        Request::Stop { .. } => "stop",
        Request::Restart { .. } => "restart",
        Request::Suspend { .. } => "suspend",
        Request::Resume { .. } => "resume",
        Request::KeepAwake { .. } => "keep-awake",
        Request::Why { .. } => "why",
        Request::Program { .. } => "program",
        Request::Usage { .. } => "usage",
        Request::Down => "down",
        Request::Apply { .. } => "apply",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn an_event_for_a_connection_that_was_closed_is_not_given_to_the_next_in_its_slot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let mut sessions = Sessions::new(listener);

        let first = UnixStream::connect(&path).unwrap();
        let [gone] = sessions.accept(&registry)[..] else {
            panic!("one has connected");
        };
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, None).unwrap();
        let stale = events.iter().next().unwrap().token();
        assert_eq!(Source::of(stale), Some(Source::Session(gone)));

        sessions.remove(gone, &registry);
        drop(first);
        let _second = UnixStream::connect(&path).unwrap();
        let [session] = sessions.accept(&registry)[..] else {
            panic!("one more has connected");
        };
        let Some(Source::Session(of_event)) = Source::of(stale) else {
            panic!("a session's token");
        };
        assert!(
            sessions.get_mut(of_event).is_none(),
            "the event is of the one that is closed"
        );
        assert!(sessions.get_mut(session).is_some());
        poll.poll(&mut events, None).unwrap();
        let tokens = events.iter().map(|event| Source::of(event.token()));
        assert_eq!(tokens.collect::<Vec<_>>(), [Some(Source::Session(session))]);
    }
}
