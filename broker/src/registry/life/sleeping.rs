//! A life whose program sleeps: decided and done by its supervisor, which says so afterwards.

use std::time::Instant;

use super::{Life, Phase};
use crate::registry::{Action, Answer, Want};

impl Life {
    pub(super) fn suspended(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // Only a host whose start is over sleeps.
        if matches!(self.phase, Phase::Booting { .. }) {
            self.settle(now, actions);
        }
        self.set_asleep(true);
    }

    pub(super) fn woke(&mut self, actions: &mut Vec<Action>) {
        // Whoever waits for a host that is being ended waits for its next boot.
        if self.set_asleep(false) && !self.stopping {
            self.answer(|want| (want == Want::Ready).then_some(Answer::Ready), actions);
        }
    }

    pub(super) fn not_woken(&mut self, why: String, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Running { asleep: true, .. }) && !self.stopping {
            self.detail = Some(why.into_boxed_str());
            self.answer(|want| (want == Want::Ready).then_some(Answer::Failed), actions);
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
