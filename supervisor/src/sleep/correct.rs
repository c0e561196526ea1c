//! Time limits of calls that went on through a sleep: as if it had not been.
//!
//! Where the kernel keeps the deadline of an interrupted call itself (poll, nanosleep, futex) nothing is to be done. select(2) and ppoll(2) read from the
//! thread's memory how much of their time is left. All others begin to count anew: of those the supervisor knows when their time is over, and tells them. They
//! are told when their host ticks, when it is held, and else at that instant: the thread is stopped for a moment, and if its call has the mark that it was
//! given (so it is the same one), it returns that its time is over.

use std::time::{Duration, Instant};

use super::calls;
use super::deadlines::{Call, CallKey, Due, Now, UNSEEN_MARK};
use super::wait::LeftAt;
use super::{AFTERWARDS, Sleeper, transfer};
use imsup_linux::duplicates::Duplicates;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::stopped::{self, At, GoOn, SeenThread, StoppedThread};
use imsup_linux::{process, signals};

/// For how long a thread that was let run is waited for, until it blocks again: on a busy machine it has not run yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long threads may take to stop.
const TIMEOUT: Duration = Duration::from_millis(20);

/// A call that is to be told when its time is over, in a host that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Correction {
    /// It was in the call when its host was held.
    thread: SeenThread,
    pub(super) at: Instant,
    /// How much later it is looked at again if the thread is not blocked.
    pause: Duration,
    stage: Stage,
}

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was let run: perhaps it has ended, and the thread has made the next one.
    LetRun,
    /// It was seen to go on, and blocks again in a moment.
    Settling,
    /// It is blocked. As long as its thread has not waited for anything else, it is the same one.
    Blocked {
        /// How often the thread has waited.
        waits: u64,
    },
}

/// Memory of a thread that its call has overwritten with how much of its time is left, since it was interrupted (nanosleep(2)).
///
/// The sleep goes on, so that nobody is to know. A program that sleeps by `nanosleep(&time, &time)` again and again would sleep for less each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overwritten {
    tid: i32,
    key: CallKey,
    address: u64,
    bytes: [u8; 16],
}

/// Puts back what was there, unless a thread has gone on meanwhile, or a signal handler is about to end its sleep.
pub(super) fn put_back(overwritten: &[Overwritten], threads: &[StoppedThread]) {
    for one in overwritten {
        let is_same = |thread: &StoppedThread| match thread.at {
            At::Blocked { args, stack, .. } => thread.tid == one.tid && one.key == CallKey { args, stack },
            _ => false,
        };
        if threads.iter().any(is_same) && !signals::interrupts(one.tid) {
            // An error: it was killed.
            let _ = ThreadMemory::of(one.tid).write(one.address, &one.bytes);
        }
    }
}

impl Sleeper {
    /// What is where these calls will say how much of their time is left when they are interrupted.
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

    /// Writes what is left of their time where held calls will read it.
    pub(super) fn write_time_left(&self, now: Instant) {
        for (tid, call) in self.interrupted.all() {
            if let (Some(address), Some(left)) = (call.wait.overwrites, call.due.left(now))
                && signals::interrupts(tid)
            {
                // A signal handler ends its sleep, and the program reads there how much of it is left.
                let _ = LeftAt { address, unit: 1 }.write(left, &ThreadMemory::of(tid));
            }
            if let (Some(left_at), Some(left)) = (&call.wait.left_at, call.due.left(now)) {
                // Read-only memory: the call then says EINTR, as it would have without us.
                let _ = left_at.write(left, &ThreadMemory::of(tid));
            }
        }
    }

    /// The calls to be told when their time is over: they would count it anew, and so end more than a slack too late.
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

    /// Does what it is time for. This is not on the way of what woke the host.
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
                // It has gone on; and if it is still the same call, it is told when the host is held next.
                (Stage::Settling | Stage::Blocked { .. }, _) => {}
            }
        }
        if !to_stop.is_empty() {
            self.tell(&to_stop, corrections);
        }
    }

    /// When the time of a call is over that its thread seems to be in still.
    fn time_is_over(&self, tid: i32, (number, args, stack): (i64, [u64; 6], u64)) -> Option<Instant> {
        let call = self
            .interrupted
            .get(tid, number, &CallKey { args, stack }, UNSEEN_MARK)?;
        match call.due {
            Due::From { latest, .. } => Some(latest),
            Due::Never | Due::Unknown => None,
        }
    }

    /// Stops these threads for a moment, and tells them that their time is over, if it is.
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
                // Another call by now: it has just begun.
                None if eintr && calls::goes_on(number, &args) => {
                    rewrites.push((thread.tid, GoOn::Anew { mark: 0 }));
                }
                None => {}
            }
        }
        // Those that did not stop in time run still, or are gone.
        let not_stopped = told.iter().filter(|one| {
            one.pause <= LONGEST_PAUSE && stopped.threads().iter().all(|thread| thread.tid != one.thread.tid)
        });
        corrections.extend(not_stopped.map(|one| Correction {
            at: now + one.pause,
            pause: one.pause * 2,
            stage: Stage::LetRun,
            ..*one
        }));
        // The time it was stopped for would be the end of a transfer that has begun meanwhile.
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
