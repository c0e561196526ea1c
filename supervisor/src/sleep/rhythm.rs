//! Decides if a deadline is housekeeping: the deadline has come before, led to no work, and was set
//! anew for the same time. Pure.
//!
//! A deadline that has never come counts as work ahead, regardless of the length. The judgement of
//! a deadline that comes again and again depends on the timers that may hide behind the deadline:
//!
//! * A thread that waits for a time alone, or for one descriptor, has one deadline. The period is
//!   known after a watch of [`WATCHED`].
//! * An event loop shows the nearest of all timers: a period of 5 s hides a timer of 10 minutes,
//!   and no call of the program shows the hidden timer. Work sets the timers, so a hidden timer
//!   comes within its own length after the last work. The period counts as housekeeping after
//!   [`HIDDEN`] without any other event.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::deadlines::{Call, CallKey, Due};
use super::wait::Deadline;
use super::waitset::is_epoll;
use imsup_linux::timers::TimerFd;

/// How long a period is watched before the period is known. Shorter periods are often steps of a
/// longer task (a retry, a wait of a few seconds before an answer).
const WATCHED: Duration = Duration::from_secs(30);

/// How long after the last work a timer hidden by an event loop may come: longer than timers that
/// programs set in passing.
const HIDDEN: Duration = Duration::from_secs(3600);

/// How many short waits in a row are polling: two that began in ticks, and the wait at the start of
/// the sleep.
const POLLS: usize = 3;

/// A waiter that has not been seen for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Two readings of the same deadline differ by less than this.
const SAME_DEADLINE: Duration = Duration::from_millis(5);

/// The tolerance of a measured period: the host runs late, and is looked at later.
const TOLERANCE: Duration = Duration::from_millis(50);

/// A thread or timer that waits for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waiter {
    /// A thread in one call. The depth of the stack is no identity: an interpreter that optimises
    /// the running code makes the same call from another depth.
    Thread {
        /// Which.
        tid: i32,
        /// The call.
        number: i64,
    },
    /// A timerfd.
    TimerFd {
        /// Its process.
        pid: i32,
        /// Its descriptor.
        number: i32,
    },
}

/// A deadline as seen while a host is held.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    waiter: Waiter,
    earliest: Instant,
    span: Duration,
    /// True if the span is the value given by the program, to the nanosecond.
    exact: bool,
}

impl Seen {
    /// The deadline of a thread's call. `limit` is the time limit as read before the interruption,
    /// if the limit is a constant.
    pub fn of_call(tid: i32, call: &Call, limit: Option<Duration>) -> Option<Self> {
        let Due::From { earliest, span, .. } = call.due else {
            return None;
        };
        let relative = matches!(call.wait.deadline, Deadline::After(_)) && !is_loop(call);
        Some(Self {
            waiter: waiter(tid, call),
            earliest,
            span: limit.unwrap_or(span),
            exact: limit.is_some() || relative,
        })
    }

    /// The expiry of a timerfd of a host that has run since `ran_from`.
    pub fn of_timer(timer: &TimerFd, ran_from: Instant, now: Instant) -> Self {
        let repeats = !timer.interval.is_zero();
        // A timer that is set anew each time was set since the host ran.
        let at_most = timer.expires_in + now.saturating_duration_since(ran_from);
        Self {
            waiter: Waiter::TimerFd {
                pid: timer.pid,
                number: timer.number,
            },
            earliest: now + timer.expires_in,
            span: if repeats { timer.interval } else { at_most },
            exact: repeats,
        }
    }
}

/// The waiter that a thread in this call is.
pub fn waiter(tid: i32, call: &Call) -> Waiter {
    Waiter::Thread {
        tid,
        number: call.number,
    }
}

/// True if a call waits for several descriptors, as an event loop does. The time limit is then the
/// time to the nearest timer of the loop.
pub fn is_loop(call: &Call) -> bool {
    is_epoll(call.wait.call) || call.wait.watches.len() > 1
}

/// The limits of select(2) and ppoll(2) before the interruption of the call, by thread: from then
/// on the memory holds the time left. The exact nanoseconds tell a constant of the program from the
/// time until the nearest of several timers. A constant hides no timer. The time until a timer is
/// never a whole number of milliseconds.
#[derive(Debug, Default)]
pub struct Constants(HashMap<i32, (CallKey, Duration)>);

