//! Decides if a host is idle: pure, from samples of the resources that the processes have used.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::deadlines::Bounds;
use crate::incoming::Seen;

/// The use of more than this part (1/n) of a processor is work; less is housekeeping (redis running
/// ten times a second takes 0.1 %, a JVM's periodic threads 0.2 to 0.5 %: bench).
const HOUSEKEEPING: u32 = 100;

/// The number of looks at a host during the idle time before a suspension.
const LOOKS: u32 = 4;
/// How soon a host is looked at again at the soonest.
pub const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// Within half the default slack, since the beginning of a call is known no better.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_BUSY_PAUSE: Duration = Duration::from_secs(10);

/// A look may take this part (1/n) of a processor.
const LOOK_SHARE: u32 = 1000;

/// The same for all looks over time: the work around the looks takes a third more.
const ALL_LOOKS_SHARE: u32 = 1500;

/// The most time that looks may take at once after cheaper looks: two walks over the kernel's table
/// of connections, in nanoseconds.
const MOST_CREDIT: i64 = 5_000_000;

/// The activity found by a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A process has used more than housekeeping.
    Cpu {
        /// Which.
        pid: i32,
        /// How much.
        used: Duration,
        /// The time span of the use.
        within: Duration,
    },
    /// A connection or a datagram came.
    Arrival,
    /// The host connected to a place outside.
    Connect,
    /// Bytes moved on a connection.
    Bytes,
    /// A process came or went.
    Processes,
    /// The host ran while imsup could not see arrivals.
    Unseen,
    /// The host ran though no thread waited for a time: an event without any other trace has come,
    /// for example a signal.
    Unasked,
}

/// The traces of arrivals and departures found by a look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    /// The events seen at the host's sockets.
    pub seen: Seen,
    /// A process began and ended.
    pub child: bool,
    /// The host ran, and no thread waited for a time.
    pub unasked: bool,
}

/// The traffic on a host's connections so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// A number that changes when bytes move on any connection, or a connection comes or goes.
    pub fingerprint: u64,
    /// How many there are.
    pub count: usize,
    /// The time since the latest arrival on any connection.
    pub heard: Duration,
}

/// The kernel's clock of that, in jiffies of 1 to 10 ms, and in whole milliseconds.
const HEARD_PRECISION: Duration = Duration::from_millis(11);

/// The use of one process.
#[derive(Clone, Copy, Debug)]
struct Used {
    cpu: Duration,
    /// The time when the CPU time reached this value.
    since: Bounds,
}

/// The changes since the last look.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    used: Duration,
    /// The process that used most.
    most: (i32, Duration),
    /// Whether processes came or went.
    changed: bool,
}

/// The observation of one host.
#[derive(Debug)]
pub struct Idleness {
    quiet_since: Instant,
    last_look: Instant,
    used: HashMap<i32, Used>,
    traffic: Option<Traffic>,
    /// The time that looks may still take, in nanoseconds: a part of the elapsed time, saved up to
    /// [`MOST_CREDIT`].
    credit: i64,
    charged: Instant,
    /// The number of looks in a row that found the host busy.
    busy: u32,
    last_activity: Option<(Instant, Activity)>,
}

impl Idleness {
    /// A host that has just been active.
    pub fn new(now: Instant) -> Self {
        Self {
            quiet_since: now,
            last_look: now,
            used: HashMap::new(),
            traffic: None,
            credit: MOST_CREDIT,
            charged: now,
            busy: 0,
            last_activity: None,
        }
    }

    /// The host is active now, by other evidence than a look.
    pub fn restart(&mut self, now: Instant) {
        self.quiet_since = now;
        self.last_activity = None;
    }

    /// The start of the idle time.
    pub fn quiet_since(&self) -> Instant {
        self.quiet_since
    }

    /// The time and kind of the last activity found.
    pub fn last_activity(&self) -> Option<(Instant, Activity)> {
        self.last_activity
    }

    /// Whether any process has run since the last look.
    pub fn has_run(&self, cpu: &[(i32, Duration)]) -> bool {
        cpu.iter().any(|(pid, used)| self.has_process_run(*pid, Some(*used)))
    }

    /// True if a process has run since the last look. `cpu` is the CPU time used by now; `None` if
    /// the CPU time cannot be read.
    pub fn has_process_run(&self, pid: i32, cpu: Option<Duration>) -> bool {
        cpu.is_none() || self.used.get(&pid).map(|used| used.cpu) != cpu
    }

