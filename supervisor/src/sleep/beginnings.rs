//! Since when the calls that a held host is in can have lasted: pure.
//!
//! A look reads the CPU clocks of processes, which bound the beginnings of the processes' calls
//! ([`super::idle::Idleness::began`]). Between the look and the hold a thread may run and make
//! another call. That call would be taken for a call as old as the look. Holding threads uses CPU
//! time of the threads, so the clocks tell no more afterwards. Therefore the threads' calls and
//! then the clocks are read once more just before the hold, and each thread is compared after the
//! stop.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::calls;
use super::deadlines::{Bounds, CallKey};
use imsup_linux::stopped::{At, StoppedThread};

/// How a thread is held. Each step adds one wait to the count of the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// By ptrace(2) (kernel/signal.c, ptrace_stop).
    Stopped,
    /// By the freezer (kernel/signal.c, do_freezer_trap), and stopped since.
    Frozen,
}

impl Held {
    fn waits(self) -> u64 {
        match self {
            Self::Stopped => 1,
            Self::Frozen => 2,
        }
    }
}

/// The calls of a host's threads just before the hold.
#[derive(Debug, Default)]
pub struct Before {
    /// By thread: the call, and how often the thread had waited, if that was read.
    calls: HashMap<i32, (i64, CallKey, Option<u64>)>,
    /// Processes that ran between the look and `read_at`.
    ran: HashSet<i32>,
    /// The time when the processes' clocks had been read, after the calls. `None` until then.
    read_at: Option<Instant>,
}

impl Before {
    /// Notes the present call of a thread. The number of the thread's waits is read only for a call
    /// that may have a time limit enforced by imsup: the kernel enforces the limit of any other
    /// call. `waits` returns `None` for a call that had no limit when last seen: a call with a
    /// limit by now is a new call.
    pub fn note(&mut self, tid: i32, number: i64, key: CallKey, waits: impl FnOnce() -> Option<u64>) {
        let waits = calls::may_be_told(number, &key.args).then(waits).flatten();
        self.calls.insert(tid, (number, key, waits));
    }

    /// The threads whose waits are counted.
    pub fn counted(&self) -> impl Iterator<Item = i32> {
        self.calls.iter().filter_map(|(tid, (_, _, waits))| waits.map(|_| *tid))
    }

    /// Notes which processes ran since the look. The clocks were read after all calls, and until
    /// `read_at`.
    pub fn note_clocks(&mut self, ran: HashSet<i32>, read_at: Instant) {
        self.ran = ran;
        self.read_at = Some(read_at);
    }

    /// The bounds of the beginning of a held thread's call. `looked` holds the bounds that the look
    /// shows for the process. `waits` returns how often the thread has waited by now. A call that
    /// may be new can be as young as `now`.
    pub fn began(
        &self,
        thread: &StoppedThread,
        looked: Bounds,
        waits: impl FnOnce() -> Option<u64>,
        held: Held,
        now: Instant,
    ) -> Bounds {
        let latest = match self.read_at {
            Some(_) if !self.is_same_call(thread, waits, held) => now,
            Some(read_at) if self.ran.contains(&thread.pid) => read_at,
            Some(_) => looked.latest,
            None => now,
        };
        Bounds {
            latest: latest.max(looked.latest),
            ..looked
        }
    }

