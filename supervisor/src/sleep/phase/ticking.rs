//! A tick: a sleeping host runs for a moment because a deadline of the host has come, and sleeps on
//! unless the deadline led to work.

use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, WakeCause};

use super::{Asleep, Awake, Phase, Ticking};
use crate::host::Host;
use crate::sleep::deadlines::{Bounds, Call};
use crate::sleep::{Circumstances, Sleeper, hold, port_of, unnamed};
use imsup_linux::process;

/// The first pause before a look at a host that ticks. The pause doubles each time that a quiet
/// host could not be held.
const FIRST_CHECK: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// A tick that takes longer, or more of the processor, is work.
const MAX_TIME: Duration = Duration::from_millis(200);
const MAX_CPU: Duration = Duration::from_millis(20);

/// True if a signal that a thread waits for is pending (sigtimedwait(2)).
fn has_its_signal(tid: i32, call: &Call) -> bool {
    call.number == libc::SYS_rt_sigtimedwait && hold::is_one_pending(tid, call.key.args[0])
}

impl Asleep {
    /// Lets a sleeping host run for a moment, because a deadline of the host has come.
    pub(super) fn tick(self: Box<Self>, sleeper: &mut Sleeper, host: &mut Host) -> Box<Ticking> {
        let now = Instant::now();
        let bytes = self.frozen.bytes;
        let cpu = sleeper.cpu_of(&self.frozen.pids, now);
        // If an awaited event has come before the time-out, the call must find the event.
        let something_came = !self.frozen.set.ready().is_empty();
        let slept = self.stop_waiting();
        if sleeper
            .policy
            .as_ref()
            .is_some_and(|policy| policy.terminate_after.is_some())
        {
            // A client that comes during a tick, and is answered at once, uses the host.
            let seen = host.incoming.look(&host.retained);
            sleeper.note_seen(seen);
        }
        sleeper.ran_from = now;
        sleeper.write_time_left(now);
        if !something_came {
            let overdue = sleeper.interrupted.take_overdue(now, has_its_signal);
            sleeper.tree.rewrite(overdue);
        }
        sleeper.tree.release();
        Box::new(Ticking {
            slept,
            bytes,
            next_check: now + FIRST_CHECK,
            began: now,
            pause: FIRST_CHECK,
            cpu_before: cpu,
            cpu_last: cpu,
        })
    }
}

impl Ticking {
    /// Sees whether a tick is over.
    pub(in crate::sleep) fn check(
        mut self: Box<Self>,
        sleeper: &mut Sleeper,
        host: &mut Host,
        circumstances: &Circumstances,
        now: Instant,
    ) -> Phase {
        let pids = sleeper.tree.processes();
        let cpu = sleeper.cpu_of(&pids, now);
        // A thread that has not run yet would be taken for a thread that waits anew.
        let quiet = cpu == self.cpu_last && !pids.iter().any(|pid| process::is_runnable(*pid));
        let used = cpu.saturating_sub(self.cpu_before);
        self.cpu_last = cpu;
        let is_work = used > MAX_CPU || now.saturating_duration_since(self.began) > MAX_TIME;
        if is_work || circumstances.pending_calls > 0 || circumstances.handing_over || circumstances.stopping {
            return Phase::Awake(self.work(sleeper, host));
        }
        if quiet {
            // Calls that an attempt interrupts are corrected once the host wakes, or are read anew.
            match sleeper.hold(host, self.began, &mut Vec::new()) {
                Ok(frozen) if frozen.bytes != self.bytes || host.incoming.peek().came => {
                    // The host sent an answer, or received data.
                    drop(frozen);
                    sleeper.tree.release();
                    return Phase::Awake(self.work(sleeper, host));
                }
                Ok(frozen) => {
                    sleeper.note_seen(host.incoming.peek());
                    host.incoming.rest();
                    let began = self.began;
                    sleeper.observe_deadlines(&frozen.pids, began, true);
                    let asleep = self.sleep_on(frozen, now);
                    let message = ToBroker::Ticked {
                        deadline_us: asleep.deadline_us(),
                        took: began.elapsed(),
                    };
                    host.link.send(&message, Vec::new());
                    return Phase::Asleep(asleep);
                }
                Err(what) => tracing::debug!(%what, "a tick is not over"),
            }
        }
        self.pause = if quiet { self.pause * 2 } else { self.pause }.min(LONGEST_PAUSE);
        self.next_check = Instant::now() + self.pause;
        Phase::Ticking(self)
    }

    /// A deadline led to work, or a client came meanwhile.
    fn work(self, sleeper: &mut Sleeper, host: &mut Host) -> Awake {
        let ran = self.began.elapsed();
        let connections = sleeper.connections().unwrap_or_default();
        // A connection whose last bytes arrived since the tick began is the cause. A connection
        // that only sent was answered.
        let came = connections.iter().find(|connection| connection.last_received < ran);
        let cause = match came {
            Some(connection) => WakeCause {
                kind: CauseKind::Data,
                by: Some(connection.peer),
                port: port_of(connection.local),
            },
            None => {
                let came = host.incoming.peek().came;
                if !came {
                    sleeper.rhythms.worked(Instant::now());
                }
                unnamed(if came { CauseKind::Connection } else { CauseKind::Timer })
            }
        };
        let began = self.began;
        self.wake(sleeper, host, began, cause)
    }

    /// It has run since `noticed`, and goes on.
    pub(in crate::sleep) fn wake(
        self,
        sleeper: &mut Sleeper,
        host: &mut Host,
        noticed: Instant,
        cause: WakeCause,
    ) -> Awake {
        Awake::woken(sleeper, host, noticed, cause, false, &self.slept)
    }
}

impl Sleeper {
    fn cpu_of(&mut self, pids: &[i32], now: Instant) -> Duration {
        let cpu = self.meter.sample(now, pids);
        let read = Bounds {
            earliest: now,
            latest: Instant::now(),
        };
        self.idle.note(read, &cpu);
        cpu.into_iter().map(|(_, used)| used).sum()
    }
}
