//! A clock that is never stepped, beside the clock that people read.
//!
//! CLOCK_REALTIME is stepped by administrators and by NTP, and so measures no duration.
//! CLOCK_BOOTTIME is never stepped and goes on while the machine is suspended (clock_gettime(2)),
//! but means nothing to people, or after a reboot.

use rustix::time::{ClockId, clock_gettime};

/// The most by which two readings of the same pair of clocks may differ without a step in between:
/// a microsecond each way, and the reader's delay.
pub const JITTER_US: i64 = 1_000;

/// How often the clocks are read anew if the reader was delayed in between.
const TRIES: u32 = 16;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_REALTIME: microseconds since the Unix epoch.
    pub wall_us: i64,
    /// CLOCK_BOOTTIME: microseconds since the machine's boot, in this process's time namespace.
    pub boot_us: i64,
}

impl Clocks {
    /// Now.
    pub fn read() -> Self {
        let mut best = Self::read_once();
        for _ in 0..TRIES {
            if best.1 < JITTER_US / 2 {
                break;
            }
            best = std::cmp::min_by_key(best, Self::read_once(), |(_, delay_us)| *delay_us);
        }
        best.0
    }

    /// Reads the clocks, and how long that took.
    fn read_once() -> (Self, i64) {
        let before = micros(ClockId::Boottime);
        let wall_us = micros(ClockId::Realtime);
        let after = micros(ClockId::Boottime);
        let boot_us = before + (after - before) / 2;
        (Self { wall_us, boot_us }, after - before)
    }

    /// By how much the wall clock is ahead of the other.
    pub fn ahead_us(self) -> i64 {
        self.wall_us.saturating_sub(self.boot_us)
    }
}

fn micros(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

/// Whether the wall clock was stepped between two differences of the clocks.
pub fn was_stepped(ahead_us: i64, later_us: i64) -> bool {
    ahead_us.abs_diff(later_us) > JITTER_US.unsigned_abs()
}

/// A moment whose wall-clock time is computed when it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Clocks);

impl Stamp {
    /// This moment.
    pub fn now() -> Self {
        Self(Clocks::read())
    }

    /// The moment by the current wall clock: microseconds since the Unix epoch. The same number
    /// each time, unless the clock was stepped.
    pub fn wall_us(self) -> u64 {
        self.as_of(Clocks::read())
    }

    fn as_of(self, now: Clocks) -> u64 {
        let (then, now) = (self.0.ahead_us(), now.ahead_us());
        let step_us = if was_stepped(then, now) { now - then } else { 0 };
        u64::try_from(self.0.wall_us.saturating_add(step_us)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn clocks(wall_us: i64, boot_us: i64) -> Clocks {
        Clocks { wall_us, boot_us }
    }

    #[test]
    fn a_moment_moves_with_the_steps_of_the_wall_clock() {
        let stamp = Stamp(clocks(10 * HOUR_US, HOUR_US));
        assert_eq!(stamp.as_of(clocks(11 * HOUR_US + 7, 2 * HOUR_US)), 10 * HOUR_US as u64);
        assert_eq!(
            stamp.as_of(clocks(5 * HOUR_US, 2 * HOUR_US)),
            4 * HOUR_US as u64,
            "it is an hour ago, whatever the time"
        );
        assert_eq!(stamp.as_of(clocks(0, 2 * HOUR_US)), 0, "before the epoch");
    }

    #[test]
    fn readings_of_the_clocks_fit_each_other() {
        let first = Clocks::read();
        let second = Clocks::read();
        assert!(second.boot_us >= first.boot_us);
        assert!(
            !was_stepped(first.ahead_us(), second.ahead_us()),
            "{first:?} {second:?}"
        );
    }
}
