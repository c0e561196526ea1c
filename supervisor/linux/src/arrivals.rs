//! Arrivals at sockets, reported without keeping the sockets open: epoll(7), and one poll of Linux
//! AIO on the epoll instance (io_submit(2)).
//!
//! A poll that is armed on a socket refers to it, so the socket would not be closed with its last
//! descriptor. An epoll instance holds no such references. Polled by ppoll(2) itself it would wake
//! its owner for each connection of a busy listener; the poll on it ends with the first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::event::{PollFlags, Timespec, epoll};

use super::aio::Polls;
use super::socket::errno_of;

/// Sockets that are told of at once.
const BATCH: usize = 64;

/// Not edge-triggered: earlier arrivals are reported, too, once requested.
const EVENTS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// Sockets that are watched for arrivals.
#[derive(Debug)]
pub struct Arrivals {
    epoll: OwnedFd,
    polls: Polls,
}

impl Arrivals {
    /// Empty at first. [`AsFd`] polls readable once an arrival follows [`Arrivals::arm`].
    ///
    /// # Errors
    /// As [`Polls::with_eventfd`].
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(errno_of)?,
            polls: Polls::with_eventfd(1)?,
        })
    }

    /// To be called by a process that is about to end, as [`Polls::leave`].
    pub fn leave(self) {
        self.polls.leave();
    }

    /// Adds a socket of our own table, by its inode number. A queue that is not empty counts as an
    /// arrival.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn add(&self, socket: BorrowedFd<'_>, inode: u64) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(inode), EVENTS).map_err(errno_of)
    }

    /// Has a socket told of again that [`Arrivals::take`] gave.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn again(&self, socket: BorrowedFd<'_>, inode: u64) -> Result<(), Errno> {
        epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(inode), EVENTS).map_err(errno_of)
    }

    /// Removes a socket, before its descriptor is closed: other processes may still have it open.
    pub fn remove(&self, socket: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Whether the next arrival will be told.
    pub fn is_armed(&self) -> bool {
        self.polls.is_armed(0)
    }

    /// Requests a report of the next arrival. Earlier ones count.
    ///
    /// # Errors
    /// As [`Polls::arm`].
    pub fn arm(&mut self) -> Result<(), Errno> {
        self.polls.arm(self.epoll.as_fd(), PollFlags::IN, 0)
    }

    /// The inode numbers of sockets with arrivals. None of them is reported again until
    /// [`Arrivals::again`].
    pub fn take(&mut self) -> Vec<u64> {
        let _ = self.polls.take();
        let mut events = Vec::with_capacity(BATCH);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once));
        events.iter().map(|event| event.data.u64()).collect()
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.polls.as_fd()
    }
}
