//! Listeners that a program has closed while it goes on running.
//!
//! close(2) is not trapped, and imsup's duplicates keep the socket open: clients would go on queueing, where natively nobody listens. So it is
//! looked now and then whether any process still has the socket; where none has for a while, it is made to listen no more. A bind gets it back as ever,
//! and when the program ends the broker listens on it again, for the next boot.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;

use crate::kernel::holders::{self, Holder};
use crate::kernel::{process, socket};
use crate::sockets::Retained;

/// How often it is looked, and for how long a socket must have been nobody's: programs close a listener and bind it again, and descriptors are passed on.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the program's listeners are.
#[derive(Debug)]
pub struct Doors {
    next: Instant,
    /// The process and the descriptor that each listener was found at, by inode: one look-up tells that it is still there.
    seen: HashMap<u64, (i32, i32)>,
    /// Since when nobody has a listener.
    nobody_since: HashMap<u64, Instant>,
    /// When it was last found that no process of the machine has it: a walk over all of them is not for every connect.
    nowhere_at: HashMap<u64, Instant>,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            next: Instant::now(),
            seen: HashMap::new(),
            nobody_since: HashMap::new(),
            nowhere_at: HashMap::new(),
        }
    }
}

impl Doors {
    /// When to look; never where there is nothing to look at.
    pub fn due(&self, retained: &Retained) -> Option<Instant> {
        retained.tcp_inodes().next().map(|_| self.next)
    }

    /// Looks, where it is time, and closes what nobody has.
    pub fn look(&mut self, retained: &mut Retained) {
        let now = Instant::now();
        if self.next > now {
            return;
        }
        self.next = now + PAUSE;
        let listeners: Vec<(Endpoint, u64)> = retained.tcp_inodes().collect();
        self.seen
            .retain(|inode, _| listeners.iter().any(|(_, known)| known == inode));
        self.nobody_since
            .retain(|inode, _| listeners.iter().any(|(_, known)| known == inode));
        self.nowhere_at.retain(|_, at| at.elapsed() < PAUSE);
        for (endpoint, inode) in listeners {
            if self.is_held(inode) {
                self.nobody_since.remove(&inode);
            } else if now.duration_since(*self.nobody_since.entry(inode).or_insert(now)) >= PAUSE
                && !holders::is_anywhere(inode)
                && let Some(listener) = retained.close(endpoint, inode)
            {
                tracing::debug!(%endpoint, "the program has closed a listener: nobody listens there any more");
                if let Err(errno) = socket::stop_listening(listener.as_fd()) {
                    tracing::warn!(%endpoint, %errno, "a listener that the program has closed goes on queueing");
                }
            }
        }
    }

    /// Whether all listeners at an endpoint of this host are nobody's: a connect is refused there, even if it was a moment ago that they were closed.
    pub fn is_closed(&mut self, retained: &Retained, endpoint: Endpoint) -> bool {
        let inodes: Vec<u64> = retained
            .tcp_inodes()
            .filter_map(|(at, inode)| (at == endpoint).then_some(inode))
            .collect();
        !inodes.is_empty()
            && inodes
                .into_iter()
                .all(|inode| !self.is_held(inode) && self.is_nowhere(inode))
    }

    /// Whether no process of the machine has the socket, or had it a moment ago.
    fn is_nowhere(&mut self, inode: u64) -> bool {
        if self.nowhere_at.get(&inode).is_some_and(|at| at.elapsed() < PAUSE) {
            return true;
        }
        let nowhere = !holders::is_anywhere(inode);
        if nowhere {
            self.nowhere_at.insert(inode, Instant::now());
        }
        nowhere
    }

    /// Whether a process of the host has the socket, or may have it.
    fn is_held(&mut self, inode: u64) -> bool {
        if self
            .seen
            .get(&inode)
            .is_some_and(|(pid, number)| holders::is_at(*pid, *number, inode))
        {
            return true;
        }
        match holders::find(inode, &process::descendants()) {
            Holder::At { pid, number } => {
                self.seen.insert(inode, (pid, number));
                true
            }
            Holder::Unknown => true,
            Holder::Nobody => false,
        }
    }
}
