//! What a life does by itself after an end that nobody asked for: `restart`, and `keep_awake` where the file says nothing of that.

use std::time::{Duration, Instant};

use imsup_wire::{Cause, CauseKind, EventKind, ExitStatus};

use super::{Life, Phase, kept_awake};
use crate::registry::{Action, FIRST_DELAY, Revive};

impl Life {
    /// Whether it may be booted by itself once more.
    pub(super) fn revives(&self) -> bool {
        let most = self.policy.restart.and_then(|restart| restart.max_attempts);
        self.policy.revive != Revive::OnSignal && most.is_none_or(|most| self.attempts < most)
    }

    /// After what time it is booted again, having ended like this: at least `delay`. Says so where the compose file asks for it.
    pub(super) fn restart_after(
        &self,
        status: ExitStatus,
        delay: Duration,
        actions: &mut Vec<Action>,
    ) -> Option<Duration> {
        let asked = match self.policy.revive {
            Revive::OnSignal => false,
            Revive::AfterFailure => status != ExitStatus::Code(0),
            Revive::Always => true,
        };
        if !asked || self.retired || !self.revives() {
            return None;
        }
        let Some(restart) = self.policy.restart else {
            return Some(delay);
        };
        let wait = delay.max(restart.delay);
        let detail = restart
            .max_attempts
            .map(|most| format!("attempt {} of {most}", self.attempts + 1));
        actions.push(Action::Emit {
            kind: EventKind::Restart,
            duration: Some(wait),
            detail,
        });
        Some(wait)
    }

    /// A run that was long enough, or was ended on purpose, begins a new row of attempts.
    pub(super) fn end_row(&mut self, ran: Duration, wanted_end: bool) {
        let window = self.policy.restart.and_then(|restart| restart.window);
        if wanted_end || window.is_some_and(|window| ran >= window) {
            self.attempts = 0;
        }
    }

    /// Nobody saw how it ended, so that is no success.
    pub(super) fn ended_unseen(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Imaginary { restart_at: None }) {
            let wait = self.restart_after(ExitStatus::Lost, FIRST_DELAY, actions);
            self.phase = Phase::Imaginary {
                restart_at: wait.map(|wait| now + wait),
            };
        }
    }

    /// When it is booted by itself, where it is.
    pub fn restarts_at(&self) -> Option<Instant> {
        match self.phase {
            _ if self.retired || self.policy.restart.is_none() => None,
            Phase::Imaginary { restart_at } => restart_at,
            Phase::Failed { retry_at } => Some(retry_at).filter(|_| self.revives()),
            Phase::Booting { .. } | Phase::Running { .. } => None,
        }
    }

    /// The cause of a boot that nobody has asked for.
    pub(super) fn own_cause(&self) -> Cause {
        match self.policy.restart {
            None => kept_awake(),
            Some(_) => Cause {
                kind: CauseKind::Wake,
                by: Some("restart".to_owned()),
                port: None,
            },
        }
    }
}
