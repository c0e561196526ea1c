//! When the calls of a sleeping host's threads give up, and when the host runs for a deadline:
//! pure.
//!
//! The kernel does not show the beginning of a call. So the beginning of a call with a relative
//! time limit is known within bounds only. The lower bound is the last look at which the process
//! had not used the present CPU time yet. The upper bound is the first look at which the process
//! had. From the earliest possible deadline on the host runs once per slack, until the call is no
//! longer the same. An interrupted call goes on by itself (restart_syscall(2)) and keeps the bounds
//! of the beginning.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::wait::{Clock, Deadline, Wait};
use imsup_linux::stopped::GoOn;

/// The lower limit of a slack of nearly zero: a call with an inexact deadline is not checked more
/// often.
pub const SHORTEST_SLACK: Duration = Duration::from_millis(10);

/// Two readings of the deadline of the same call differ by less than this.
const SAME_END: Duration = Duration::from_millis(50);

/// One instant on every clock of deadlines.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The instant of the standard library.
    pub instant: Instant,
    /// CLOCK_MONOTONIC.
    pub monotonic: Duration,
    /// CLOCK_BOOTTIME.
    pub boottime: Duration,
    /// CLOCK_REALTIME, since the epoch.
    pub realtime: Duration,
}

impl Now {
    /// This instant.
    pub fn read() -> Self {
        let read = |clock| {
            let time = rustix::time::clock_gettime(clock);
            Duration::try_from(time).unwrap_or_default()
        };
        Self {
            instant: Instant::now(),
            monotonic: read(rustix::time::ClockId::Monotonic),
            boottime: read(rustix::time::ClockId::Boottime),
            realtime: read(rustix::time::ClockId::Realtime),
        }
    }

    /// The instant at which `clock` shows `time`; the present instant if `time` has passed.
    fn when(&self, clock: Clock, time: Duration) -> Instant {
        let shown = match clock {
            Clock::Monotonic => self.monotonic,
            Clock::Boottime => self.boottime,
            Clock::Realtime => self.realtime,
        };
        // A deadline in a hundred years is none.
        let left = time.saturating_sub(shown).min(FOREVER);
        self.instant + left
    }

    /// An instant as shown by CLOCK_REALTIME, in microseconds.
    pub fn realtime_us(&self, instant: Instant) -> u64 {
        let time = match instant.checked_duration_since(self.instant) {
            Some(later) => self.realtime + later,
            None => self.realtime.saturating_sub(self.instant - instant),
        };
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    }
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The bounds of the instant of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Not before.
    pub earliest: Instant,
    /// Not after.
    pub latest: Instant,
}

/// When a call gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Never.
    Never,
    /// Not before this instant; `span` after the call was made.
    From {
        /// The earliest instant.
        earliest: Instant,
        /// The latest instant. A time-out that only imsup can report is not reported before.
        latest: Instant,
        /// The longest possible wait of the call. The count starts at the earliest beginning if the
        /// beginning is unknown: a timer with little time left is no poll.
        span: Duration,
        /// The deadline as a time of CLOCK_REALTIME, if the deadline is of that clock.
        realtime: Option<Duration>,
    },
    /// Unknown: the host runs once per slack.
    Unknown,
}

/// When a call gives up that was frozen at `now`.
pub fn due(deadline: Deadline, began: Bounds, now: &Now) -> Due {
    let from = |earliest, latest, span, realtime| Due::From {
        earliest,
        latest,
        span,
        realtime,
    };
    match deadline {
        Deadline::Never => Due::Never,
        Deadline::Unknown => Due::Unknown,
        Deadline::After(time) if time >= FOREVER => Due::Never,
        Deadline::After(time) => from(began.earliest + time, began.latest + time, time, None),
        Deadline::Left(time) if time >= FOREVER => Due::Never,
        Deadline::Left(time) => {
            let at = now.instant + time;
            from(at, at, at.saturating_duration_since(began.earliest), None)
        }
        Deadline::At(clock, time) => {
            let earliest = now.when(clock, time);
            let span = earliest.saturating_duration_since(began.earliest);
            from(earliest, earliest, span, (clock == Clock::Realtime).then_some(time))
        }
    }
}

