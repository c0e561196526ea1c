//! One traced thread: what it is waited for with, its end, and letting it go (ptrace(2),
//! waitid(2)).

use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions};

use super::process;

/// How long a thread that has not stopped is looked at again and again: five threads stop within
/// 150 us. No event can be waited for with a limit: SIGCHLD belongs to the receive loop, and pidfds
/// do not tell of stops.
pub(crate) const BUSY_WAIT: Duration = Duration::from_millis(1);

/// The interval of later checks.
pub(crate) const LATER_LOOK: Duration = Duration::from_micros(200);

/// `PTRACE_EVENT_STOP`: a stop by PTRACE_INTERRUPT or a group-stop of a seized thread.
pub(crate) const EVENT_STOP: i32 = 128;

/// Takes the exit status of a thread that ended while traced, for which the thread's process or
/// parent waits. The exit status of our own child is left to the wait of the child's parent.
///
/// Blocking: not at all (WNOHANG).
pub(crate) fn reap(pid: i32, tid: i32) {
    if tid == pid && process::status_field(pid, "PPid:") == Some(std::process::id().to_string()) {
        return;
    }
    if let Some(id) = rustix::process::Pid::from_raw(tid) {
        let _ = rustix::process::waitid(
            WaitId::Pid(id),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | wait_all(),
        );
    }
}

/// `__WALL`, also threads.
pub(crate) fn wait_all() -> WaitIdOptions {
    WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned())
}

/// PTRACE_DETACH with any signal.
pub(crate) fn detach_with(tid: i32, signal: i32) {
    let signal: *mut libc::c_void = std::ptr::without_provenance_mut(signal.cast_unsigned() as usize);
    // SAFETY: PTRACE_DETACH takes a thread id and a number and touches no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, std::ptr::null_mut::<libc::c_void>(), signal) };
}

/// PTRACE_CONT with any signal, including real-time signals, for which nix has no names.
pub(crate) fn resume(tid: i32, signal: i32) {
    let signal: *mut libc::c_void = std::ptr::without_provenance_mut(signal.cast_unsigned() as usize);
    // SAFETY: PTRACE_CONT takes a thread id and a number and touches no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_CONT, tid, std::ptr::null_mut::<libc::c_void>(), signal) };
}

/// Whether something traces a thread.
pub(crate) fn is_traced(tid: i32) -> bool {
    process::status_field(tid, "TracerPid:").is_some_and(|tracer| tracer != "0")
}

/// Whether a thread runs, or is about to.
pub(crate) fn is_runnable(tid: i32) -> bool {
    process::status_field(tid, "State:").is_some_and(|state| state.starts_with('R'))
}

/// Whether a thread is gone, a zombie, or dead.
pub(crate) fn has_ended(tid: i32) -> bool {
    process::status_field(tid, "State:").is_none_or(|state| state.starts_with(['Z', 'X']))
}