    /// True if a held thread is certainly in the same call as before.
    fn is_same_call(&self, thread: &StoppedThread, waits: impl FnOnce() -> Option<u64>, held: Held) -> bool {
        let At::Blocked {
            number, args, stack, ..
        } = thread.at
        else {
            return false;
        };
        let Some((before, key, waited)) = self.calls.get(&thread.tid) else {
            return false;
        };
        if (*before, *key) != (number, CallKey { args, stack }) {
            return false;
        }
        // The same call with the same arguments, made again, has waited again (a loop of
        // accept(2)).
        match waited {
            Some(waited) => waits().is_some_and(|waits| waits <= waited + held.waits()),
            None => !calls::may_be_told(number, &args),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: CallKey = CallKey {
        args: [3, 0, 0, 0, 0, 0],
        stack: 99,
    };

    fn held(number: i64, key: CallKey) -> StoppedThread {
        let at = At::Blocked {
            number,
            args: key.args,
            stack: key.stack,
            eintr: false,
            mark: 0,
        };
        StoppedThread { pid: 10, tid: 11, at }
    }

    /// The instants of a look, of the clocks before the hold, and of the hold.
    struct Times {
        looked: Bounds,
        clocks: Instant,
        now: Instant,
    }

    fn times() -> Times {
        let now = Instant::now();
        Times {
            looked: Bounds {
                earliest: now.checked_sub(Duration::from_secs(9)).unwrap(),
                latest: now.checked_sub(Duration::from_secs(8)).unwrap(),
            },
            clocks: now.checked_sub(Duration::from_millis(20)).unwrap(),
            now,
        }
    }

    /// The bounds of a call that a thread is held in, which was in accept(2) and had waited 7
    /// times.
    fn began(times: &Times, ran: &[i32], thread: &StoppedThread, waits: Option<u64>) -> Bounds {
        let mut before = Before::default();
        before.note(11, libc::SYS_accept, KEY, || Some(7));
        before.note_clocks(ran.iter().copied().collect(), times.clocks);
        let began = before.began(thread, times.looked, || waits, Held::Stopped, times.now);
        assert_eq!(
            began.earliest, times.looked.earliest,
            "the earliest is what the look says"
        );
        began
    }

    #[test]
    fn a_call_that_lasts_since_before_the_look_is_as_old_as_the_look_says() {
        let times = times();
        let accept = held(libc::SYS_accept, KEY);
        assert_eq!(began(&times, &[], &accept, Some(8)), times.looked);
        assert_eq!(began(&times, &[99], &accept, Some(8)), times.looked, "another ran");
    }

    #[test]
    fn a_call_made_between_the_look_and_the_clocks_may_be_as_young_as_the_clocks() {
        let times = times();
        let latest = began(&times, &[10], &held(libc::SYS_accept, KEY), Some(8)).latest;
        assert_eq!(latest, times.clocks);
    }

    #[test]
    fn a_call_made_between_the_clocks_and_the_hold_may_be_as_young_as_the_hold() {
        let times = times();
        let accept = held(libc::SYS_accept, KEY);
        for (thread, waits, why) in [
            (held(libc::SYS_epoll_wait, KEY), Some(8), "another call"),
            (
                held(libc::SYS_accept, CallKey { stack: 98, ..KEY }),
                Some(8),
                "from another place",
            ),
            (accept, Some(9), "the same one made again"),
            (accept, None, "nobody knows"),
            (StoppedThread { tid: 12, ..accept }, Some(8), "a thread that ran before"),
        ] {
            for ran in [&[][..], &[10]] {
                assert_eq!(began(&times, ran, &thread, waits).latest, times.now, "{why}");
            }
        }
        let mut uncounted = Before::default();
        uncounted.note(11, libc::SYS_accept, KEY, || None);
        uncounted.note_clocks(HashSet::new(), times.clocks);
        let began = uncounted.began(&accept, times.looked, || Some(8), Held::Stopped, times.now);
        assert_eq!(began.latest, times.now, "it had no limit before");
        let unread = Before::default().began(&accept, times.looked, || Some(8), Held::Stopped, times.now);
        assert_eq!(unread.latest, times.now);
    }

    #[test]
    fn a_thread_that_is_frozen_has_waited_once_more() {
        let times = times();
        let mut before = Before::default();
        before.note(11, libc::SYS_accept, KEY, || Some(7));
        before.note(12, libc::SYS_pause, KEY, || Some(7));
        before.note_clocks(HashSet::new(), times.clocks);
        assert_eq!(before.counted().collect::<Vec<_>>(), [11]);
        for (waits, latest) in [(9, times.looked.latest), (10, times.now)] {
            let accept = held(libc::SYS_accept, KEY);
            let began = before.began(&accept, times.looked, || Some(waits), Held::Frozen, times.now);
            assert_eq!(began.latest, latest, "{waits}");
        }
    }

    #[test]
    fn only_calls_that_imsup_tells_their_limit_are_asked_how_often_they_waited() {
        let mut before = Before::default();
        let never = || panic!("it is read for each thread, at each hold");
        let forever = CallKey {
            args: [5, 0, 8, u64::MAX, 0, 0],
            ..KEY
        };
        before.note(11, libc::SYS_epoll_wait, forever, never);
        before.note(12, libc::SYS_nanosleep, KEY, never);
        before.note(13, libc::SYS_futex, KEY, never);
        let times = times();
        before.note_clocks(HashSet::new(), times.clocks);
        let sleeping = StoppedThread {
            tid: 12,
            ..held(libc::SYS_nanosleep, KEY)
        };
        assert_eq!(
            before.began(&sleeping, times.looked, never, Held::Stopped, times.now),
            times.looked
        );
    }
}
