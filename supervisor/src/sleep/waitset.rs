//! What a sleeper waits for, awaited in its place: duplicates of exactly the descriptors that its threads wait for.
//!
//! Duplicates of the program's own epoll instances are among them: an epoll instance is itself pollable, and polling it takes nothing
//! from the program, edge-triggered events included (the kernel suite pins that).

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

/// How many of those that are ready are looked at: one is enough to wake.
const BATCH: usize = 16;

/// An epoll instance that watches more is not asked what it was.
const FEW: usize = 64;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// One thing that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A descriptor of a process.
    Descriptor {
        /// The process.
        pid: i32,
        /// What of it.
        watch: Watch,
        /// The call that waits for it.
        call: &'static str,
    },
    /// The end of a process.
    Process {
        /// Which.
        pid: i32,
    },
    /// A time of CLOCK_REALTIME, or that somebody sets it.
    Clock,
}

/// Everything that is waited for.
#[derive(Debug)]
pub struct WaitSet {
    // Closed first: the registrations go with it, and the duplicates one by one after.
    epoll: OwnedFd,
    sources: Vec<(Source, OwnedFd)>,
    /// What small epoll instances watch: not waited for, but asked which it was.
    members: Vec<OwnedFd>,
}

impl WaitSet {
    /// Waits for the end of each of these processes, and for nothing else yet.
    ///
    /// # Errors
    /// EMFILE where descriptors run out.
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

    /// Waits for what the threads of `pid` wait for, too; says which descriptors nobody can wait for.
    ///
    /// # Errors
    /// EMFILE where descriptors run out, EPERM where the process cannot be inspected.
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
        // What has a number in a process is duplicated through that process.
        let mut found = duplicates.all(pid, &numbers)?;
        self.members
            .extend(found.split_off(watches.len()).into_iter().flatten());
        let mut unwatchable = Vec::new();
        for (number, duplicate) in numbers.into_iter().zip(found) {
            let (events, call) = watches[&number];
            let duplicate = match duplicate {
                Ok(duplicate) => duplicate,
                // Closed while its thread is blocked in it: the thread goes on waiting for what nobody can name any more.
                Err(Errno::EBADF) => {
                    unwatchable.push(number);
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            let watch = Watch { number, events };
            match self.add(Source::Descriptor { pid, watch, call }, duplicate, events) {
                Ok(()) => {}
                // What has no way to be waited for (a file), or is too deeply nested.
                Err(Errno::EPERM | Errno::ELOOP | Errno::EINVAL) => unwatchable.push(number),
                Err(errno) => return Err(errno),
            }
        }
        Ok(unwatchable)
    }

    /// Waits for a time of CLOCK_REALTIME, and for that clock being set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
    ///
    /// # Errors
    /// EMFILE where descriptors run out.
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
        // The flags of poll(2) and epoll_ctl(2) that have the same name have the same value (include/uapi/linux/eventpoll.h).
        let flags = EventFlags::from_bits_retain(u32::from(events.bits()));
        epoll::add(&self.epoll, &fd, data, flags).map_err(errno_of)?;
        self.sources.push((source, fd));
        Ok(())
    }

    /// What is ready, without waiting.
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

    /// Everything that is waited for.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        self.sources.iter().map(|(source, fd)| (*source, fd.as_fd()))
    }

    /// What it is that became ready: the descriptor itself, or, of an epoll instance that watches few, what is ready of those.
    pub fn culprit(&self, ready: Source) -> Option<Culprit> {
        let Source::Descriptor { call, .. } = ready else {
            return None;
        };
        if !is_epoll(call) {
            let (_, fd) = self.sources.iter().find(|(source, _)| *source == ready)?;
            return Some(Culprit::of(fd.as_fd()));
        }
        // What can be written to has been so all the time, mostly.
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
            // An epoll instance that is ready has something that is, which is told rather.
            let mut culprits = ready.map(|(_, fd)| Culprit::of(fd.as_fd())).collect::<Vec<_>>();
            culprits.sort_by_key(|culprit| *culprit == Culprit::Epoll);
            culprits.first().copied()
        })
    }
}

/// Whether a call waits for an epoll instance, which says nothing of what became ready in it.
pub fn is_epoll(call: &str) -> bool {
    call.starts_with("epoll")
}

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// An Internet socket.
    Socket(SocketSource),
    /// A timerfd.
    Timer,
    /// An epoll instance within the one that was waited for.
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

/// What a socket is to those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketSource {
    /// It listens here.
    Listener(SocketAddr),
    /// It is connected.
    Connection {
        /// Its own address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
    },
    /// It was connected: it was reset.
    Reset(SocketAddr),
    /// Datagrams come here.
    Datagrams {
        /// Its own address.
        local: SocketAddr,
        /// Who sent the first that waits.
        from: Option<SocketAddr>,
    },
}

impl SocketSource {
    /// What a descriptor is, where it is an Internet socket.
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
