//! CPU time of other processes: clock_getcpuclockid(3).

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// The CPU time of all threads of `pid`, ended ones included, in nanoseconds; `None` if the process
/// is gone.
pub fn process_cpu(pid: i32) -> Option<Duration> {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    Some(clock.now().ok()?.into())
}

/// The CPU time that the calling thread has used.
pub fn own_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The minor page faults of all children that the calling process has waited for.
pub fn faults_of_own_children() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(0, |usage| usage.minor_page_faults().unsigned_abs())
}
