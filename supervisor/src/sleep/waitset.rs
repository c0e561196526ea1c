//! The wait set of a sleeping host: duplicates of exactly the descriptors that the host's threads
//! wait for.
//!
//! The wait set includes duplicates of the program's own epoll instances. An epoll instance is
//! itself pollable, and a poll takes no events from the program, edge-triggered events included
//! (the kernel suite pins that).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::wait::Watch;
use imsup_linux::duplicates::Duplicates;
use imsup_linux::socket::errno_of;
use imsup_linux::{pidfd, process, socket};

/// How many ready sources are examined: a single source is enough to wake.
const BATCH: usize = 16;

/// An epoll instance that watches more descriptors is not searched for the cause of a wake.
const FEW: usize = 64;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A source of a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A descriptor of a process.
    Descriptor {
        /// The process.
        pid: i32,
        /// The descriptor's number, and the awaited events.
        watch: Watch,
        /// The call that waits for the descriptor.
        call: &'static str,
    },
    /// The end of a process.
    Process {
        /// Which.
        pid: i32,
    },
    /// A time of CLOCK_REALTIME, or a change of that clock's setting.
    Clock,
}

/// All sources of a wake.
#[derive(Debug)]
pub struct WaitSet {
    // Closed first: the registrations go with the epoll instance, and the duplicates singly
    // afterwards.
    epoll: OwnedFd,
    sources: Vec<(Source, OwnedFd)>,
    /// The descriptors that small epoll instances watch: not awaited, only examined for the cause
    /// of a wake.
    members: Vec<OwnedFd>,
}

impl WaitSet {
    /// Waits for the end of each of these processes, and for no other event yet.
    ///
    /// # Errors
    /// EMFILE if descriptors run out.
    pub fn new(pids: &[i32]) -> Result<Self, Errno> {
        let mut set = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).map_err(errno_of)?,
            sources: Vec::with_capacity(pids.len() * 2),
            members: Vec::new(),
        };
        for pid in pids {
            match pidfd::open_process(*pid) {
                Ok(pidfd) => set.add(Source::Process { pid: *pid }, pidfd, PollFlags::IN)?,
                Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(set)
    }

    /// Adds the waits of the threads of `pid`. Returns the descriptors that cannot be awaited.
    ///
    /// # Errors
    /// EMFILE if descriptors run out, EPERM if the process cannot be inspected.
    pub fn watch(
        &mut self,
        pid: i32,
        watches: &HashMap<i32, (PollFlags, &'static str)>,
        duplicates: &Duplicates<'_>,
    ) -> Result<Vec<i32>, Errno> {
        let mut numbers: Vec<i32> = watches.keys().copied().collect();
        for (number, _) in watches.iter().filter(|(_, (_, call))| is_epoll(call)) {
            let watched = process::all_watched_by_epoll(pid, *number, FEW);
            if watched.len() <= FEW {
                numbers.extend(watched);
            }
        }
        // Each descriptor is duplicated through the process in which the number is valid.
        let mut found = duplicates.all(pid, &numbers)?;
        self.members
            .extend(found.split_off(watches.len()).into_iter().flatten());
        let mut unwatchable = Vec::new();
        for (number, duplicate) in numbers.into_iter().zip(found) {
            let (events, call) = watches[&number];
            let duplicate = match duplicate {
                Ok(duplicate) => duplicate,
                // The descriptor was closed while the thread is blocked: the thread goes on waiting
                // for a file that no number names any more.
                Err(Errno::EBADF) => {
                    unwatchable.push(number);
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            let watch = Watch { number, events };
            match self.add(Source::Descriptor { pid, watch, call }, duplicate, events) {
                Ok(()) => {}
                // The file cannot be polled, or the epoll instance is too deeply nested.
                Err(Errno::EPERM | Errno::ELOOP | Errno::EINVAL) => unwatchable.push(number),
                Err(errno) => return Err(errno),
            }
        }
        Ok(unwatchable)
    }

    /// Waits for a time of CLOCK_REALTIME, and for that clock being set (timerfd_create(2),
    /// TFD_TIMER_CANCEL_ON_SET).
    ///
    /// # Errors
    /// EMFILE if descriptors run out.
    pub fn watch_clock(&mut self, at: std::time::Duration) -> Result<(), Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags).map_err(errno_of)?;
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec::try_from(at).map_err(|_| Errno::EINVAL)?,
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&timer, flags, &value).map_err(errno_of)?;
        self.add(Source::Clock, timer, PollFlags::IN)
    }

    fn add(&mut self, source: Source, fd: OwnedFd, events: PollFlags) -> Result<(), Errno> {
        let data = EventData::new_u64(self.sources.len() as u64);
        // The flags of poll(2) and epoll_ctl(2) that have the same name have the same value
        // (include/uapi/linux/eventpoll.h).
        let flags = EventFlags::from_bits_retain(u32::from(events.bits()));
        epoll::add(&self.epoll, &fd, data, flags).map_err(errno_of)?;
        self.sources.push((source, fd));
        Ok(())
    }

    /// Returns the ready sources, without waiting.
    pub fn ready(&self) -> Vec<Source> {
        let mut events = Vec::with_capacity(BATCH);
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&AT_ONCE)).is_err() {
            return Vec::new();
        }
        let of = |event: &epoll::Event| {
            let position = usize::try_from({ event.data }.u64()).ok()?;
            self.sources.get(position).map(|(source, _)| *source)
        };
        events.iter().filter_map(of).collect()
    }

    /// All sources of a wake.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        self.sources.iter().map(|(source, fd)| (*source, fd.as_fd()))
    }

    /// The cause of a wake: the ready descriptor itself or, for an epoll instance that watches few
    /// descriptors, a ready member.
    pub fn culprit(&self, ready: Source) -> Option<Culprit> {
        let Source::Descriptor { call, .. } = ready else {
            return None;
        };
        if !is_epoll(call) {
            let (_, fd) = self.sources.iter().find(|(source, _)| *source == ready)?;
            return Some(Culprit::of(fd.as_fd()));
        }
        // A writable member has mostly been writable all the time.
        let incoming = PollFlags::IN | PollFlags::PRI | PollFlags::RDHUP;
        [incoming, PollFlags::OUT].into_iter().find_map(|events| {
            let mut polled: Vec<_> = self
                .members
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), events))
                .collect();
            poll(&mut polled, Some(&AT_ONCE)).ok()?;
            let ready = polled
                .iter()
                .zip(&self.members)
                .filter(|(fd, _)| !fd.revents().is_empty());
            // A nested epoll instance that is ready has a ready member, which is reported instead.
            let mut culprits = ready.map(|(_, fd)| Culprit::of(fd.as_fd())).collect::<Vec<_>>();
            culprits.sort_by_key(|culprit| *culprit == Culprit::Epoll);
            culprits.first().copied()
        })
    }
}

