//! A tick: a sleeper runs for a moment because a deadline of its own has come, and sleeps on unless that led to work.

use std::time::{Duration, Instant};

use imsup_linux::clock::Stamp;
use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, WakeCause};

use super::asleep::Asleep;
use super::deadlines::{Bounds, Call};
use super::hold;
use super::{Circumstances, Phase, Sleep, port_of};
use crate::host::Host;
use imsup_linux::process;

/// How soon a host that ticks is looked at; each time it is not quiet yet, twice as long.
const FIRST_CHECK: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// A tick that takes longer, or more of the processor, is work.
const MAX_TIME: Duration = Duration::from_millis(200);
const MAX_CPU: Duration = Duration::from_millis(20);

/// A host that ticks.
#[derive(Debug)]
pub(super) struct Tick {
    /// Its sleep, with nothing waited for.
    pub(super) asleep: SleepSoFar,
    pub(super) next_check: Instant,
    began: Instant,
    pause: Duration,
    /// What its processes had used before it, and at the last check.
    cpu_before: Duration,
    cpu_last: Duration,
}

/// What is kept of a sleep over its ticks.
#[derive(Clone, Debug)]
pub(super) struct SleepSoFar {
    pub(super) since: Instant,
    pub(super) began: Stamp,
    pub(super) ticks: u64,
    terminate_at: Option<Instant>,
    not_terminated: Option<String>,
    bytes: Option<u64>,
}

impl SleepSoFar {
    fn of(asleep: &Asleep) -> Self {
        Self {
            since: asleep.since,
            began: asleep.began,
            ticks: asleep.ticks,
            terminate_at: asleep.terminate_at,
            not_terminated: asleep.not_terminated.clone(),
            bytes: asleep.bytes,
        }
    }

    /// The same sleep, held anew.
    fn go_on(self, held: Asleep, now: Instant) -> Asleep {
        Asleep {
            since: self.since,
            began: self.began,
            ticks: self.ticks + 1,
            // What kept it from being terminated may have changed.
            terminate_at: self.terminate_at.or(self.not_terminated.is_some().then_some(now)),
            not_terminated: self.not_terminated,
            ..held
        }
    }
}

/// Whether a signal waits for a thread that it waits for (sigtimedwait(2)).
fn has_its_signal(tid: i32, call: &Call) -> bool {
    call.number == libc::SYS_rt_sigtimedwait && hold::is_one_pending(tid, call.key.args[0])
}

impl Sleep {
    /// Lets a sleeper run for a moment, because a deadline of its own has come.
    pub(super) fn tick(&mut self, host: &mut Host) {
        let Phase::Asleep(asleep) = std::mem::replace(&mut self.phase, Phase::Awake) else {
            return;
        };
        let now = Instant::now();
        let so_far = SleepSoFar::of(&asleep);
        let cpu = self.cpu_of(&asleep.pids, now);
        // If what a call waits for has come before its time was over, the call shall find it.
        let something_came = !asleep.set.ready().is_empty();
        drop(asleep);
        if self
            .policy
            .as_ref()
            .is_some_and(|policy| policy.terminate_after.is_some())
        {
            // Who comes while it ticks, and is answered at once, uses it.
            let seen = host.incoming.look(&host.retained);
            self.note_seen(seen);
        }
        self.ran_from = now;
        self.write_time_left(now);
        if !something_came {
            let overdue = self.interrupted.take_overdue(now, has_its_signal);
            self.tree.rewrite(overdue);
        }
        self.tree.release();
        self.phase = Phase::Ticking(Box::new(Tick {
            asleep: so_far,
            next_check: now + FIRST_CHECK,
            began: now,
            pause: FIRST_CHECK,
            cpu_before: cpu,
            cpu_last: cpu,
        }));
    }

    fn cpu_of(&mut self, pids: &[i32], now: Instant) -> Duration {
        let cpu = self.meter.sample(now, pids);
        let read = Bounds {
            earliest: now,
            latest: Instant::now(),
        };
        self.idle.note(read, &cpu);
        cpu.into_iter().map(|(_, used)| used).sum()
    }

    /// Sees whether a tick is over.
    pub(super) fn check_tick(&mut self, host: &mut Host, circumstances: &Circumstances, now: Instant) {
        let pids = self.tree.processes();
        let cpu = self.cpu_of(&pids, now);
        let Phase::Ticking(tick) = &mut self.phase else { return };
        // A thread that has not run yet would be taken for one that waits anew.
        let quiet = cpu == tick.cpu_last && !pids.iter().any(|pid| process::is_runnable(*pid));
        let used = cpu.saturating_sub(tick.cpu_before);
        tick.cpu_last = cpu;
        let began = tick.began;
        let is_work = used > MAX_CPU || now.saturating_duration_since(began) > MAX_TIME;
        let so_far = tick.asleep.clone();
        if is_work || circumstances.held_calls > 0 || circumstances.handing_over || circumstances.stopping {
            return self.wake_from_tick(host, began);
        }
        if quiet {
            match self.hold(host, began) {
                Ok(asleep) if asleep.bytes != so_far.bytes || host.incoming.peek().came => {
                    // It answered somebody, or took in what somebody sent.
                    drop(asleep);
                    self.tree.release();
                    return self.wake_from_tick(host, began);
                }
                Ok(asleep) => {
                    self.note_seen(host.incoming.peek());
                    host.incoming.rest();
                    return self.sleep_on(host, so_far.go_on(asleep, now), began);
                }
                Err(what) => tracing::debug!(%what, "a tick is not over"),
            }
        }
        if let Phase::Ticking(tick) = &mut self.phase {
            tick.pause = if quiet { tick.pause * 2 } else { tick.pause }.min(LONGEST_PAUSE);
            tick.next_check = Instant::now() + tick.pause;
        }
    }

    fn sleep_on(&mut self, host: &mut Host, asleep: Asleep, began: Instant) {
        self.observe_deadlines(&asleep.pids, began, true);
        let message = ToBroker::Ticked {
            deadline_us: asleep.deadline_us(),
            took: began.elapsed(),
        };
        host.link.send(&message, Vec::new());
        self.phase = Phase::Asleep(Box::new(asleep));
    }

    /// A deadline led to work, or somebody came meanwhile.
    fn wake_from_tick(&mut self, host: &mut Host, began: Instant) {
        let ran = began.elapsed();
        let connections = self.connections().unwrap_or_default();
        // A connection whose last bytes came in since is who came; one that only sent was answered.
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
                    self.rhythms.worked(Instant::now());
                }
                WakeCause {
                    kind: if came { CauseKind::Connection } else { CauseKind::Timer },
                    by: None,
                    port: None,
                }
            }
        };
        self.wake(host, began, cause, false);
    }
}
