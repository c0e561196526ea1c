//! The program's sockets where its descriptors may not be duplicated (pidfd_getfd(2) is refused).
//!
//! The supervisor makes the sockets itself (socket(2) is trapped then), gives them to the program, and keeps a copy of each, found again by
//! the inode that /proc/TID/fd/N names. A copy is an open descriptor, so it would delay a FIN and hold a port: it is given up as soon as
//! the socket is connected or listens, and a sweep gives up those that no process of the program holds any more. There is one now and then, too, since epoll
//! tells the program of what it has closed as long as a copy is open.
//! What was known of a socket then is remembered, for getsockname(2) and getpeername(2).

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_linux::socket::{self, InetSocket};
use imsup_linux::{cpu, holders};

/// Copies below which no sweep is worth its cost.
const FEW: usize = 64;

/// Descriptors of the program that a sweep may read for each copy made since the last.
const READS_PER_COPY: usize = 8;

/// Copies beyond which even those are given up that a process may hold which cannot be inspected.
const MOST: usize = 4096;

/// How long after a socket was made, or copies were given up, [`Copies::tidy`] looks; and how long at most while it finds nothing to give up.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Looks take a thousandth of a processor at most.
const SHARE: u32 = 1000;

/// Sockets remembered without a copy.
const REMEMBERED: usize = 4096;

/// What was known of a socket when its copy was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its cookie, by which what the program asked for it is found.
    pub cookie: u64,
    /// Its own address; port 0 where the kernel had not chosen one yet.
    pub local: SocketAddr,
    /// Its peer, where it had one.
    pub peer: Option<SocketAddr>,
}

/// Copies of the program's sockets, by inode.
#[derive(Debug, Default)]
pub struct Copies {
    held: HashMap<u64, OwnedFd>,
    sweep_at: usize,
    remembered: HashMap<u64, Remembered>,
    oldest_first: VecDeque<u64>,
    /// Those that no process held at the last look: they are closed, or on their way between two processes.
    missed: HashSet<u64>,
    /// When to look next, how long after that once more, and before when there is no time for it.
    look_at: Option<Instant>,
    pause: Duration,
    rests_until: Option<Instant>,
    /// Whether any socket was bound to an address that its program sees as 127.0.0.1 or ::1.
    pub bound_to_localhost: bool,
}

impl Copies {
    /// Keeps a socket that was made for the program.
    pub fn keep(&mut self, inode: u64, socket: OwnedFd) {
        self.held.insert(inode, socket);
        self.look_soon(Instant::now());
        if self.held.len() > self.sweep_at.max(FEW) {
            self.sweep();
        }
    }

    /// The copy of a socket.
    pub fn get(&self, inode: u64) -> Option<&OwnedFd> {
        self.held.get(&inode)
    }

    /// Gives the copy of a socket up, and remembers what is known of it.
    pub fn give_up(&mut self, inode: u64) {
        let Some(copy) = self.held.remove(&inode) else { return };
        let socket = copy.as_fd();
        let (Some(kind), Ok(cookie)) = (InetSocket::inspect(socket), socket::cookie(socket)) else {
            return;
        };
        let remembered = Remembered {
            cookie,
            local: kind.local,
            peer: socket::peer_address(socket).ok().flatten(),
        };
        self.remember(inode, remembered);
    }

