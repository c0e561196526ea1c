//! Seizing a thread: it is asked to stop, and waited for (ptrace(2), PTRACE_SEIZE and
//! PTRACE_INTERRUPT).
//!
//! Blocking: in the tracer's thread only, to the deadline and [`RUNNABLE_TIMEOUT`].

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions};

use super::{At, SeenThread, StopError};
use crate::registers;
use crate::tracee::{
    BUSY_WAIT, EVENT_STOP, LATER_LOOK, detach_with, has_ended, is_runnable, is_traced, reap, resume, wait_all,
};

/// How much longer a thread is waited for that is about to run, on a machine that has other work.
/// Bandwidth control keeps a thread off the processor for up to a second (cpu.max of cgroup v2).
const RUNNABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Seizes a thread and asks the thread to stop; false if the thread has ended.
pub(super) fn seize(seen: SeenThread, deadline: Instant) -> Result<bool, StopError> {
    let SeenThread { pid, tid, .. } = seen;
    let thread = Pid::from_raw(tid);
    if !seen.is_there() {
        return Ok(false);
    }
    match ptrace::seize(thread, ptrace::Options::empty()) {
        // The id belonged to another thread by then.
        Ok(()) if !seen.is_there() => {
            let_go(pid, tid, deadline);
            Ok(false)
        }
        Ok(()) => {
            // ESRCH: the thread has ended meanwhile, which the wait will report.
            let _ = ptrace::interrupt(thread);
            Ok(true)
        }
        Err(Errno::ESRCH) => Ok(false),
        // A zombie is EPERM, too.
        Err(_) if has_ended(tid) => Ok(false),
        Err(Errno::EPERM) if is_traced(tid) => Err(StopError::Traced { pid }),
        Err(errno) => Err(StopError::Refused { pid, errno }),
    }
}

/// Lets go a thread that was seized by mistake: the tracer may run for long, and would stop the
/// thread at the next signal. PTRACE_DETACH requires a stopped thread. A thread that does not stop
/// in time stays traced until the tracer ends.
fn let_go(pid: i32, tid: i32, deadline: Instant) {
    // ESRCH: the thread has ended meanwhile, which the wait reports.
    let _ = ptrace::interrupt(Pid::from_raw(tid));
    if matches!(await_stop(pid, tid, deadline), Ok(Some(_))) {
        detach_with(tid, 0);
    }
}

/// Waits for a seized thread's stop; `None` if the thread has ended.
pub(super) fn await_stop(pid: i32, tid: i32, deadline: Instant) -> Result<Option<At>, StopError> {
    // Only stops: the exit status of our own child is left to the code that waits for the child.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | wait_all();
    let Some(id) = rustix::process::Pid::from_raw(tid) else {
        return Ok(None);
    };
    let mut since = None;
    let mut is_last_look = false;
    loop {
        match rustix::process::waitid(WaitId::Pid(id), options) {
            Ok(Some(status)) => {
                let code = status.trapping_signal().unwrap_or(0);
                match (code >> 8, code & 0xff) {
                    (EVENT_STOP, libc::SIGTRAP) => match registers::read(tid) {
                        Ok(at) => return Ok(Some(at)),
                        // The thread was killed, and ends now.
                        Err(Errno::ESRCH) => {}
                        Err(errno) => {
                            let _ = ptrace::detach(Pid::from_raw(tid), None);
                            return Err(StopError::Refused { pid, errno });
                        }
                    },
                    (EVENT_STOP, _) => return Ok(Some(At::GroupStop)),
                    // The thread was about to take a signal when seized: the thread takes the
                    // signal, and then stops as requested.
                    (0, signal) => resume(tid, signal),
                    _ => resume(tid, 0),
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => {
                reap(pid, tid);
                return Ok(None);
            }
            Ok(None) if is_last_look => return Err(StopError::Busy { pid, tid }),
            Ok(None) => {
                let now = Instant::now();
                if now.duration_since(*since.get_or_insert(now)) < BUSY_WAIT {
                    std::thread::yield_now();
                    continue;
                }
                // The kernel reports a process's first thread that ends before others only after
                // the others have ended.
                if has_ended(tid) {
                    reap(pid, tid);
                    return Ok(None);
                }
                // A runnable thread stops as soon as the thread runs. Giving up on the thread would
                // make the interruption of its call visible. A thread that is not runnable may have
                // stopped since the last look.
                is_last_look = is_too_late(now, deadline, || is_runnable(tid));
                if is_last_look {
                    continue;
                }
                std::thread::sleep(LATER_LOOK);
            }
        }
    }
}

/// Whether a thread that has not stopped is given up.
fn is_too_late(now: Instant, deadline: Instant, is_runnable: impl FnOnce() -> bool) -> bool {
    now >= deadline && (now >= deadline + RUNNABLE_TIMEOUT || !is_runnable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gets_no_processor_is_waited_for_longer() {
        let deadline = Instant::now();
        let after = |late| is_too_late(deadline + late, deadline, || true);
        assert!(!after(Duration::from_secs(1)));
        assert!(after(Duration::from_secs(2)));
        assert!(is_too_late(deadline, deadline, || false));
        assert!(!is_too_late(deadline - Duration::from_millis(1), deadline, || false));
    }

    /// ptrace(2), PTRACE_DETACH.
    #[test]
    fn what_was_seized_by_mistake_is_let_go_at_once() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()).unwrap();
        assert!(is_traced(pid));
        let_go(pid, pid, Instant::now() + Duration::from_secs(60));
        let is_free = !is_traced(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_free);
    }
}
