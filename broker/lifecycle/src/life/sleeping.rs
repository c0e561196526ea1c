//! A life whose program sleeps. The supervisor decides and acts, and reports afterwards.

use std::time::Instant;

use imsup_wire::{Awaited, Cause, CauseKind};

use super::{Life, Phase};
use crate::{Action, Answer, Hope, Want};

impl Life {
    pub(super) fn suspended(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A host can sleep when its start is over for every waiting caller.
        self.ready(now, actions);
        self.set_asleep(true);
        if self.awaited() == Awaited::Expected {
            // A caller came while the host fell asleep.
            let cause = self.waiters.first().map(|waiter| waiter.cause.clone());
            let cause = cause.or_else(|| self.cause().cloned());
            // For a host adopted from another broker the sender of that connection is unknown.
            actions.push(Action::Resume(cause.unwrap_or(Cause {
                kind: CauseKind::Connection,
                by: None,
                port: None,
            })));
        } else if self.start.quiet {
            // No timer of the program's own will make it run, so it opens no more ports.
            self.refuse_up_to(Hope::Asked, actions);
        }
    }

    pub(super) fn woke(&mut self, actions: &mut Vec<Action>) {
        // A caller of a host that is being ended waits for the next boot.
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

    /// Like a stop from inside: the end is no failure, and callers that come meanwhile are kept for
    /// the next boot.
    pub(super) fn terminating(&mut self) {
        if self.set_asleep(false) {
            self.stopping = true;
            self.terminated = true;
        }
    }

    /// False if no program runs.
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