    /// Remembers what is known of a socket that there is no copy of.
    pub fn remember(&mut self, inode: u64, remembered: Remembered) {
        if self.remembered.insert(inode, remembered).is_none() {
            self.oldest_first.push_back(inode);
        }
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.remembered.remove(&oldest);
        }
    }

    /// What is known of a socket whose copy was given up.
    pub fn remembered(&self, inode: u64) -> Option<Remembered> {
        self.remembered.get(&inode).copied()
    }

    /// Before `port` is bound: gives up copies that only we hold and that hold it.
    pub fn make_way(&mut self, inode: u64, port: u16) {
        let holds = |copy: &OwnedFd| socket::local_address(copy.as_fd()).is_some_and(|local| local.port() == port);
        let in_the_way = self.held.iter().any(|(other, copy)| *other != inode && holds(copy));
        if port == 0 || !in_the_way {
            return;
        }
        let found = holders::sockets_held();
        // A process that cannot be inspected may hold one, and has nothing from our copy as long as it is so.
        self.held.retain(|other, copy| {
            *other == inode || found.sockets.contains(other) || (!found.all_seen && !holds(copy))
        });
    }

    fn look_soon(&mut self, now: Instant) {
        let at = (now + FIRST_LOOK).max(self.rests_until.unwrap_or(now));
        self.look_at = Some(self.look_at.map_or(at, |look_at| look_at.min(at)));
        self.pause = FIRST_LOOK;
    }

    /// When [`Copies::tidy`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        self.look_at.filter(|_| !self.held.is_empty())
    }

    /// Looks, if it is time, for copies of sockets that no process holds, and gives those up that none held at the last look either.
    pub fn tidy(&mut self, now: Instant) {
        if self.due().is_none_or(|at| at > now) {
            return;
        }
        let began = cpu::own_thread();
        let found = holders::sockets_held();
        let was_missed = std::mem::take(&mut self.missed);
        if found.all_seen {
            self.held
                .retain(|inode, _| found.sockets.contains(inode) || !was_missed.contains(inode));
            let missed = self.held.keys().filter(|inode| !found.sockets.contains(inode));
            self.missed = missed.copied().collect();
        }
        let cost = cpu::own_thread().saturating_sub(began);
        let changes = !(was_missed.is_empty() && self.missed.is_empty());
        self.pause = if changes {
            FIRST_LOOK
        } else {
            (self.pause * 2).min(LAST_LOOK)
        };
        let rests_until = now + cost * SHARE;
        self.rests_until = Some(rests_until);
        self.look_at = Some(rests_until.max(now + self.pause));
    }

    /// Gives up the copies of sockets that no process of the program holds. One that is on its way between two of them (SCM_RIGHTS) counts
    /// as not held: it is the kernel's from then on.
    pub fn sweep(&mut self) {
        let found = holders::sockets_held();
        if found.all_seen || self.held.len() > MOST {
            self.held.retain(|inode, _| found.sockets.contains(inode));
        }
        self.sweep_at = self.held.len() + FEW.max(found.descriptors / READS_PER_COPY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn what_was_given_up_is_remembered() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let inode = socket::inode(socket.as_fd()).unwrap();
        let mut copies = Copies::default();
        copies.keep(inode, socket.into());
        assert!(copies.get(inode).is_some() && copies.remembered(inode).is_none());
        copies.give_up(inode);
        assert!(copies.get(inode).is_none(), "it would delay a FIN");
        let remembered = copies.remembered(inode).unwrap();
        assert_eq!((remembered.local, remembered.peer), (local, None));
        UdpSocket::bind(local).expect("nobody holds the port");
    }

    #[test]
    fn a_sweep_gives_up_what_nobody_holds() {
        let mut copies = Copies::default();
        let sockets: Vec<_> = (0..=FEW).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let local = sockets[0].local_addr().unwrap();
        for (inode, socket) in (1..).zip(sockets) {
            copies.keep(inode, socket.into());
        }
        assert!(copies.held.is_empty(), "no child of this process holds any");
        UdpSocket::bind(local).expect("nobody holds the port");
    }

    #[test]
    fn a_port_is_given_up_before_it_is_bound() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let mut copies = Copies::default();
        copies.keep(1, socket.into());
        copies.make_way(2, local.port() ^ 1);
        copies.make_way(1, local.port());
        assert!(copies.get(1).is_some(), "not in the way");
        copies.make_way(2, local.port());
        UdpSocket::bind(local).expect("nobody holds the port");
    }
}
