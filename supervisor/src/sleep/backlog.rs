//! The backlogs of a host's listeners: the system's maximum while the host sleeps and while many
//! connections wait, else the program's own backlog.
//!
//! `http.server` asks for a backlog of 5. Of 300 clients that connect at once while the host
//! sleeps, 6 would get into the accept queue. The others would try again after seconds, by
//! retransmission (measured, DESIGN section 4).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::sockets::Retained;
use imsup_linux::{socket, takeover};

/// More than the kernel grants: the kernel takes net.core.somaxconn instead (listen(2)).
const FULL: i32 = i32::MAX;

/// The pause after a wake before the accept queues are checked: a crowd of clients takes time to
/// arrive.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether backlogs are to be given back.
#[derive(Debug, Default)]
pub struct Backlogs {
    restore_at: Option<Instant>,
}

impl Backlogs {
    /// Raises every backlog to the maximum.
    pub fn widen(&mut self, retained: &Retained) {
        self.restore_at = None;
        for (_, listener, _) in retained.listeners() {
            // A listener that the program shut down stays shut down.
            if takeover::accept_queue(listener.as_fd()).is_ok() {
                let _ = socket::listen(listener.as_fd(), FULL);
            }
        }
    }

    /// Plans the return to the program's own backlogs: the program runs, and accepts the waiting
    /// connections.
    pub fn narrow_later(&mut self, now: Instant) {
        self.restore_at.get_or_insert(now + PAUSE);
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.restore_at
    }

    /// Restores the program's own backlog for each listener whose waiting connections fit into that
    /// backlog.
    pub fn narrow(&mut self, retained: &Retained, now: Instant) {
        if self.restore_at.is_none_or(|at| at > now) {
            return;
        }
        let mut crowded = false;
        for (_, listener, own) in retained.listeners() {
            let Ok((waiting, backlog)) = takeover::accept_queue(listener.as_fd()) else {
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