    /// Takes the findings of a look: the CPU time of each process so far, the traces, and the
    /// traffic on connections so far. `traffic` is called only if a process ran and no other
    /// activity was found: a process that did not run has moved no bytes.
    pub fn look(
        &mut self,
        read: Bounds,
        cpu: &[(i32, Duration)],
        trace: Trace,
        traffic: impl FnOnce() -> Option<Traffic>,
    ) {
        let now = read.earliest;
        let within = now.saturating_duration_since(self.last_look);
        let found = self.note(read, cpu);
        let mut at = now;
        let activity = if found.changed {
            Some(Activity::Processes)
        } else if found.used * HOUSEKEEPING > within {
            let (pid, used) = found.most;
            Some(Activity::Cpu { pid, used, within })
        } else if trace.seen.came {
            Some(Activity::Arrival)
        } else if found.used.is_zero() {
            None
        } else if trace.seen.went {
            Some(Activity::Connect)
        } else if trace.child {
            Some(Activity::Processes)
        } else if trace.seen.unseen {
            Some(Activity::Unseen)
        } else if trace.unasked {
            Some(Activity::Unasked)
        } else {
            let before = std::mem::replace(&mut self.traffic, traffic());
            match self.traffic {
                Some(traffic) => {
                    at = now - when_heard(before, traffic);
                    let unchanged = before.is_some_and(|before| before.fingerprint == traffic.fingerprint);
                    (!unchanged).then_some(Activity::Bytes)
                }
                // Unknown if any bytes moved.
                None => Some(Activity::Unseen),
            }
        };
        // A host with occasional requests and little work may be idle the next moment. Rarer looks
        // would show that late.
        self.busy = match activity {
            Some(Activity::Cpu { .. } | Activity::Bytes | Activity::Processes) => self.busy.saturating_add(1),
            _ => 0,
        };
        if let Some(activity) = activity {
            self.noticed(at, activity);
        }
    }

    /// Notes an activity and the time of the activity.
    pub fn noticed(&mut self, at: Instant, activity: Activity) {
        self.quiet_since = self.quiet_since.max(at);
        self.last_activity = Some((at, activity));
    }

    /// Notes the CPU time of each process so far, without a judgement. A process may have made a
    /// call while the clocks were being `read`.
    pub fn note(&mut self, read: Bounds, cpu: &[(i32, Duration)]) -> Found {
        let mut found = Found {
            used: Duration::ZERO,
            most: (0, Duration::ZERO),
            changed: cpu.len() != self.used.len(),
        };
        let mut next = HashMap::with_capacity(cpu.len());
        for (pid, cpu) in cpu {
            // A clock that has gone back is another process's, which has got the number.
            let known = self.used.get(pid).filter(|known| known.cpu <= *cpu);
            found.changed |= known.is_none();
            let since = match known {
                Some(known) if known.cpu == *cpu => known.since,
                _ => Bounds {
                    earliest: self.last_look,
                    latest: read.latest,
                },
            };
            let more = known.map_or(*cpu, |known| cpu.saturating_sub(known.cpu));
            found.used += more;
            if more > found.most.1 {
                found.most = (*pid, more);
            }
            next.insert(*pid, Used { cpu: *cpu, since });
        }
        self.used = next;
        self.last_look = read.earliest;
        found
    }

    /// When a call that a thread of `pid` is blocked in can have begun; `floor` is when the host
    /// was last let run.
    pub fn began(&self, pid: i32, floor: Instant, now: Instant) -> Bounds {
        match self.used.get(&pid) {
            Some(used) => Bounds {
                earliest: used.since.earliest.max(floor),
                latest: used.since.latest.max(floor),
            },
            None => Bounds {
                earliest: floor,
                latest: now,
            },
        }
    }

