//! How a life goes on when its program has ended.

use std::time::{Duration, Instant};

use imsup_wire::{EventKind, ExitStatus};
use rustix::io::Errno;

use super::{Life, Phase};
use crate::registry::{Action, After, Answer, FAILURES_UNTIL_REFUSED, LONG_RUN, Revive, Want, delay_after};

/// Breaks in a row that have no consequence.
const BREAKS_AT_ONCE: u32 = 2;
/// The longest delay after breaks: somebody is served at each boot, perhaps.
const LONGEST_BREAK: Duration = Duration::from_secs(1);

/// What is said of a host whose program was ended because nobody used it.
const TERMINATED: &str = "terminated";

const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGILL: i32 = 4;
const SIGINT: i32 = 2;
const SIGSEGV: i32 = 11;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

impl Life {
    pub(super) fn ended(
        &mut self,
        status: ExitStatus,
        detail: Option<String>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let (started, was_ready, settled) = match self.phase {
            Phase::Booting { since, .. } => (since, false, false),
            Phase::Running { since, settled, .. } => (since, true, settled),
            Phase::Imaginary { .. } | Phase::Failed { .. } => return,
        };
        let ran = now.saturating_duration_since(self.signalled.unwrap_or(started));
        let wanted_end = self.stopping || self.retired;
        let port_waiters = self.waiters.iter().any(|waiter| matches!(waiter.want, Want::Port(_)));
        let failed_start =
            !wanted_end && !was_ready && (status != ExitStatus::Code(0) || port_waiters || self.queued_since.is_some());
        // What waits at the door of a program that listens and breaks must not make it start and break in a tight loop.
        // It listens, though, so nobody is turned away; and one that was killed is no such program.
        let broke = !wanted_end && was_ready && !settled && (is_breakage(status) || port_waiters);

        let shown = match (detail, status) {
            (Some(detail), _) => detail,
            (None, ExitStatus::Code(_) | ExitStatus::Signal(_)) if failed_start => {
                format!("{status} before it listened")
            }
            (None, _) => status.to_string(),
        };
        actions.push(Action::Emit {
            kind: if failed_start { EventKind::Fail } else { EventKind::Exit },
            duration: Some(ran),
            detail: Some(shown.clone()),
        });
        // How the program took the signal that it was told to end with is in the event.
        self.detail = match std::mem::take(&mut self.terminated) && !died_of_itself(status) {
            true => Some(TERMINATED.into()),
            false => (failed_start || status != ExitStatus::Code(0)).then(|| shown.into_boxed_str()),
        };
        self.answer(|want| (want == Want::Ended).then_some(Answer::Ended), actions);

        self.failures = match failed_start {
            true => self.failures.saturating_add(1),
            false if wanted_end || status == ExitStatus::Code(0) => 0,
            false => self.failures,
        };
        self.breaks = if broke { self.breaks.saturating_add(1) } else { 0 };
        if failed_start {
            let given_up = self.failures >= FAILURES_UNTIL_REFUSED || cannot_be_executed(status);
            self.back_off(delay_after(self.failures), given_up, now, actions);
        } else if broke && (self.breaks > BREAKS_AT_ONCE || port_waiters) {
            let delay = delay_after(self.breaks.saturating_sub(BREAKS_AT_ONCE));
            self.back_off(delay.min(LONGEST_BREAK), false, now, actions);
        } else {
            self.rest(status, wanted_end, ran, now, actions);
        }
        self.stopping = false;
    }

    /// After a failed start.
    fn back_off(&mut self, delay: Duration, given_up: bool, now: Instant, actions: &mut Vec<Action>) {
        self.phase = Phase::Failed { retry_at: now + delay };
        self.answer(|want| (want == Want::Ready).then_some(Answer::Failed), actions);
        if given_up {
            self.queued_since = None;
            self.answer(|want| matches!(want, Want::Port(_)).then_some(Answer::Refused), actions);
            actions.push(Action::Reclaim(After::GaveUp));
        } else {
            actions.push(Action::Reclaim(After::Retry));
        }
    }

    /// After an end that was no failed start.
    fn rest(&mut self, status: ExitStatus, wanted_end: bool, ran: Duration, now: Instant, actions: &mut Vec<Action>) {
        self.short_runs = if ran >= LONG_RUN || wanted_end {
            0
        } else {
            self.short_runs.saturating_add(1)
        };
        let revived = !wanted_end
            && match self.policy.revive {
                Revive::OnSignal => false,
                Revive::AfterFailure => status != ExitStatus::Code(0),
                Revive::Always => true,
            };
        self.phase = Phase::Imaginary {
            restart_at: revived.then(|| now + delay_after(self.short_runs)),
        };
        self.queued_since = None;
        if wanted_end && !self.retired && !self.waiters.is_empty() {
            actions.push(Action::Reclaim(After::Ended));
            let cause = self.waiters[0].cause.clone();
            self.allocate(cause, now, actions);
            return;
        }
        // A run that ended well was what these waited for.
        let done = if status == ExitStatus::Code(0) {
            Answer::Ready
        } else {
            Answer::Failed
        };
        self.answer(|want| (want == Want::Ready).then_some(done), actions);
        self.answer(|want| matches!(want, Want::Port(_)).then_some(Answer::Refused), actions);
        actions.push(Action::Reclaim(After::Ended));
    }
}

/// Whether the program is such that trying again is of no use; a shortage (EAGAIN, EMFILE, ENOMEM, ETXTBSY) passes.
fn cannot_be_executed(status: ExitStatus) -> bool {
    let ExitStatus::NotExecuted(errno) = status else {
        return false;
    };
    matches!(
        Errno::from_raw_os_error(errno),
        Errno::NOENT
            | Errno::ACCESS
            | Errno::NOEXEC
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::ISDIR
            | Errno::PERM
            | Errno::TOOBIG
            | Errno::NAMETOOLONG
    )
}

/// Whether a program that was told to end died of a fault of its own instead. The signal that it is told with is the compose file's (`stop_signal`).
fn died_of_itself(status: ExitStatus) -> bool {
    matches!(
        status,
        ExitStatus::Signal(SIGSEGV | SIGABRT | SIGBUS | SIGFPE | SIGILL) | ExitStatus::Lost
    )
}

/// Whether a program ended like this because something is wrong with it, rather than because somebody ended it.
fn is_breakage(status: ExitStatus) -> bool {
    match status {
        ExitStatus::Code(code) => code != 0,
        ExitStatus::Signal(signal) => !matches!(signal, SIGINT | SIGTERM | SIGKILL),
        ExitStatus::NotExecuted(_) => true,
        ExitStatus::Lost => false,
    }
}
