//! Arrivals that happen between two looks: a connection that was accepted and has ended, a datagram
//! that was read.
//!
//! The listeners and datagram sockets that imsup retains are members of an epoll instance. A
//! one-shot poll of Linux AIO ([`imsup_linux::aio`]) is armed on that instance. A sender's wake-up
//! of the socket's waiters completes the poll at once, regardless of the program's later actions on
//! the socket. Neither the epoll instance nor the poll is a reference to a socket, so each socket
//! is closed with its last descriptor. One poll serves all sockets of a host.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::PollFlags;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::sockets::Retained;
use imsup_linux::aio::Polls;
use imsup_linux::socket::errno_of;

/// A socket's waiters are woken with EPOLLPRI among the events of what has come (net/core/sock.c,
/// sock_def_readable), but a queue that is not empty is none (net/ipv4/tcp.c, tcp_poll;
/// net/core/datagram.c, datagram_poll): what waits already is not told again and again.
const ARRIVAL: EventFlags = EventFlags::PRI;

/// The delay before the next try to make an AIO context. A machine has a limited number of contexts
/// (fs.aio-max-nr).
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// The arrivals that were seen since the last question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A connection or datagram has arrived.
    pub came: bool,
    /// An arrival may have been missed.
    pub unseen: bool,
    /// The program has connected to a place outside its host.
    pub went: bool,
    /// The host has connected to itself.
    pub own: bool,
}

/// The epoll instance and the poll that see arrivals.
#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    poll: Polls,
}

impl Watch {
    fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).map_err(errno_of)?,
            poll: Polls::new(1)?,
        })
    }
}

/// Arrivals in the sockets of one host.
#[derive(Debug, Default)]
pub struct Incoming {
    watch: Option<Watch>,
    /// The members of the epoll instance, by inode number.
    members: HashSet<u64>,
    /// True if arrivals are being watched.
    looked_at: bool,
    /// No context before this.
    try_at: Option<Instant>,
    seen: Seen,
}

impl Incoming {
    /// The arrivals that were seen since the last call. From now on, arrivals in all sockets that
    /// the program listens on are seen.
    pub fn look(&mut self, retained: &Retained) -> Seen {
        self.take();
        let mut seen = std::mem::take(&mut self.seen);
        self.looked_at = true;
        seen.unseen |= self.watch_all(retained);
        self.arm();
        seen
    }

    /// The arrivals that were seen since [`Incoming::look`]. The next look returns these again.
    pub fn peek(&mut self) -> Seen {
        self.take();
        self.seen
    }

    /// Stops watching: the host is suspended, and an arrival wakes the host.
    pub fn rest(&mut self) {
        *self = Self {
            try_at: self.try_at,
            ..Self::default()
        };
    }

    /// Stops to look, because the supervisor ends.
    pub fn leave(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.poll.leave();
        }
    }

    /// True if arrivals are being watched.
    pub fn is_looked_at(&self) -> bool {
        self.looked_at
    }

    /// The program has connected to a place outside its host: data from that place counts as an
    /// arrival.
    pub fn note_connect(&mut self) {
        self.seen.went = true;
    }

    /// To be called before the host itself causes an arrival, which does not count.
    pub fn before_own(&mut self) {
        self.take();
    }

    /// To be called after that. What has come from outside in between is taken for the host's own:
    /// some 50 us for each connection of a host to itself.
    pub fn after_own(&mut self) {
        self.seen.own = true;
        if let Some(watch) = &mut self.watch
            && !watch.poll.take().is_ok_and(|completed| completed.is_empty())
        {
            self.arm();
        }
    }

    fn take(&mut self) {
        if let Some(watch) = &mut self.watch {
            self.seen.came |= !watch.poll.take().is_ok_and(|completed| completed.is_empty());
        }
    }

    /// Makes members of all sockets that the program listens on. True if any socket was not a
    /// member before.
    fn watch_all(&mut self, retained: &Retained) -> bool {
        let sockets: Vec<_> = retained.listening_by_inode().collect();
        if sockets.is_empty() {
            return false;
        }
        if self.watch.is_none() && self.try_at.is_none_or(|at| at <= Instant::now()) {
            self.members.clear();
            match Watch::new() {
                Ok(watch) => self.watch = Some(watch),
                Err(errno) => {
                    tracing::debug!(%errno, "what comes to a host cannot be seen");
                    self.try_at = Some(Instant::now() + TRY_AGAIN);
                }
            }
        }
        let Some(watch) = &self.watch else { return true };
        self.members
            .retain(|inode| sockets.iter().any(|(known, _)| known == inode));
        let mut all_known = true;
        for (inode, socket) in sockets {
            if self.members.contains(&inode) {
                continue;
            }
            all_known = false;
            match epoll::add(&watch.epoll, socket, EventData::new_u64(inode), ARRIVAL) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {
                    self.members.insert(inode);
                }
                Err(errno) => tracing::debug!(%errno, "what comes to a socket cannot be seen"),
            }
        }
        !all_known
    }

    /// Arms the poll. A poll that completes at once, because of an error pending in a socket,
    /// cannot report arrivals.
    fn arm(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let armed = watch
            .poll
            .arm(watch.epoll.as_fd(), PollFlags::IN, 0)
            .and_then(|()| watch.poll.take());
        match armed {
            Ok(completed) => self.seen.unseen |= !completed.is_empty(),
            Err(errno) => {
                tracing::debug!(%errno, "what comes to a host cannot be seen");
                self.seen.unseen = true;
            }
        }
    }
}
