//! The backlogs of a host's listeners: the system's full one while it sleeps and while a crowd stands at the door, else the program's own.
//!
//! `http.server` asks for 5: of 300 clients that connect at once to it while it sleeps, 6 would be let in, and the others would try again after
//! seconds, by retransmission (measured, DESIGN section 4).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::sockets::Retained;
use imsup_linux::{socket, succession};

/// More than the kernel gives: it takes net.core.somaxconn instead (listen(2)).
const FULL: i32 = i32::MAX;

/// How long after a wake the queues are looked at: a crowd takes its time to come.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether backlogs are to be given back.
#[derive(Debug, Default)]
pub struct Backlogs {
    restore_at: Option<Instant>,
}

impl Backlogs {
    /// Opens the door wide.
    pub fn widen(&mut self, retained: &Retained) {
        self.restore_at = None;
        for (_, listener, _) in retained.listeners() {
            // One that the program shut down stays so.
            if succession::accept_queue(listener.as_fd()).is_ok() {
                let _ = socket::listen(listener.as_fd(), FULL);
            }
        }
    }

    /// The program runs, and takes who stands at the door.
    pub fn narrow_later(&mut self, now: Instant) {
        self.restore_at.get_or_insert(now + PAUSE);
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.restore_at
    }

    /// Gives the program its own backlog back wherever no more stand at the door than that lets in.
    pub fn narrow(&mut self, retained: &Retained, now: Instant) {
        if self.restore_at.is_none_or(|at| at > now) {
            return;
        }
        let mut crowded = false;
        for (_, listener, own) in retained.listeners() {
            let Ok((waiting, backlog)) = succession::accept_queue(listener.as_fd()) else {
                continue;
            };
            let own_count = u32::try_from(own).unwrap_or(u32::MAX);
            if backlog <= own_count {
                continue;
            }
            if waiting > own_count {
                crowded = true;
            } else {
                let _ = socket::listen(listener.as_fd(), own);
            }
        }
        self.restore_at = crowded.then(|| now + PAUSE);
    }
}
