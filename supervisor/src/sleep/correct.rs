//! Time limits of calls that went on through a sleep, as if the sleep had not happened.
//!
//! No work is needed if the kernel keeps the deadline of an interrupted call (poll, nanosleep,
//! futex). select(2) and ppoll(2) read the time left from the thread's memory. All other calls
//! restart the time limit: the supervisor knows the deadlines of these calls, and reports the
//! time-outs. A time-out is reported when the host ticks, when the host is held, and else at the
//! deadline itself: the thread is stopped for a moment. If the call has the mark given earlier (so
//! is the same call), the call returns with a time-out.

use std::time::{Duration, Instant};

use super::calls;
use super::deadlines::{Call, CallKey, Due, Now, UNSEEN_MARK};
use super::wait::LeftAt;
use super::{AFTERWARDS, Sleeper, transfer};
use imsup_linux::duplicates::Duplicates;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::stopped::{self, At, GoOn, SeenThread, StoppedThread};
use imsup_linux::{process, signals};

/// The limit of the wait until a released thread blocks again: on a busy machine the thread may not
/// have run yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long threads may take to stop.
const TIMEOUT: Duration = Duration::from_millis(20);

/// A call of a running host whose time-out imsup has to report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Correction {
    /// The thread, which was in the call when the host was held.
    thread: SeenThread,
    pub(super) at: Instant,
    /// The delay of the next check if the thread is not blocked.
    pause: Duration,
    stage: Stage,
}

/// The known state of a call to correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The thread was released. Perhaps the call has ended, and the thread has made the next call.
    LetRun,
    /// The call was seen to go on, and blocks again in a moment.
    Settling,
    /// The thread is blocked. The call is the same as long as the thread has not waited again.
    Blocked {
        /// How often the thread has waited.
        waits: u64,
    },
}

/// Memory of a thread that an interrupted call has overwritten with the time left (nanosleep(2)).
///
/// The sleep goes on, so that nobody is to know. A program that sleeps by `nanosleep(&time, &time)`
/// again and again would sleep for less each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overwritten {
    tid: i32,
    key: CallKey,
    address: u64,
    bytes: [u8; 16],
}

/// Restores the overwritten memory, unless a thread has gone on meanwhile, or a signal handler is
/// about to end the thread's sleep.
pub(super) fn put_back(overwritten: &[Overwritten], threads: &[StoppedThread]) {
    for one in overwritten {
        let is_same = |thread: &StoppedThread| match thread.at {
            At::Blocked { args, stack, .. } => thread.tid == one.tid && one.key == CallKey { args, stack },
            _ => false,
        };
        if threads.iter().any(is_same) && !signals::interrupts(one.tid) {
            // An error means that the thread was killed.
            let _ = ThreadMemory::of(one.tid).write(one.address, &one.bytes);
        }
    }
}

impl Sleeper {
    /// Reads the memory in which these calls will write the time left when interrupted.
    pub(super) fn to_be_overwritten(&self, seen: &[StoppedThread]) -> Vec<Overwritten> {
        let overwritten = |thread: &StoppedThread| {
            let At::Blocked {
                number, args, stack, ..
            } = thread.at
            else {
                return None;
            };
            let key = CallKey { args, stack };
            let address = match self.interrupted.get(thread.tid, number, &key, UNSEEN_MARK) {
                Some(call) => call.wait.overwrites,
                None if [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&number) => {
                    let wait = calls::wait_of(number, &args, &ThreadMemory::of(thread.tid));
                    wait.ok().and_then(|wait| wait.overwrites)
                }
                None => None,
            }?;
            let bytes = ThreadMemory::of(thread.tid).read_array(address).ok()?;
            let tid = thread.tid;
            Some(Overwritten {
                tid,
                key,
                address,
                bytes,
            })
        };
        seen.iter().filter_map(overwritten).collect()
    }

    /// Writes the time left into the memory that held calls will read.
    pub(super) fn write_time_left(&self, now: Instant) {
        for (tid, call) in self.interrupted.all() {
            if let (Some(address), Some(left)) = (call.wait.overwrites, call.due.left(now))
                && signals::interrupts(tid)
            {
                // A signal handler ends the thread's sleep, and the program reads the time left
                // from this memory.
                let _ = LeftAt { address, unit: 1 }.write(left, &ThreadMemory::of(tid));
            }
            if let (Some(left_at), Some(left)) = (&call.wait.left_at, call.due.left(now)) {
                // Read-only memory: the call then returns EINTR, as without imsup.
                let _ = left_at.write(left, &ThreadMemory::of(tid));
            }
        }
    }