impl Due {
    /// The time left until the latest instant; `None` without a deadline.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::From { latest, .. } => Some(latest.saturating_duration_since(now)),
            Self::Never | Self::Unknown => None,
        }
    }

    /// Keeps the longer span of the same wait, as seen `before`. Equal ends show that the wait is
    /// the same.
    pub fn keep_span(&mut self, before: &Self) {
        let (
            Self::From { latest, span, .. },
            Self::From {
                latest: end,
                span: longer,
                ..
            },
        ) = (self, before)
        else {
            return;
        };
        if (*latest).max(*end) - (*latest).min(*end) < SAME_END {
            *span = (*span).max(*longer);
        }
    }

    /// The same, known for certain: not before the latest instant.
    pub fn at_latest(self) -> Self {
        match self {
            Self::From {
                latest, span, realtime, ..
            } => Self::From {
                earliest: latest,
                latest,
                span,
                realtime,
            },
            other => other,
        }
    }

    /// True for a poll rather than a timer: the span is shorter than the slack, so the deadline
    /// cannot be met on time anyway.
    pub fn is_polling(&self, slack: Duration) -> bool {
        match self {
            Self::From { span, .. } => *span < slack,
            Self::Never | Self::Unknown => true,
        }
    }

    /// The time of the tick for this deadline, in a host that ran until `last_run`.
    pub fn tick_at(&self, last_run: Instant, slack: Duration) -> Option<Instant> {
        match self {
            Self::Never => None,
            Self::Unknown => Some(last_run + slack.max(SHORTEST_SLACK)),
            // The deadline has passed, and yet the call did not end while the host ran.
            Self::From { earliest, .. } if *earliest <= last_run => Some(last_run + slack.max(SHORTEST_SLACK)),
            Self::From { earliest, .. } => Some((*earliest).max(last_run + slack)),
        }
    }
}

/// The identity of a call: a thread in the same call with the same arguments on the same stack goes
/// on with that call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallKey {
    /// The arguments.
    pub args: [u64; 6],
    /// The stack pointer.
    pub stack: u64,
}

/// Calls that were interrupted and go on, by thread.
#[derive(Clone, Debug, Default)]
pub struct Interrupted {
    calls: HashMap<i32, Call>,
    last_mark: Cell<u32>,
}

/// An interrupted call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The process of the thread.
    pub pid: i32,
    /// The identity of the call.
    pub key: CallKey,
    /// The number of the call, which a restarted call no longer shows.
    pub number: i64,
    /// What it waits for.
    pub wait: Wait,
    /// The time at which the call gives up.
    pub due: Due,
    /// The mark that identifies the call if the kernel restarts the time limit after each
    /// interruption, so that only imsup knows the deadline; else 0.
    pub mark: u32,
}

/// The mark of a thread that was examined without a stop: the real mark is not visible.
pub const UNSEEN_MARK: u32 = u32::MAX;

impl Call {
    /// How a released call goes on if the call is overdue: only imsup can report the time-out.
    pub fn timed_out(&self, now: Instant) -> Option<GoOn> {
        let over = self.mark != 0 && self.due.left(now).is_some_and(|left| left.is_zero());
        self.wait.timed_out.filter(|_| over).map(GoOn::Return)
    }
}

impl Interrupted {
    /// The call that thread `tid` goes on with, which is in call `number` now and has this mark.
    pub fn get(&self, tid: i32, number: i64, key: &CallKey, mark: u32) -> Option<&Call> {
        let call = self.calls.get(&tid).filter(|call| call.key == *key)?;
        let marked = call.mark != 0 && [call.mark, UNSEEN_MARK].contains(&mark);
        let same = number == libc::SYS_restart_syscall || (marked && call.number == number);
        same.then_some(call)
    }

    /// The earlier call of thread `tid`, if the thread is in the same call: some interrupted calls
    /// are simply made anew (select(2), clock_nanosleep(2) until a time).
    pub fn made_anew(&self, tid: i32, number: i64, key: &CallKey) -> Option<&Call> {
        self.calls
            .get(&tid)
            .filter(|call| call.key == *key && call.number == number)
    }