impl Constants {
    /// Takes the limit in a blocked thread's memory before the thread is interrupted. `left` is the
    /// expected value if the thread's call from the last run of the host goes on.
    pub fn note(&mut self, tid: i32, key: CallKey, says: Duration, left: Option<Duration>) {
        let goes_on = left.is_some_and(|left| left.abs_diff(says) < TOLERANCE);
        if !says.is_zero() && says.subsec_nanos().is_multiple_of(1_000_000) {
            self.0.insert(tid, (key, says));
        } else if !goes_on {
            self.0.remove(&tid);
        }
    }

    /// The constant limit of a thread's call.
    pub fn get(&self, tid: i32, call: &Call) -> Option<Duration> {
        let (key, limit) = self.0.get(&tid)?;
        (*key == call.key && matches!(call.wait.deadline, Deadline::Left(_))).then_some(*limit)
    }

    /// Forgets all threads but these.
    pub fn retain(&mut self, is_there: impl Fn(i32) -> bool) {
        self.0.retain(|tid, _| is_there(*tid));
    }
}

/// The observations of one waiter.
#[derive(Debug)]
struct Rhythm {
    earliest: Instant,
    span: Duration,
    exact: bool,
    /// How often the deadline came, led to no work, and was set anew for the same time.
    times: u32,
    /// Whether the span was measured from a known beginning.
    measured: bool,
    /// True if the present wait certainly has this span.
    proven: bool,
    /// The time when this span was first seen.
    since: Instant,
    /// The spans of the last waits. Each wait began in a tick, except the first since the start of
    /// the sleep.
    last: [Duration; POLLS],
    /// True if the deadline has led to work before.
    works: bool,
    seen: Instant,
}

/// The observations of all deadlines of a host.
#[derive(Debug, Default)]
pub struct Rhythms(HashMap<Waiter, Rhythm>);

impl Rhythms {
    /// Takes the deadlines of a host held at `now`. `ticked` is true after a run for housekeeping
    /// only, false at the start of a sleep. A wait that began in a tick has a known beginning. Of
    /// any other wait little is known.
    pub fn observe(&mut self, now: Instant, ticked: bool, seen: impl Iterator<Item = Seen>) {
        if !ticked {
            for rhythm in self.0.values_mut() {
                rhythm.last = [Duration::MAX; POLLS];
            }
        }
        for one in seen {
            let known = ticked || one.exact;
            let fresh = !self.0.contains_key(&one.waiter);
            let exact = one.exact;
            let rhythm = self.0.entry(one.waiter).or_insert_with(|| Rhythm {
                earliest: one.earliest,
                span: one.span,
                exact,
                times: 0,
                measured: exact,
                proven: exact,
                since: now,
                last: [Duration::MAX; POLLS],
                works: false,
                seen: now,
            });
            if fresh || rhythm.is_another(&one) {
                rhythm.last.rotate_right(1);
                rhythm.last[0] = one.span;
            }
            rhythm.take(&one, known, now);
        }
        self.0
            .retain(|_, rhythm| now.saturating_duration_since(rhythm.seen) < FORGOTTEN);
    }

    /// The host was let run for a deadline, and that led to work.
    pub fn worked(&mut self, now: Instant) {
        for rhythm in self.0.values_mut().filter(|rhythm| rhythm.earliest <= now) {
            rhythm.works = true;
            rhythm.times = 0;
            rhythm.since = now;
        }
    }

    /// True if the deadline of `waiter` only ever did housekeeping. `hides` is true if other timers
    /// may be behind the deadline. `idle_since` is the time of the host's last other activity.
    pub fn is_housekeeping(&self, waiter: Waiter, hides: bool, idle_since: Instant, now: Instant) -> bool {
        let Some(rhythm) = self.0.get(&waiter) else {
            return false;
        };
        let needed = if rhythm.exact { 1 } else { 2 };
        if rhythm.times < needed || !rhythm.proven {
            return false;
        }
        let watched = now.saturating_duration_since(rhythm.since);
        match hides || rhythm.works {
            true => watched.min(now.saturating_duration_since(idle_since)) >= HIDDEN,
            false => watched >= WATCHED,
        }
    }

    /// True if a waiter's limit is a constant of the program.
    pub fn is_exact(&self, waiter: Waiter) -> bool {
        self.0.get(&waiter).is_some_and(|rhythm| rhythm.exact)
    }

