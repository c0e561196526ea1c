//! Timers of other processes: proc_pid_fdinfo(5), proc_pid_timers(5).

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::descriptors::{self, Kind};
use super::signals::SignalMasks;

/// An armed timerfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerFd {
    /// The process that has the timerfd open.
    pub pid: i32,
    /// The descriptor number.
    pub number: i32,
    /// The time until the timer expires.
    pub expires_in: Duration,
    /// The interval; zero for a timer that expires once.
    pub interval: Duration,
}

/// The armed timerfds of a process. A timerfd that has expired, but was not read, is left out,
/// because the descriptor is readable.
pub fn timerfds(pid: i32) -> Vec<TimerFd> {
    let all = descriptors::descriptors(pid).into_iter();
    all.filter(|(_, kind)| *kind == Kind::TimerFd)
        .filter_map(|(number, _)| {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
            let (expires_in, interval) = parse_timerfd(&info)?;
            Some(TimerFd {
                pid,
                number,
                expires_in,
                interval,
            })
        })
        .collect()
}

/// The time until the timer expires, and the interval; `None` if the timer is not armed.
fn parse_timerfd(info: &str) -> Option<(Duration, Duration)> {
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name))?;
        let (seconds, nanos) = value.trim().strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
        Some(Duration::new(seconds.parse().ok()?, nanos.parse().ok()?))
    };
    let value = field("it_value:")?;
    (!value.is_zero()).then_some((value, field("it_interval:")?))
}

/// True if a process has POSIX timers (timer_create(2)), armed or not, except timers on CPU-time
/// clocks, which stand still while the process sleeps. True if the kernel does not show timers (no
/// CONFIG_CHECKPOINT_RESTORE).
pub fn has_posix_timers(pid: i32) -> bool {
    has_posix_timers_but(pid, &[])
}

/// The same, except timers that send one of these signals.
pub fn has_posix_timers_but(pid: i32, signals: &[i32]) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/timers")) {
        Ok(timers) => has_real_timer(&timers, signals),
        Err(error) => error.kind() == io::ErrorKind::NotFound && Path::new(&format!("/proc/{pid}/stat")).exists(),
    }
}

fn has_real_timer(timers: &str, but: &[i32]) -> bool {
    // Of each timer the signal comes first, then the clock (fs/proc/base.c, show_timer).
    let mut left_out = false;
    timers.lines().any(|line| {
        if let Some(signal) = line.strip_prefix("signal:") {
            let number = signal.split('/').next().and_then(|number| number.trim().parse().ok());
            left_out = number.is_some_and(|number: i32| but.contains(&number));
        }
        let clock = line
            .strip_prefix("ClockID:")
            .and_then(|clock| clock.trim().parse().ok());
        clock.is_some_and(|clock: i32| {
            // Negative numbers are CPU-time clocks of a process or thread (clock_getcpuclockid(3)).
            !left_out && clock >= 0 && clock != libc::CLOCK_PROCESS_CPUTIME_ID && clock != libc::CLOCK_THREAD_CPUTIME_ID
        })
    })
}

/// True if a process may have an interval timer (setitimer(2), alarm(2)), which /proc does not
/// show: the process catches SIGALRM, or blocks the signal to take it with sigwait(3) or
/// signalfd(2).
pub fn may_have_interval_timer(pid: i32) -> bool {
    const ALARM: u64 = 1 << (libc::SIGALRM - 1);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks = SignalMasks::parse(&status);
    (masks.caught | masks.blocked) & ALARM != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timerfd_is_armed_while_something_is_left() {
        let info = |value: &str| {
            format!("pos:\t0\nflags:\t02\nclockid: 1\nticks: 0\nit_value: {value}\nit_interval: (1, 500000000)\n")
        };
        assert_eq!(
            parse_timerfd(&info("(49, 406829391)")),
            Some((Duration::new(49, 406_829_391), Duration::from_millis(1500)))
        );
        assert_eq!(parse_timerfd(&info("(0, 0)")), None);
        assert_eq!(parse_timerfd("pos: 0\n"), None);
    }

    #[test]
    fn timers_on_cpu_clocks_do_not_count() {
        let timer = |clock: i32| format!("ID: 0\nsignal: 60/00007fff\nnotify: signal/pid.2634\nClockID: {clock}\n");
        assert!(has_real_timer(&timer(libc::CLOCK_MONOTONIC), &[]));
        assert!(has_real_timer(&(timer(2) + &timer(0)), &[]));
        assert!(!has_real_timer(&(timer(2) + &timer(3) + &timer(-18)), &[]));
        assert!(!has_real_timer("", &[]));
    }

    #[test]
    fn timers_that_send_a_signal_can_be_left_out() {
        let timer = |signal: i32| format!("ID: 0\nsignal: {signal}/00007fff\nnotify: signal/pid.2634\nClockID: 1\n");
        assert!(!has_real_timer(&timer(26), &[libc::SIGVTALRM]));
        assert!(has_real_timer(&(timer(26) + &timer(14)), &[libc::SIGVTALRM]));
        assert!(has_real_timer(&(timer(14) + &timer(26)), &[libc::SIGVTALRM]));
    }
}