    /// Whether thread `tid` is in a call with a limit.
    pub fn is_known(&self, tid: i32) -> bool {
        self.calls.contains_key(&tid)
    }

    /// A mark that no call has.
    pub fn fresh_mark(&self) -> u32 {
        let next = self.last_mark.get() % (UNSEEN_MARK - 1) + 1;
        self.last_mark.set(next);
        next
    }

    /// All calls, each with the thread.
    pub fn all(&self) -> impl Iterator<Item = (i32, &Call)> {
        self.calls.iter().map(|(tid, call)| (*tid, call))
    }

    /// How the released calls that are overdue go on, each with process and thread. A call whose
    /// awaited event `has_come` is left out. The returned calls are forgotten.
    pub fn take_overdue(&mut self, now: Instant, has_come: impl Fn(i32, &Call) -> bool) -> Vec<((i32, i32), GoOn)> {
        let overdue: Vec<_> = self
            .calls
            .iter()
            .filter_map(|(tid, call)| Some((tid, call, call.timed_out(now)?)))
            .filter(|(tid, call, _)| !has_come(**tid, call))
            .map(|(tid, call, over)| ((call.pid, *tid), over))
            .collect();
        for ((_, tid), _) in &overdue {
            self.calls.remove(tid);
        }
        overdue
    }

    /// Takes over the better knowledge of these threads.
    pub fn replace_with(&mut self, better: &Self) {
        self.last_mark = better.last_mark.clone();
        self.calls
            .extend(better.calls.iter().map(|(tid, call)| (*tid, call.clone())));
    }

    /// Adds one.
    pub fn remember(&mut self, tid: i32, call: Call) {
        self.calls.insert(tid, call);
    }