    /// True if a waiter waits for less than the slack again and again. A single short wait is not
    /// enough, since the wait may be for the nearest of several timers. For example node, which
    /// keeps the time of day for the rest of a second, hides a timer of 10 minutes for that long.
    pub fn is_polling(&self, waiter: Waiter, slack: Duration) -> bool {
        let rhythm = self.0.get(&waiter);
        rhythm.is_some_and(|rhythm| rhythm.last.iter().all(|span| *span < slack))
    }
}

impl Rhythm {
    fn is_another(&self, one: &Seen) -> bool {
        self.earliest.max(one.earliest) - self.earliest.min(one.earliest) >= SAME_DEADLINE
    }

    fn take(&mut self, one: &Seen, known: bool, now: Instant) {
        self.seen = now;
        if !self.is_another(one) {
            return;
        }
        let came = self.earliest <= now;
        self.earliest = one.earliest;
        let left = one.earliest.saturating_duration_since(now);
        if !known && self.measured && left <= self.span && one.span + TOLERANCE >= self.span {
            // Perhaps the wait is the same again.
            self.proven = false;
            return;
        }
        let same = self.exact == one.exact && self.measured && is_same(self.span, one.span, one.exact);
        self.proven = known;
        match (same, came) {
            (true, true) => self.times = self.times.saturating_add(1),
            // Another event ended the wait.
            (true, false) => {}
            (false, _) => {
                self.span = one.span;
                self.exact = one.exact;
                self.measured = known && (came || one.exact);
                self.times = 0;
                self.since = now;
            }
        }
    }
}

