//! The continuation of a life after the program's end.

use std::time::{Duration, Instant};

use imsup_wire::{EventKind, ExitStatus};
use rustix::io::Errno;

use super::{Life, Phase};
use crate::{
    Action, After, Answer, FAILURES_UNTIL_REFUSED, LONG_RUN, PASSING_FAILURES_UNTIL_REFUSED, Want, delay_after,
};

/// Breaks in a row that have no consequence.
const BREAKS_AT_ONCE: u32 = 2;
/// The longest delay after crashes: each boot may serve some client.
const LONGEST_BREAK: Duration = Duration::from_secs(1);

/// The detail of a host whose program was ended because the host was unused.
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
        // A program that ended well, or was ended after its first listen, has opened all its ports:
        // callers of other ports are answered. Another boot would open no more ports, and boots
        // would never end.
        let listened = self.start.listened.is_some();
        let done = status == ExitStatus::Code(0) || (listened && !is_breakage(status) && !is_cut_short(status));
        let failed_start = !wanted_end && !was_ready && !done;
        let unserved = awaited && !wanted_end;
        // Connections that wait for a program that listens and crashes must not cause a tight loop
        // of starts and crashes. The program does listen, so no caller is turned away; a program
        // that was killed from outside is no such program.
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
        // The event has the program's reaction to the signal that told it to end.
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
            // This boot has ended without the awaited ports, as the next boots would.
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
        // A caller of the host waits no longer than until the next attempt.
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
            // Queued connections are for the next boot as well, and are found again.
            self.queued.clear();
            actions.push(Action::Reclaim(After::Ended));
            let cause = self.waiters[0].cause.clone();
            self.allocate(cause, self.first_awaited(), now, actions);
            return;
        }
        // These callers waited for a run that ends well.
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

    /// Answers all callers of ports that the program has not opened.
    fn refuse_ports(&mut self, actions: &mut Vec<Action>) {
        self.reset_queued(actions);
        self.answer(
            |waiter| matches!(waiter.want, Want::Port(_)).then_some(Answer::Refused),
            actions,
        );
    }
}

/// The number of consecutive failures, with this last failure, after which callers are refused. A
/// program that is being replaced is missing for a moment (ENOENT), and then being written
/// (ETXTBSY); a shortage passes; a wrong permission is not mended while callers wait.
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

/// True if a program that was told to end died of a fault of its own instead. The signal is the
/// compose file's (`stop_signal`).
fn died_of_itself(status: ExitStatus) -> bool {
    matches!(
        status,
        ExitStatus::Signal(SIGSEGV | SIGABRT | SIGBUS | SIGFPE | SIGILL) | ExitStatus::Lost
    )
}

/// True if the program was killed without any time to prepare: the next boot may come further.
fn is_cut_short(status: ExitStatus) -> bool {
    matches!(status, ExitStatus::Signal(SIGKILL) | ExitStatus::Lost)
}

/// True if this end shows a fault of the program, rather than an order from outside.
fn is_breakage(status: ExitStatus) -> bool {
    match status {
        ExitStatus::Code(code) => code != 0,
        ExitStatus::Signal(signal) => !matches!(signal, SIGINT | SIGTERM | SIGKILL),
        ExitStatus::NotExecuted(_) | ExitStatus::OutOfMemory(_) => true,
        ExitStatus::Lost => false,
    }
}
