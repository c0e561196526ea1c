//! A life's own reaction to an end that no user asked for: `restart`, and `keep_awake` if the file
//! has no policy.

use std::time::{Duration, Instant};

use imsup_wire::{Cause, CauseKind, EventKind, ExitStatus};

use super::{Life, Phase, kept_awake};
use crate::{Action, FIRST_DELAY, Revive};

/// The named sender behind boots of `restart`.
const RESTART: &str = "restart";
/// The named sender behind an end that a user asked for.
const STOP: &str = "stop";

impl Life {
    /// Continues a row of attempts of an earlier broker. If the last run was over by now, this was
    /// its duration.
    pub fn recall_attempts(&mut self, attempts: u32, ran: Option<Duration>) {
        self.attempts = attempts;
        if let Some(ran) = ran {
            self.end_row(ran, false);
        }
    }

    /// Cancels a coming restart, if any, and records that, so that the next broker does not
    /// continue the row.
    pub(super) fn call_off_restart(&self, actions: &mut Vec<Action>) {
        let is_due = match self.phase {
            Phase::Imaginary { restart_at } => restart_at.is_some(),
            Phase::Failed { .. } => self.revives(),
            Phase::Booting { .. } | Phase::Running { .. } => false,
        };
        if is_due {
            actions.push(Action::Emit {
                kind: EventKind::Exit,
                duration: None,
                detail: Some("its restart was called off".to_owned()),
            });
        }
    }

    /// The cause of the last end: a user, or unknown.
    pub fn end_cause(&self) -> Option<Cause> {
        self.stopped.then(|| own(STOP))
    }

    /// True if the host may boot by itself once more.
    pub(super) fn revives(&self) -> bool {
        let most = self.policy.restart.and_then(|restart| restart.max_attempts);
        self.policy.revive != Revive::OnSignal && most.is_none_or(|most| self.attempts < most)
    }

    /// The delay before the next boot after this end: at least `delay`. Recorded if the compose
    /// file asks for the restart.
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
            .map(|most| attempt_detail(self.attempts.saturating_add(1), most));
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

    /// The end was not seen, so it counts as no success.
    pub(super) fn ended_unseen(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Imaginary { restart_at: None }) {
            let wait = self.restart_after(ExitStatus::Lost, FIRST_DELAY, actions);
            self.phase = Phase::Imaginary {
                restart_at: wait.map(|wait| now + wait),
            };
        }
    }

    /// The time of the boot by itself, if any.
    pub fn restarts_at(&self) -> Option<Instant> {
        match self.phase {
            _ if self.retired || self.policy.restart.is_none() => None,
            Phase::Imaginary { restart_at } => restart_at,
            Phase::Failed { retry_at } => Some(retry_at).filter(|_| self.revives()),
            Phase::Booting { .. } | Phase::Running { .. } => None,
        }
    }

    /// The cause of a boot that no client asked for.
    pub(super) fn own_cause(&self) -> Cause {
        match self.policy.restart {
            None => kept_awake(),
            Some(_) => own(RESTART),
        }
    }
}

fn own(by: &str) -> Cause {
    Cause {
        kind: CauseKind::Wake,
        by: Some(by.to_owned()),
        port: None,
    }
}

/// True if only `restart` asked for a boot.
pub fn is_restart(cause: &Cause) -> bool {
    *cause == own(RESTART)
}

/// Whether an end was a user's wish.
pub fn is_stop(cause: &Cause) -> bool {
    *cause == own(STOP)
}

fn attempt_detail(attempt: u32, most: u32) -> String {
    format!("attempt {attempt} of {most}")
}

/// The number of the attempt that an event `restart` with this detail announces; 0 if attempts are
/// not counted.
pub fn attempt_of(detail: Option<&str>) -> u32 {
    let attempt = || detail?.strip_prefix("attempt ")?.split_once(' ')?.0.parse().ok();
    attempt().unwrap_or_default()
}
