//! The socket mirror: used if duplication of the program's descriptors is refused (pidfd_getfd(2)).
//!
//! The supervisor makes the sockets itself (socket(2) is trapped then), gives each socket to the
//! program, and keeps a copy. The copy is found again by the inode that /proc/TID/fd/N names. A
//! copy is an open descriptor, so the copy would delay a FIN and hold a port. A copy is therefore
//! given up as soon as the socket is connected or listens. A sweep gives up the copies that no
//! process of the program holds any more. Sweeps also happen at intervals, since epoll reports a
//! closed socket to the program as long as a copy is open. The state of the socket at that time is
//! remembered, for getsockname(2) and getpeername(2).

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_linux::socket::{self, InetSocket};
use imsup_linux::{cpu, holders};

/// The number of copies below which a sweep is not worth its cost.
const FEW: usize = 64;

/// Descriptors of the program that a sweep may read for each copy made since the last.
const READS_PER_COPY: usize = 8;

/// Above this number of copies, a sweep also gives up copies that an uninspectable process may
/// hold.
const MOST: usize = 4096;

/// The delay before [`SocketMirror::tidy`] looks, after a socket was made or copies were given up;
/// then the longest delay, while the looks find no copy to give up.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Looks take a thousandth of a processor at most.
const SHARE: u32 = 1000;

/// Sockets remembered without a copy.
const REMEMBERED: usize = 4096;

/// The state of a socket at the time its copy was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The socket's cookie, the key of the program's requests for the socket.
    pub cookie: u64,
    /// The socket's own address; port 0 if the kernel had not chosen a port yet.
    pub local: SocketAddr,
    /// The socket's peer, if there was a peer.
    pub peer: Option<SocketAddr>,
}

/// Copies of the program's sockets, by inode.
#[derive(Debug, Default)]
pub struct SocketMirror {
    sockets: HashMap<u64, OwnedFd>,
    sweep_at: usize,
    remembered: HashMap<u64, Remembered>,
    oldest_first: VecDeque<u64>,
    /// Sockets that no process held at the last look: closed, or on the way between two processes.
    missed: HashSet<u64>,
    /// The time of the next look, the pause after that look, and the end of a rest without time for
    /// looks.
    look_at: Option<Instant>,
    pause: Duration,
    rests_until: Option<Instant>,
    /// True if any socket was bound to an address that its program sees as 127.0.0.1 or ::1.
    pub bound_to_localhost: bool,
}

impl SocketMirror {
    /// Keeps a socket that was made for the program.
    pub fn keep(&mut self, inode: u64, socket: OwnedFd) {
        self.sockets.insert(inode, socket);
        self.look_soon(Instant::now());
        if self.sockets.len() > self.sweep_at.max(FEW) {
            self.sweep();
        }
    }

    /// The copy of a socket.
    pub fn get(&self, inode: u64) -> Option<&OwnedFd> {
        self.sockets.get(&inode)
    }

    /// Gives up the copy of a socket, and remembers the socket's state.
    pub fn give_up(&mut self, inode: u64) {
        let Some(copy) = self.sockets.remove(&inode) else {
            return;
        };
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

    /// Remembers the state of a socket without a copy.
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

    /// The state of a socket that no longer has a copy.
    pub fn remembered(&self, inode: u64) -> Option<Remembered> {
        self.remembered.get(&inode).copied()
    }

    /// To be called before a bind of `port`: gives up copies that only imsup holds and that occupy
    /// the port.
    pub fn make_way(&mut self, inode: u64, port: u16) {
        let holds = |copy: &OwnedFd| socket::local_address(copy.as_fd()).is_some_and(|local| local.port() == port);
        let in_the_way = self.sockets.iter().any(|(other, copy)| *other != inode && holds(copy));
        if port == 0 || !in_the_way {
            return;
        }
        let found = holders::descendant_sockets();
        // An uninspectable process may hold a socket at the port. Our copy does not help that
        // process as long as inspection fails.
        self.sockets.retain(|other, copy| {
            *other == inode || found.sockets.contains(other) || (!found.all_seen && !holds(copy))
        });
    }

    fn look_soon(&mut self, now: Instant) {
        let at = (now + FIRST_LOOK).max(self.rests_until.unwrap_or(now));
        self.look_at = Some(self.look_at.map_or(at, |look_at| look_at.min(at)));
        self.pause = FIRST_LOOK;
    }

    /// When [`SocketMirror::tidy`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        self.look_at.filter(|_| !self.sockets.is_empty())
    }

    /// Looks, if due, for copies of sockets that no process holds. Gives up the copies of sockets
    /// that no process held at the last look either.
    pub fn tidy(&mut self, now: Instant) {
        if self.due().is_none_or(|at| at > now) {
            return;
        }
        let began = cpu::own_thread();
        let found = holders::descendant_sockets();
        let was_missed = std::mem::take(&mut self.missed);
        if found.all_seen {
            self.sockets
                .retain(|inode, _| found.sockets.contains(inode) || !was_missed.contains(inode));
            let missed = self.sockets.keys().filter(|inode| !found.sockets.contains(inode));
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

    /// Gives up the copies of sockets that no process of the program holds. A socket on the way
    /// between two processes (SCM_RIGHTS) counts as not held: from then on the kernel handles that
    /// socket natively.
    pub fn sweep(&mut self) {
        let found = holders::descendant_sockets();
        if found.all_seen || self.sockets.len() > MOST {
            self.sockets.retain(|inode, _| found.sockets.contains(inode));
        }
        self.sweep_at = self.sockets.len() + FEW.max(found.descriptors / READS_PER_COPY);
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
        let mut mirror = SocketMirror::default();
        mirror.keep(inode, socket.into());
        assert!(mirror.get(inode).is_some() && mirror.remembered(inode).is_none());
        mirror.give_up(inode);
        assert!(mirror.get(inode).is_none(), "it would delay a FIN");
        let remembered = mirror.remembered(inode).unwrap();
        assert_eq!((remembered.local, remembered.peer), (local, None));
        UdpSocket::bind(local).expect("nobody holds the port");
    }

    #[test]
    fn a_sweep_gives_up_what_nobody_holds() {
        let mut mirror = SocketMirror::default();
        let sockets: Vec<_> = (0..=FEW).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let local = sockets[0].local_addr().unwrap();
        for (inode, socket) in (1..).zip(sockets) {
            mirror.keep(inode, socket.into());
        }
        assert!(mirror.sockets.is_empty(), "no child of this process holds any");
        UdpSocket::bind(local).expect("nobody holds the port");
    }

    #[test]
    fn a_port_is_given_up_before_it_is_bound() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let mut mirror = SocketMirror::default();
        mirror.keep(1, socket.into());
        mirror.make_way(2, local.port() ^ 1);
        mirror.make_way(1, local.port());
        assert!(mirror.get(1).is_some(), "not in the way");
        mirror.make_way(2, local.port());
        UdpSocket::bind(local).expect("nobody holds the port");
    }
}
