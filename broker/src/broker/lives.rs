//! The hosts' lives: each is told what happened, and what it says is done.

mod queue;

use std::time::Instant;

use imsup_lifecycle::{Action, Answer, Input, WaiterId};
use imsup_wire::{EventKind, HostState};

use super::Broker;
use super::recording::is_caused;
use super::timers::Timer;
use crate::events::now_us;
use crate::ids::HostId;
use crate::journal::Happening;

pub(super) use self::queue::{Lives, Target};

impl Broker {
    /// Feeds an event to a host's life cycle, and carries out the resulting actions. Events that
    /// result from these actions are fed afterwards.
    pub(super) fn feed(&mut self, id: HostId, input: Input) {
        if !self.lives.queue(id, input) {
            return;
        }
        while let Some((id, input)) = self.lives.next_input() {
            if self.hosts.get(id).is_some() {
                let ended = matches!(input, Input::Ended { .. });
                if let Input::Ended { status, .. } = input {
                    self.note_completion(id, status);
                }
                self.step(id, input);
                if ended && !self.is_declared(id) {
                    self.remove_transient(id);
                }
            }
        }
    }

    fn step(&mut self, id: HostId, input: Input) {
        let (now, time_us) = (Instant::now(), now_us());
        let host = &mut self.hosts[id];
        let (was_absent, before) = (host.life().absent(), host.life().state());
        let actions = host.step(input, now, || self.clock.of_wall(time_us));
        let (mut emitted, mut unmet) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Boot => self.boot(id),
                Action::Stop => self.stop(id),
                Action::Resume(cause) => self.resume(id, cause),
                Action::Reclaim(after) => self.reclaim(id, after),
                Action::ResetQueued => self.reset_queued(id),
                Action::ResetAt(endpoint, count) => self.reset_at(id, endpoint, count),
                Action::CloseUnused { spare_declared } => self.close_unused(id, spare_declared),
                Action::Unmet(endpoints) => unmet.extend(endpoints),
                Action::Answer(waiter, answer) => self.answer(waiter, answer),
                Action::Emit { kind, duration, detail } => emitted.push(Happening {
                    duration,
                    detail,
                    ..Happening::at(time_us, kind)
                }),
            }
        }
        if emitted.iter().any(|happening| is_caused(happening.kind)) {
            self.name_sender(id);
        }
        if self.hosts[id].life().absent() && !was_absent {
            self.end_stop_groups();
        }
        let allocated = emitted.iter().any(|happening| happening.kind == EventKind::Allocate);
        for mut happening in emitted {
            if happening.kind == EventKind::Ready {
                happening.detail = happening.detail.or_else(|| self.unmet(id));
            }
            let happening = self.of_life(id, happening);
            self.record(id, happening);
        }
        if !unmet.is_empty() {
            self.say_unmet(id, time_us, &unmet);
        }
        self.tell_if_awaited(id);
        if allocated {
            self.boot_dependencies(id);
        }
        self.follow_health(id);
        if before != HostState::Suspended && self.awaits_health(id) {
            self.wake_needed(id);
        }
        self.prerequisite_changed(id);
        self.schedule(id, now);
    }

    pub(super) fn answer(&mut self, waiter: WaiterId, answer: Answer) {
        match self.lives.answered(waiter) {
            Some(Target::Reach { session, id, .. }) => self.answer_reach(session, id, answer),
            Some(Target::Client { session, host }) => self.answer_client(session, host, answer),
            None => {}
        }
    }

    /// Sets a timer for the host's next deadline, unless there is one that comes before it.
    fn schedule(&mut self, id: HostId, now: Instant) {
        if let Some(deadline) = self.hosts[id].schedule_tick(now) {
            self.timers.at(deadline, Timer::Tick(id));
        }
    }

    /// The moment of a host's deadline has come, unless another has taken its place.
    pub(super) fn tick(&mut self, id: HostId, due: Instant) {
        let Some(host) = self.hosts.get_mut(id) else { return };
        if host.take_tick(due) {
            self.feed(id, Input::Tick);
        }
    }

    /// Whether a host is of the cluster.
    pub(super) fn is_declared(&self, id: HostId) -> bool {
        self.hosts[id].is_declared()
    }

    /// True for a host that is started and not ready.
    pub(super) fn is_booting(&self, id: HostId) -> bool {
        let life = self.hosts[id].life();
        !life.absent() && !life.settled()
    }
}
