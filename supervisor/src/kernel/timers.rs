//! Timers of other processes: proc_pid_fdinfo(5), proc_pid_timers(5).

use std::time::Duration;

/// An armed timerfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerFd {
    /// The process that has it open.
    pub pid: i32,
    /// Its descriptor number.
    pub number: i32,
    /// How long until it expires.
    pub expires_in: Duration,
    /// Its interval; zero for one that expires once.
    pub interval: Duration,
}

/// The armed timerfds of a process.
pub fn timerfds(_pid: i32) -> Vec<TimerFd> {
    Vec::new()
}

/// Whether a process has POSIX timers other than on CPU-time clocks.
pub fn has_posix_timers(_pid: i32) -> bool {
    false
}

/// Whether a process may have an interval timer, which /proc does not show: SIGALRM is caught or blocked.
pub fn may_have_interval_timer(_pid: i32) -> bool {
    false
}