fn is_same(one: Duration, other: Duration, exact: bool) -> bool {
    match exact {
        true => one == other,
        false => one.abs_diff(other) <= TOLERANCE.max(one / 20),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wait::Wait;
    use super::*;

    const WAITER: Waiter = Waiter::Thread {
        tid: 7,
        number: libc::SYS_futex,
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn seen(earliest: Instant, span: Duration, exact: bool) -> Seen {
        Seen {
            waiter: WAITER,
            earliest,
            span,
            exact,
        }
    }

    /// Lets a deadline come after each of these spans. Returns the resulting observations and the
    /// time of the last.
    fn after(spans: &[u64], exact: bool) -> (Rhythms, Instant) {
        let mut rhythms = Rhythms::default();
        let mut now = Instant::now();
        for span in spans {
            rhythms.observe(
                now,
                true,
                std::iter::once(seen(now + seconds(*span), seconds(*span), exact)),
            );
            now += seconds(*span);
        }
        (rhythms, now - seconds(spans[spans.len() - 1]))
    }

    fn is_housekeeping(spans: &[u64], exact: bool, hides: bool) -> bool {
        let began = Instant::now();
        let (rhythms, now) = after(spans, exact);
        rhythms.is_housekeeping(WAITER, hides, began, now)
    }

    #[test]
    fn a_deadline_that_has_never_come_is_work_ahead() {
        assert!(!is_housekeeping(&[600], true, false));
        let (rhythms, now) = after(&[600], true);
        assert!(!rhythms.is_housekeeping(WAITER, false, now, now + seconds(599)));
    }

    #[test]
    fn a_period_is_known_when_it_was_watched_for_long_enough() {
        assert!(is_housekeeping(&[60, 60], true, false), "a runtime's own");
        assert!(!is_housekeeping(&[5, 5, 5], true, false), "steps of something");
        assert!(is_housekeeping(&[5; 7], true, false));
        assert!(!is_housekeeping(&[60, 61], true, false), "another limit");
        assert!(!is_housekeeping(&[60, 60, 600], true, false), "another timer");
        assert!(
            !is_housekeeping(&[60, 60, 20], true, false),
            "another timer that is nearer"
        );
    }

    #[test]
    fn a_period_that_is_measured_may_differ_a_little() {
        assert!(
            !is_housekeeping(&[40, 60, 60], false, false),
            "the first was not seen from its beginning"
        );
        assert!(is_housekeeping(&[40, 60, 60, 60], false, false));
        assert!(is_housekeeping(&[100, 100, 101, 99, 100], false, false));
        assert!(!is_housekeeping(&[100, 100, 101, 99, 50], false, false));
    }

    #[test]
    fn what_an_event_loop_may_hide_is_waited_for() {
        assert!(!is_housekeeping(&[30; 100], false, true));
        assert!(is_housekeeping(&[30; 130], false, true));
        let (rhythms, now) = after(&[30; 130], false);
        assert!(
            !rhythms.is_housekeeping(WAITER, true, now - seconds(60), now),
            "a minute after work"
        );
    }

    #[test]
    fn a_deadline_that_led_to_work_is_trusted_as_little_as_one_that_hides_others() {
        let (mut rhythms, mut now) = after(&[60; 3], true);
        now += seconds(60);
        rhythms.worked(now);
        for _ in 0..3 {
            rhythms.observe(now, true, std::iter::once(seen(now + seconds(60), seconds(60), true)));
            now += seconds(60);
        }
        assert!(!rhythms.is_housekeeping(WAITER, false, now - seconds(600), now));
    }

    #[test]
    fn a_wait_that_something_else_ends_has_not_come() {
        let mut rhythms = Rhythms::default();
        let mut now = Instant::now();
        for _ in 0..10 {
            rhythms.observe(now, true, std::iter::once(seen(now + seconds(60), seconds(60), true)));
            now += seconds(30);
        }
        assert!(!rhythms.is_housekeeping(WAITER, false, now, now));
    }

    #[test]
    fn a_wake_in_between_leaves_what_is_known_of_a_period_to_be_proven() {
        let known = |left: u64, at_most: u64| {
            let (mut rhythms, mut now) = after(&[5; 10], false);
            now += seconds(20);
            let fallen_asleep = seen(now + seconds(left), seconds(at_most), false);
            rhythms.observe(now, false, std::iter::once(fallen_asleep));
            assert!(!rhythms.is_housekeeping(WAITER, false, now, now));
            now += seconds(left);
            rhythms.observe(now, true, std::iter::once(seen(now + seconds(5), seconds(5), false)));
            rhythms.is_housekeeping(WAITER, false, now, now)
        };
        assert!(known(3, 12), "as before, for all that is known");
        assert!(!known(10, 12), "a longer one");
        assert!(!known(3, 4), "a shorter one");
    }

    #[test]
    fn a_constant_is_known_while_its_call_goes_on() {
        let key = CallKey {
            args: [3, 0, 0, 0, 4096, 0],
            stack: 99,
        };
        let call = |key| Call {
            pid: 1,
            key,
            number: libc::SYS_select,
            wait: Wait {
                deadline: Deadline::Left(seconds(1)),
                ..Wait::unknown()
            },
            due: Due::Unknown,
            mark: 0,
        };
        let mut constants = Constants::default();
        constants.note(7, key, seconds(15), None);
        assert_eq!(constants.get(7, &call(key)), Some(seconds(15)));
        assert_eq!(constants.get(7, &call(CallKey { stack: 98, ..key })), None);
        let left = Duration::from_nanos(9_123_456_789);
        constants.note(7, key, left, Some(left + Duration::from_micros(9)));
        assert_eq!(constants.get(7, &call(key)), Some(seconds(15)), "it goes on");
        constants.note(7, key, left, Some(seconds(4)));
        assert_eq!(
            constants.get(7, &call(key)),
            None,
            "another, for the time until something"
        );
    }

    #[test]
    fn a_timer_that_is_set_anew_each_time_is_polling_once_that_is_known() {
        let now = Instant::now();
        let timer = |left, interval| TimerFd {
            pid: 1,
            number: 2,
            expires_in: Duration::from_millis(left),
            interval: Duration::from_millis(interval),
        };
        let waiter = Waiter::TimerFd { pid: 1, number: 2 };
        let mut rhythms = Rhythms::default();
        let mut later = now;
        for tick in 0..3 {
            assert!(
                !rhythms.is_polling(waiter, seconds(1)),
                "it may have been set for hours"
            );
            let ran_from = later.checked_sub(Duration::from_millis(10)).unwrap();
            let ticked = tick > 0;
            rhythms.observe(
                later,
                ticked,
                std::iter::once(Seen::of_timer(&timer(90, 0), ran_from, later)),
            );
            later += Duration::from_millis(1010);
        }
        assert!(rhythms.is_polling(waiter, seconds(1)));
        assert!(!rhythms.is_polling(waiter, Duration::from_millis(50)));
        rhythms.observe(
            later,
            false,
            std::iter::once(Seen::of_timer(&timer(90, 0), later, later)),
        );
        assert!(!rhythms.is_polling(waiter, seconds(1)), "who knows what was set since");
    }
}