    /// The calls to be told when their time is over: they would count it anew, and so end more than
    /// a slack too late.
    pub(super) fn corrections(&self, stage: Stage) -> Vec<Correction> {
        let (now, slack) = (Instant::now(), self.slack());
        let late = |due: &Due| match due {
            Due::From { latest, span, .. } => (now + *span).saturating_duration_since(*latest) > slack,
            Due::Never | Due::Unknown => false,
        };
        let calls = self.interrupted.all();
        let late = calls.filter(|(_, call)| call.mark != 0 && !call.due.is_polling(slack) && late(&call.due));
        let correction = |(tid, call): (i32, &Call)| {
            Some(Correction {
                thread: SeenThread::remember(call.pid, tid)?,
                at: now + AFTERWARDS,
                pause: AFTERWARDS,
                stage,
            })
        };
        late.filter_map(correction).collect()
    }

    /// Does the corrections that are due. This work does not delay the cause of the wake.
    pub(super) fn correct(&mut self, corrections: &mut Vec<Correction>) {
        let now = Instant::now();
        let (due, later) = std::mem::take(corrections)
            .into_iter()
            .partition(|correction| correction.at <= now);
        *corrections = later;
        let mut to_stop: Vec<Correction> = Vec::new();
        for correction in due {
            let Correction {
                thread: SeenThread { pid, tid, .. },
                pause,
                ..
            } = correction;
            let Some(blocked_in) = process::blocked_in(pid, tid) else {
                if !matches!(correction.stage, Stage::Blocked { .. }) && pause <= LONGEST_PAUSE {
                    corrections.push(Correction {
                        at: now + pause,
                        pause: pause * 2,
                        ..correction
                    });
                }
                continue;
            };
            let Some(latest) = self.time_is_over(tid, blocked_in) else {
                continue;
            };
            match (correction.stage, process::waits(pid, tid)) {
                (Stage::LetRun, _) => to_stop.push(correction),
                (Stage::Settling, Some(waits)) => corrections.push(Correction {
                    at: latest.max(now),
                    stage: Stage::Blocked { waits },
                    ..correction
                }),
                (Stage::Blocked { waits }, Some(now)) if waits == now => to_stop.push(correction),
                // The thread has gone on. If the call is still the same, the time-out is reported
                // at the next hold of the host.
                (Stage::Settling | Stage::Blocked { .. }, _) => {}
            }
        }
        if !to_stop.is_empty() {
            self.tell(&to_stop, corrections);
        }
    }

    /// The end of the time limit of the call that the thread still seems to be in.
    fn time_is_over(&self, tid: i32, (number, args, stack): (i64, [u64; 6], u64)) -> Option<Instant> {
        let call = self
            .interrupted
            .get(tid, number, &CallKey { args, stack }, UNSEEN_MARK)?;
        match call.due {
            Due::From { latest, .. } => Some(latest),
            Due::Never | Due::Unknown => None,
        }
    }

    /// Stops these threads for a moment, and reports the time-out of each call that is overdue.
    fn tell(&mut self, told: &[Correction], corrections: &mut Vec<Correction>) {
        let threads = told.iter().map(|one| one.thread).collect();
        let Ok((mut stopped, trouble)) = stopped::stop_threads(threads, TIMEOUT) else {
            return;
        };
        let now = Now::read().instant;
        let mut rewrites = Vec::new();
        for thread in stopped.threads() {
            let At::Blocked {
                number,
                args,
                stack,
                eintr,
                mark,
            } = thread.at
            else {
                continue;
            };
            match self.interrupted.get(thread.tid, number, &CallKey { args, stack }, mark) {
                Some(call) => {
                    let over = call.timed_out(now);
                    rewrites.push((thread.tid, over.unwrap_or(GoOn::Anew { mark })));
                    if over.is_none()
                        && let Some(one) = told.iter().find(|one| one.thread.tid == thread.tid)
                    {
                        corrections.push(Correction {
                            thread: one.thread,
                            at: now + AFTERWARDS,
                            pause: AFTERWARDS,
                            stage: Stage::Settling,
                        });
                    }
                }
                // Another call by now, which has just begun.
                None if eintr && calls::goes_on(number, &args) => {
                    rewrites.push((thread.tid, GoOn::Anew { mark: 0 }));
                }
                None => {}
            }
        }
        // Threads that did not stop in time still run, or are gone.
        let not_stopped = told.iter().filter(|one| {
            one.pause <= LONGEST_PAUSE && stopped.threads().iter().all(|thread| thread.tid != one.thread.tid)
        });
        corrections.extend(not_stopped.map(|one| Correction {
            at: now + one.pause,
            pause: one.pause * 2,
            stage: Stage::LetRun,
            ..*one
        }));
        // The stop would cut short a transfer that has begun meanwhile.
        let duplicates = Duplicates::of(&stopped);
        let cut_short = |thread| transfer::cut_short(thread, &duplicates);
        let carries = stopped.threads().iter().filter_map(cut_short).collect();
        self.tree.carry_of(&mut stopped, carries);
        stopped.rewrite(rewrites);
        match trouble {
            None => stopped.release(),
            Some(_) => stopped.release_wholly(),
        }
    }
}
