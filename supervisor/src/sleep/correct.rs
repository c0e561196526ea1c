//! Time limits of calls that went on through a sleep: as if it had not been.
//!
//! Where the kernel keeps the deadline of an interrupted call itself (poll, nanosleep, futex) nothing is to be done. select(2) and ppoll(2) read from the
//! thread's memory how much of their time is left. The limit of epoll_wait(2) is in a register; that of recv(2) is its socket's (SO_RCVTIMEO), and can only be said to be
//! over.

use std::time::{Duration, Instant};

use super::deadlines::{CallKey, Now};
use super::{Phase, Sleep};
use super::{calls, plan};
use crate::kernel::memory::ThreadMemory;
use crate::kernel::stopped::{self, At, GoOn};

/// How long threads may take to stop.
const PATIENCE: Duration = Duration::from_millis(20);

impl Sleep {
    /// Writes what is left of their time where held calls will read it.
    pub(super) fn write_time_left(&self, now: Instant) {
        for (tid, call) in self.interrupted.all() {
            if let (Some(left_at), Some(left)) = (&call.wait.left_at, call.due.left(now)) {
                // Read-only memory: the call then says EINTR, as it would have without us.
                let _ = left_at.write(left, &ThreadMemory::of(tid));
            }
        }
    }

    /// Whether calls go on with a limit that is `slept` too long, which matters.
    pub(super) fn has_late_calls(&self, slept: Duration) -> bool {
        let slack = self.slack();
        slept > slack
            && self
                .interrupted
                .all()
                .any(|(_, call)| call.continued && !call.due.is_polling(slack))
    }

    /// Gives the calls that are still what they were the limits they have by now. This is not on the way of what woke the host.
    pub(super) fn correct(&mut self) {
        self.correct_at = None;
        if !matches!(self.phase, Phase::Awake) {
            // It sleeps again, and its calls were read anew.
            return;
        }
        let now = Now::read();
        let slack = self.slack();
        let late = |(_, call): &(i32, &super::deadlines::Call)| call.continued && !call.due.is_polling(slack);
        let threads = self
            .interrupted
            .all()
            .filter(late)
            .map(|(tid, call)| (call.pid, tid))
            .collect();
        if let Ok(stopped) = stopped::stop_threads(threads, PATIENCE) {
            let mut rewrites = Vec::new();
            for thread in stopped.threads() {
                let At::Blocked {
                    number,
                    args,
                    stack,
                    eintr,
                } = thread.at
                else {
                    continue;
                };
                let call = self.interrupted.get(thread.tid, number, &CallKey { args, stack });
                let corrected = call.and_then(|call| {
                    call.timed_out(now.instant)
                        .or_else(|| plan::continued(&mut call.clone(), &now))
                });
                // Another call by now: it has just begun.
                let anew = (eintr && calls::continuation(number).is_some()).then_some(GoOn::Anew { argument: None });
                let go_on = corrected.or(anew);
                rewrites.extend(go_on.map(|go_on| (thread.tid, go_on)));
            }
            stopped.rewrite(rewrites);
        }
        self.interrupted.forget_continued();
    }

    /// What deadlines are coalesced to.
    pub(super) fn slack(&self) -> Duration {
        self.policy
            .as_ref()
            .map_or(Duration::from_secs(1), |policy| policy.timer_slack)
    }
}
