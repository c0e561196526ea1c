//! What it is time for on the receive loop.

use std::time::Instant;

use imsup_linux::memory_watch::MemoryWatch;
use imsup_protocol::ToBroker;
use nix::sys::signal::Signal;

use super::Loop;
use crate::host::{Descriptors, closed_listeners};
use crate::sleep::Circumstances;
use crate::{init, pending};

impl Loop {
    pub(super) fn on_time(&mut self) {
        let now = Instant::now();
        if !self.pending.is_empty() && now >= self.next_tick {
            self.look_for_next_broker();
            self.look_at_pending(now);
            self.accepts_wait = false;
            self.next_tick = Instant::now() + pending::tick(self.pending.len());
        }
        self.watchdog.end();
        self.watchdog.rest(now);
        let circumstances = self.circumstances();
        self.sleep.on_time(&mut self.host, &circumstances);
        if let Some((signal, grace)) = self.sleep.take_ending() {
            self.stop(signal, grace);
        }
        self.host.handovers.look();
        if self.closed_listeners_due().is_some_and(|at| now >= at) && closed_listeners::on_time(&mut self.host, now) {
            self.go_on_with_vetted();
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.killed = true;
            init::signal(self.main, Signal::SIGKILL);
        }
        if self
            .memory
            .as_ref()
            .and_then(MemoryWatch::due)
            .is_some_and(|at| now >= at)
        {
            self.look_at_memory();
        }
        if self.settles_at().is_some_and(|at| now >= at) {
            self.host.start.settled = true;
            self.host.link.send(&ToBroker::Settled, Vec::new());
        }
        if self.reconnect.next_try().is_some() {
            let _ = self.reconnect.try_now(&mut self.host, &self.sleep);
        }
    }

    pub(super) fn circumstances(&self) -> Circumstances {
        let accepts = self
            .pending
            .values()
            .filter(|pending| pending.accepts_from().is_some())
            .count();
        Circumstances {
            pending_calls: self.pending.len() - accepts,
            handing_over: accepts > 0,
            stopping: self.kill_at.is_some(),
        }
    }

    /// The time of the next look at the program's sockets.
    fn closed_listeners_due(&self) -> Option<Instant> {
        if !self.may_close() {
            return None;
        }
        let mirror = match &self.host.descriptors {
            Descriptors::Mirrored(mirror) => mirror.due(),
            Descriptors::Duplicated(_) => None,
        };
        let all = [self.host.closed_listeners.due(&self.host.retained), mirror];
        all.into_iter().flatten().min()
    }

    /// True if the program can close sockets. False while the program is suspended, and just after
    /// a wake, when there is no time to look.
    pub(super) fn may_close(&self) -> bool {
        self.sleep.suspended_us().is_none() && !self.sleep.is_waking() && self.ended().is_none()
    }

    fn settles_at(&self) -> Option<Instant> {
        let is_awaited = self.sleep.is_awaited();
        let has_ports = self.host.retained.count() > 0;
        self.host
            .start
            .settles_at(self.host.hold_timeout, is_awaited, has_ports)
    }

    /// When [`Self::on_time`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let tick = (!self.pending.is_empty()).then_some(self.next_tick);
        [
            tick,
            self.kill_at,
            self.settles_at(),
            self.reconnect.next_try(),
            self.sleep.due(),
            self.watchdog.due(),
            self.closed_listeners_due(),
            self.host.handovers.due(),
            self.memory.as_ref().and_then(MemoryWatch::due),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