/// True if a call waits for an epoll instance, which does not show the member that became ready.
pub fn is_epoll(call: &str) -> bool {
    call.starts_with("epoll")
}

/// The kind of descriptor that became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// An Internet socket.
    Socket(SocketSource),
    /// A timerfd.
    Timer,
    /// An epoll instance inside the awaited epoll instance.
    Epoll,
    /// Something else.
    Other,
}

impl Culprit {
    fn of(fd: BorrowedFd<'_>) -> Self {
        match SocketSource::of(fd) {
            Some(socket) => Self::Socket(socket),
            None if process::is_anonymous(fd, "timerfd") => Self::Timer,
            None if process::is_anonymous(fd, "eventpoll") => Self::Epoll,
            None => Self::Other,
        }
    }
}

impl AsFd for WaitSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// The role of a socket for a thread that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketSource {
    /// A listener at this address.
    Listener(SocketAddr),
    /// A connected socket.
    Connection {
        /// The local address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
    },
    /// A socket that was connected, and was reset.
    Reset(SocketAddr),
    /// Datagrams come here.
    Datagrams {
        /// The local address.
        local: SocketAddr,
        /// The sender of the first datagram in the queue.
        from: Option<SocketAddr>,
    },
}

impl SocketSource {
    /// The role of a descriptor; `None` if the descriptor is no Internet socket.
    pub fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let local = socket::local_address(fd)?;
        if let Ok(Some(peer)) = socket::peer_address(fd) {
            return Some(Self::Connection { local, peer });
        }
        match rustix::net::sockopt::socket_type(fd).ok()? {
            rustix::net::SocketType::DGRAM => Some(Self::Datagrams {
                local,
                from: socket::sender(fd),
            }),
            _ if rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false) => Some(Self::Listener(local)),
            _ => Some(Self::Reset(local)),
        }
    }
}