    /// When to look next, after a look that took `cost` of a processor.
    pub fn next_look(&mut self, idle_after: Duration, cost: Duration) -> Instant {
        let pause = (idle_after / LOOKS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        // Not so long that an idle host is noticed late: looks at a host with a short idle time are
        // expensive.
        let rest = self.charge(cost).min(idle_after);
        let next = if self.busy > 0 {
            // The longer the host is busy, the rarer the looks, down to the looks' share: the
            // processor is for the host's processes. A host that did a little work is soon asleep.
            let longest = (cost * LOOK_SHARE).clamp(pause, LONGEST_BUSY_PAUSE);
            self.last_look + (pause * (1 << self.busy.min(16) >> 1)).min(longest)
        } else {
            let end = self.quiet_since + idle_after;
            if end > self.last_look {
                end.min(self.last_look + pause)
            } else {
                self.last_look + pause
            }
        };
        next.max(self.last_look + rest)
    }

    /// Deducts the cost of a look from the credit, and returns for how long looks have to rest.
    fn charge(&mut self, cost: Duration) -> Duration {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let earned = nanos(self.last_look.saturating_duration_since(self.charged) / ALL_LOOKS_SHARE);
        self.charged = self.last_look;
        self.credit = self
            .credit
            .saturating_add(earned)
            .min(MOST_CREDIT)
            .saturating_sub(nanos(cost));
        let debt = Duration::from_nanos(self.credit.min(0).unsigned_abs());
        (debt * ALL_LOOKS_SHARE).min(LONGEST_BUSY_PAUSE)
    }
}

/// The age of changed traffic: the time since the latest arrival, or zero if a connection is gone.
/// A closed connection shows no arrivals any more.
fn when_heard(before: Option<Traffic>, now: Traffic) -> Duration {
    match before {
        Some(before) if before.count > now.count => Duration::ZERO,
        _ => now.heard.saturating_sub(HEARD_PRECISION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_AFTER: Duration = Duration::from_secs(4);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn no_question() -> Option<Traffic> {
        panic!("who did not run has moved no bytes")
    }

    fn traffic(fingerprint: u64) -> Option<Traffic> {
        Some(Traffic {
            fingerprint,
            count: 1,
            heard: Duration::ZERO,
        })
    }

    /// The duration of a reading of the clocks.
    const READING: Duration = Duration::from_millis(1);

    fn read_from(now: Instant) -> Bounds {
        Bounds {
            earliest: now,
            latest: now + READING,
        }
    }

    impl Idleness {
        /// A look without traces.
        fn looked(&mut self, now: Instant, cpu: &[(i32, Duration)], traffic: impl FnOnce() -> Option<Traffic>) {
            self.look(read_from(now), cpu, Trace::default(), traffic);
        }
    }

    fn observed(cpu: &[(i32, Duration)]) -> (Idleness, Instant) {
        let start = Instant::now();
        let mut idle = Idleness::new(start);
        idle.looked(start + ms(1), cpu, no_question);
        (idle, start + ms(1))
    }

    #[test]
    fn a_host_that_does_not_run_is_idle_since_it_stopped() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        for look in 1..=7 {
            idle.looked(start + ms(500 * look), &[(7, ms(10))], no_question);
        }
        assert_eq!(idle.quiet_since(), start);
        assert_eq!(idle.next_look(IDLE_AFTER, ms(0)), start + IDLE_AFTER);
    }

    #[test]
    fn work_is_activity_and_housekeeping_is_not() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        idle.looked(start + ms(1000), &[(7, ms(15))], || traffic(5));
        assert_eq!(idle.last_activity().unwrap().1, Activity::Bytes, "it is not known yet");
        idle.looked(start + ms(2000), &[(7, ms(20))], || traffic(5));
        assert_eq!(idle.quiet_since(), start + ms(1000));
        idle.looked(start + ms(3000), &[(7, ms(50))], no_question);
        let expected = Activity::Cpu {
            pid: 7,
            used: ms(30),
            within: ms(1000),
        };
        assert_eq!(idle.last_activity(), Some((start + ms(3000), expected)));
    }

    #[test]
    fn bytes_on_a_connection_are_activity() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        idle.looked(start + ms(1000), &[(7, ms(11))], || traffic(5));
        idle.looked(start + ms(2000), &[(7, ms(12))], || traffic(5));
        assert_eq!(idle.quiet_since(), start + ms(1000));
        idle.looked(start + ms(3000), &[(7, ms(13))], || traffic(6));
        assert_eq!(idle.quiet_since(), start + ms(3000));
    }

