//! A life whose program sleeps: decided and done by its supervisor, which says so afterwards.

use std::time::Instant;

use imsup_wire::{Awaited, Cause, CauseKind};

use super::{Life, Phase};
use crate::{Action, Answer, Hope, Want};

impl Life {
    pub(super) fn suspended(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A host sleeps when its start is over as far as anybody waits for it.
        self.ready(now, actions);
        self.set_asleep(true);
        if self.awaited() == Awaited::Expected {
            // Somebody came while it fell asleep.
            let cause = self.waiters.first().map(|waiter| waiter.cause.clone());
            let cause = cause.or_else(|| self.cause().cloned());
            // Of a host that was taken up from another broker nobody knows whose connection that is.
            actions.push(Action::Resume(cause.unwrap_or(Cause {
                kind: CauseKind::Connection,
                by: None,
                port: None,
            })));
        } else if self.start.quiet {
            // Nothing of its own will make it run, so it opens no more ports.
            self.refuse_up_to(Hope::Asked, actions);
        }
    }

    pub(super) fn woke(&mut self, actions: &mut Vec<Action>) {
        // Whoever waits for a host that is being ended waits for its next boot.
        if self.set_asleep(false) && !self.stopping {
            self.answer(|waiter| (waiter.want == Want::Ready).then_some(Answer::Ready), actions);
        }
    }

    pub(super) fn not_woken(&mut self, why: String, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Running { asleep: true, .. }) && !self.stopping {
            self.detail = Some(why.into_boxed_str());
            self.answer(|waiter| (waiter.want == Want::Ready).then_some(Answer::Failed), actions);
        }
    }

    /// As a stop from inside: its end is no failure, and those who come meanwhile are kept for the next boot.
    pub(super) fn terminating(&mut self) {
        if self.set_asleep(false) {
            self.stopping = true;
            self.terminated = true;
        }
    }

    /// False where no program runs.
    fn set_asleep(&mut self, value: bool) -> bool {
        match &mut self.phase {
            Phase::Running { asleep, .. } => {
                *asleep = value;
                true
            }
            _ => false,
        }
    }
}
