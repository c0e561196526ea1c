//! How a life goes on when its program has ended.

use std::time::{Duration, Instant};

use imsup_wire::{EventKind, ExitStatus};
use rustix::io::Errno;

use super::{Life, Phase};
use crate::{
    Action, After, Answer, FAILURES_UNTIL_REFUSED, LONG_RUN, PASSING_FAILURES_UNTIL_REFUSED, Want, delay_after,
};

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
        let (started, was_ready) = match self.phase {
            Phase::Booting { since } => (since, false),
            Phase::Running { since, .. } => (since, true),
            Phase::Imaginary { .. } | Phase::Failed { .. } => return,
        };
        let ran = now.saturating_duration_since(self.signalled.unwrap_or(started));
        let wanted_end = self.stopping || self.retired;
        let awaited = self.is_any_awaited();
        // One that ended well, or was ended after it had listened, has opened all the ports that it was going to: whoever waits for another is
        // answered. Another boot would come no further, and there would be no end of boots.
        let listened = self.start.listened.is_some();
        let done = status == ExitStatus::Code(0) || (listened && !is_breakage(status) && !is_cut_short(status));
        let failed_start = !wanted_end && !was_ready && !done;
        let unserved = awaited && !wanted_end;
        // What waits at the door of a program that listens and breaks must not make it start and break in a tight loop.
        // It listens, though, so nobody is turned away; and one that was killed is no such program.
        let out_of_memory = matches!(status, ExitStatus::OutOfMemory(_));
        let broke = !wanted_end && was_ready && (out_of_memory || !self.start.quiet && is_breakage(status));

        let shown = match (detail, status) {
            (Some(detail), _) => detail,
            (None, ExitStatus::Code(_) | ExitStatus::Signal(_)) if failed_start || unserved => {
                match self.first_awaited().filter(|_| listened) {
                    Some(endpoint) => format!(
                        "{status} before it listened on {}/{}",
                        endpoint.address.port(),
                        endpoint.transport
                    ),
                    None => format!("{status} before it listened"),
                }
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
            false => (failed_start || unserved || status != ExitStatus::Code(0)).then(|| shown.into_boxed_str()),
        };
        self.answer(|waiter| (waiter.want == Want::Ended).then_some(Answer::Ended), actions);

        self.failures = match failed_start {
            true => self.failures.saturating_add(1),
            false if wanted_end || status == ExitStatus::Code(0) => 0,
            false => self.failures,
        };
        self.breaks = if broke { self.breaks.saturating_add(1) } else { 0 };
        self.end_row(ran, wanted_end);
        if failed_start {
            let given_up = self.failures >= failures_until_refused(status);
            self.back_off(delay_after(self.failures), given_up, status, now, actions);
        } else if broke && (out_of_memory || self.breaks > BREAKS_AT_ONCE) {
            // This boot has ended without the ports that they wait for, as the next ones would.
            self.refuse_ports(actions);
            let delay = delay_after(self.breaks.saturating_sub(BREAKS_AT_ONCE));
            self.back_off(delay.min(LONGEST_BREAK), false, status, now, actions);
        } else {
            self.rest(status, wanted_end, ran, now, actions);
        }
        self.stopping = false;
    }

    /// After a failed start.
    fn back_off(
        &mut self,
        delay: Duration,
        given_up: bool,
        status: ExitStatus,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let wait = self.restart_after(status, delay, actions);
        // Whoever waits for it waits no longer than it takes to be tried again.
        let wait = wait.filter(|_| self.waiters.is_empty() && self.queued.is_empty());
        self.phase = Phase::Failed {
            retry_at: now + wait.unwrap_or(delay),
        };
        self.answer(|waiter| (waiter.want == Want::Ready).then_some(Answer::Failed), actions);
        if given_up {
            self.refuse_ports(actions);
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
        let wait = match wanted_end {
            true => None,
            false => self.restart_after(status, delay_after(self.short_runs), actions),
        };
        self.phase = Phase::Imaginary {
            restart_at: wait.map(|wait| now + wait),
        };
        if wanted_end && !self.retired && !self.waiters.is_empty() {
            // What is queued came for the next boot as well, and is found again.
            self.queued.clear();
            actions.push(Action::Reclaim(After::Ended));
            let cause = self.waiters[0].cause.clone();
            self.allocate(cause, self.first_awaited(), now, actions);
            return;
        }
        // A run that ended well was what these waited for.
        let done = if status == ExitStatus::Code(0) {
            Answer::Ready
        } else {
            Answer::Failed
        };
        self.answer(|waiter| (waiter.want == Want::Ready).then_some(done), actions);
        if wanted_end {
            self.queued.clear();
        }
        self.refuse_ports(actions);
        actions.push(Action::Reclaim(After::Ended));
    }

    /// Answers all who wait for a port that the program has not opened.
    fn refuse_ports(&mut self, actions: &mut Vec<Action>) {
        self.reset_queued(actions);
        self.answer(
            |waiter| matches!(waiter.want, Want::Port(_)).then_some(Answer::Refused),
            actions,
        );
    }
}

/// After how many failures in a row, the last of which was this, those who wait are refused. A program that is being replaced is missing for a moment
/// (ENOENT), and then being written (ETXTBSY); a shortage passes; nobody mends a permission while somebody waits.
fn failures_until_refused(status: ExitStatus) -> u32 {
    let ExitStatus::NotExecuted(errno) = status else {
        return FAILURES_UNTIL_REFUSED;
    };
    match Errno::from_raw_os_error(errno) {
        Errno::TXTBSY | Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => PASSING_FAILURES_UNTIL_REFUSED,
        Errno::ACCESS
        | Errno::NOEXEC
        | Errno::NOTDIR
        | Errno::LOOP
        | Errno::ISDIR
        | Errno::PERM
        | Errno::TOOBIG
        | Errno::NAMETOOLONG => 1,
        _ => FAILURES_UNTIL_REFUSED,
    }
}

/// Whether a program that was told to end died of a fault of its own instead. The signal that it is told with is the compose file's (`stop_signal`).
fn died_of_itself(status: ExitStatus) -> bool {
    matches!(
        status,
        ExitStatus::Signal(SIGSEGV | SIGABRT | SIGBUS | SIGFPE | SIGILL) | ExitStatus::Lost
    )
}

/// Whether a program was ended like this by somebody who gave it no time: the next boot may come further.
fn is_cut_short(status: ExitStatus) -> bool {
    matches!(status, ExitStatus::Signal(SIGKILL) | ExitStatus::Lost)
}

/// Whether a program ended like this because something is wrong with it, rather than because somebody ended it.
fn is_breakage(status: ExitStatus) -> bool {
    match status {
        ExitStatus::Code(code) => code != 0,
        ExitStatus::Signal(signal) => !matches!(signal, SIGINT | SIGTERM | SIGKILL),
        ExitStatus::NotExecuted(_) | ExitStatus::OutOfMemory(_) => true,
        ExitStatus::Lost => false,
    }
}