    /// Replaces all calls.
    pub fn set(&mut self, calls: HashMap<i32, Call>) {
        self.calls = calls;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Duration = Duration::from_secs(1);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn now() -> Now {
        Now {
            instant: Instant::now(),
            monotonic: seconds(500),
            boottime: seconds(600),
            realtime: seconds(1_000_000),
        }
    }

    #[test]
    fn a_relative_limit_counts_from_the_earliest_beginning() {
        let now = now();
        let began = Bounds {
            earliest: now.instant - seconds(4),
            latest: now.instant - seconds(3),
        };
        let due = due(Deadline::After(seconds(10)), began, &now);
        assert_eq!(due.tick_at(now.instant, SLACK), Some(now.instant + seconds(6)));
        assert!(!due.is_polling(SLACK));
        // The host ran then, and the call had a second to go.
        let later = now.instant + seconds(6);
        assert_eq!(due.tick_at(later, SLACK), Some(later + SLACK));
    }

    #[test]
    fn short_limits_are_coalesced_and_are_polling() {
        let now = now();
        let began = Bounds {
            earliest: now.instant,
            latest: now.instant,
        };
        let due = due(Deadline::After(Duration::from_millis(100)), began, &now);
        assert_eq!(due.tick_at(now.instant, SLACK), Some(now.instant + SLACK));
        assert!(due.is_polling(SLACK));
        assert_eq!(
            due.tick_at(now.instant, Duration::ZERO),
            Some(now.instant + Duration::from_millis(100))
        );
    }

    #[test]
    fn absolute_limits_are_of_their_clock() {
        let now = now();
        let began = Bounds {
            earliest: now.instant - seconds(5),
            latest: now.instant - seconds(5),
        };
        let at = |clock, time| due(Deadline::At(clock, time), began, &now).tick_at(now.instant, SLACK);
        assert_eq!(at(Clock::Monotonic, seconds(507)), Some(now.instant + seconds(7)));
        assert_eq!(at(Clock::Boottime, seconds(607)), Some(now.instant + seconds(7)));
        assert_eq!(at(Clock::Realtime, seconds(1_000_003)), Some(now.instant + seconds(3)));
        assert_eq!(
            at(Clock::Realtime, seconds(3)),
            Some(now.instant + SLACK),
            "one that has passed is due when the host may run again"
        );
    }

    #[test]
    fn a_long_limit_of_which_little_is_left_is_no_polling() {
        let now = now();
        let began = Bounds {
            earliest: now.instant - seconds(599),
            latest: now.instant,
        };
        let half = Duration::from_millis(500);
        for deadline in [
            Deadline::Left(half),
            Deadline::At(Clock::Monotonic, now.monotonic + half),
        ] {
            assert!(!due(deadline, began, &now).is_polling(SLACK));
            let just_now = Bounds {
                earliest: now.instant,
                latest: now.instant,
            };
            assert!(due(deadline, just_now, &now).is_polling(SLACK));
        }
    }

    #[test]
    fn what_nobody_knows_is_let_run_once_per_slack() {
        let now = now();
        assert_eq!(Due::Unknown.tick_at(now.instant, SLACK), Some(now.instant + SLACK));
        assert_eq!(
            Due::Unknown.tick_at(now.instant, Duration::ZERO),
            Some(now.instant + SHORTEST_SLACK)
        );
        assert_eq!(Due::Never.tick_at(now.instant, SLACK), None);
    }

    #[test]
    fn a_limit_of_ages_is_none() {
        let now = now();
        let began = Bounds {
            earliest: now.instant,
            latest: now.instant,
        };
        assert_eq!(due(Deadline::After(Duration::MAX), began, &now), Due::Never);
        assert!(
            due(Deadline::At(Clock::Monotonic, Duration::MAX), began, &now)
                .tick_at(now.instant, SLACK)
                .is_some()
        );
    }

    #[test]
    fn another_call_of_the_same_thread_is_another_call() {
        let key = CallKey {
            args: [1, 2, 3, 4, 5, 6],
            stack: 77,
        };
        let mut interrupted = Interrupted::default();
        let call = Call {
            pid: 9,
            key,
            number: libc::SYS_nanosleep,
            wait: Wait::unknown(),
            due: Due::Unknown,
            mark: 0,
        };
        let restart = libc::SYS_restart_syscall;
        interrupted.set(HashMap::from([(9, call)]));
        assert!(interrupted.get(9, restart, &key, 0).is_some());
        assert!(
            interrupted.get(9, libc::SYS_nanosleep, &key, 0).is_none(),
            "a new sleep"
        );
        assert!(interrupted.get(8, restart, &key, 0).is_none());
        assert!(interrupted.get(9, restart, &CallKey { stack: 78, ..key }, 0).is_none());
    }

    #[test]
    fn a_continued_call_is_told_that_its_time_is_over() {
        let now = Instant::now();
        let key = CallKey {
            args: [5, 0, 8, 2000, 0, 0],
            stack: 77,
        };
        let call = |number, timed_out: i64, after| Call {
            pid: 4,
            key,
            number,
            wait: Wait {
                timed_out: Some(timed_out),
                ..Wait::unknown()
            },
            due: Due::From {
                earliest: now + seconds(after) - Duration::from_millis(500),
                latest: now + seconds(after),
                span: seconds(2),
                realtime: None,
            },
            mark: 3,
        };
        let again = -i64::from(libc::EAGAIN);
        let mut interrupted = Interrupted::default();
        let calls = [
            (5, call(libc::SYS_epoll_wait, 0, 2)),
            (6, call(libc::SYS_recvfrom, again, 2)),
            (7, call(libc::SYS_epoll_wait, 0, 3)),
        ];
        interrupted.set(HashMap::from(calls));
        assert!(
            interrupted.get(5, libc::SYS_epoll_wait, &key, 3).is_some(),
            "it goes on"
        );
        assert!(interrupted.get(5, libc::SYS_epoll_wait, &key, UNSEEN_MARK).is_some());
        assert!(
            interrupted.get(5, libc::SYS_epoll_wait, &key, 0).is_none(),
            "another one"
        );
        assert!(interrupted.take_overdue(now + seconds(1), |_, _| false).is_empty());
        let mut overdue = interrupted.take_overdue(now + seconds(2), |_, _| false);
        overdue.sort_by_key(|(thread, _)| *thread);
        assert_eq!(overdue, [((4, 5), GoOn::Return(0)), ((4, 6), GoOn::Return(again))]);
        assert_eq!(interrupted.all().count(), 1);
    }
}