    #[test]
    fn who_runs_while_its_connections_cannot_be_read_is_not_idle() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        for (at, cpu) in [(1000, 11), (2000, 12)] {
            idle.looked(start + ms(at), &[(7, ms(cpu))], || None);
            assert_eq!(idle.last_activity(), Some((start + ms(at), Activity::Unseen)));
        }
        idle.looked(start + ms(3000), &[(7, ms(12))], no_question);
        assert_eq!(idle.quiet_since(), start + ms(2000));
    }

    /// No clock of a process goes back.
    #[test]
    fn a_process_with_the_number_of_one_that_has_ended_has_come() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        idle.looked(start + ms(1000), &[(7, ms(9))], no_question);
        assert_eq!(idle.last_activity(), Some((start + ms(1000), Activity::Processes)));
    }

    #[test]
    fn a_process_that_comes_or_goes_is_activity() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        idle.looked(start + ms(1000), &[(7, ms(10)), (8, ms(0))], no_question);
        assert_eq!(idle.last_activity().unwrap().1, Activity::Processes);
        idle.looked(start + ms(2000), &[(8, ms(0))], no_question);
        assert_eq!(idle.quiet_since(), start + ms(2000));
    }

    #[test]
    fn bytes_are_as_old_as_the_kernel_says() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        let heard = |fingerprint, count, heard| {
            move || {
                Some(Traffic {
                    fingerprint,
                    count,
                    heard: ms(heard),
                })
            }
        };
        idle.looked(start + ms(1000), &[(7, ms(11))], heard(5, 1, 400));
        assert_eq!(idle.quiet_since(), start + ms(600) + HEARD_PRECISION);
        idle.looked(start + ms(2000), &[(7, ms(12))], heard(6, 2, 300));
        assert_eq!(idle.quiet_since(), start + ms(1700) + HEARD_PRECISION);
        idle.looked(start + ms(3000), &[(7, ms(13))], heard(7, 1, 800));
        assert_eq!(idle.quiet_since(), start + ms(3000), "when one ended nobody says");
    }

    #[test]
    fn what_came_is_activity_though_nothing_is_left_of_it() {
        let seen = |came, unseen, went| Seen {
            came,
            unseen,
            went,
            own: true,
        };
        let look = |cpu, seen, child, unasked| {
            let trace = Trace { seen, child, unasked };
            let (mut idle, start) = observed(&[(7, ms(10))]);
            idle.looked(start + ms(1000), &[(7, ms(11))], || traffic(5));
            idle.look(read_from(start + ms(2000)), &[(7, ms(cpu))], trace, || traffic(5));
            idle.last_activity()
                .filter(|(at, _)| *at == start + ms(2000))
                .map(|(_, activity)| activity)
        };
        assert_eq!(look(12, seen(false, false, false), false, false), None, "only its own");
        assert_eq!(
            look(12, seen(true, false, false), false, false),
            Some(Activity::Arrival)
        );
        assert_eq!(
            look(11, seen(true, false, false), false, false),
            Some(Activity::Arrival)
        );
        assert_eq!(
            look(12, seen(false, false, true), false, false),
            Some(Activity::Connect)
        );
        assert_eq!(
            look(12, seen(false, false, false), true, false),
            Some(Activity::Processes)
        );
        assert_eq!(look(12, seen(false, true, false), false, false), Some(Activity::Unseen));
        assert_eq!(look(11, seen(false, true, false), false, false), None, "it has not run");
        assert_eq!(
            look(12, seen(false, false, false), false, true),
            Some(Activity::Unasked)
        );
    }

    #[test]
    fn looks_rest_when_they_have_used_up_their_share() {
        let (mut idle, mut now) = observed(&[(7, ms(10))]);
        let mut cost = Duration::ZERO;
        let began = now;
        for _ in 0..20 {
            idle.looked(now, &[(7, ms(10))], no_question);
            cost += ms(3);
            now = idle.next_look(LONGEST_BUSY_PAUSE, ms(3)).max(now + ms(1));
        }
        assert!(cost < (now - began) / 1000 + ms(13), "{cost:?} in {:?}", now - began);
    }

    #[test]
    fn a_call_began_between_the_looks_at_which_its_process_ran_last() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        idle.looked(start + ms(1000), &[(7, ms(11))], || traffic(0));
        idle.looked(start + ms(2000), &[(7, ms(11))], no_question);
        let expected = Bounds {
            earliest: start,
            // The process may have made the call just after the reading of the clock.
            latest: start + ms(1000) + READING,
        };
        assert_eq!(idle.began(7, start, start + ms(3000)), expected);
        let floor = start + ms(500);
        assert_eq!(idle.began(7, floor, start + ms(3000)).earliest, floor);
        assert_eq!(idle.began(9, floor, start + ms(3000)).latest, start + ms(3000));
    }

    #[test]
    fn looking_at_a_busy_host_takes_no_more_than_its_share() {
        let (mut idle, start) = observed(&[(7, ms(10))]);
        assert_eq!(
            idle.next_look(ms(40), ms(1)),
            start + ms(10),
            "it may have been a moment"
        );
        for look in 1..10 {
            idle.looked(start + ms(look), &[(7, ms(10 + look))], no_question);
        }
        assert_eq!(idle.next_look(ms(40), ms(1)), start + ms(9) + ms(1000));
        assert_eq!(idle.next_look(ms(40), Duration::ZERO), start + ms(9) + ms(10));
        idle.looked(start + ms(5000), &[(7, ms(1000))], no_question);
        let start = start + ms(5000);
        assert_eq!(
            idle.next_look(Duration::from_secs(3600), Duration::ZERO),
            start + LONGEST_PAUSE
        );
    }
}
