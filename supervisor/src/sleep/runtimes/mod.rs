//! What is known of the runtimes that programs are written for: which of their deadlines are their own affair, and none of the program's.
//!
//! Only what can be read for certain counts: of anything else nothing is said, and its deadlines are work ahead until [`super::rhythm`] knows better.

mod go;
mod jvm;
mod libuv;
mod ruby;

use super::deadlines::Call;
use imsup_linux::memory::ThreadMemory;
use imsup_linux::timers;

/// Whether the deadline of a thread's call is its runtime's own affair.
pub fn is_own_affair(tid: i32, call: &Call) -> bool {
    go::is_own_affair(call) || jvm::is_own_affair(tid, call) || libuv::is_own_affair(call, &ThreadMemory::of(tid))
}

/// Whether a thread that waits for one thing alone may wait for the nearest of several timers, as the executors of a JVM do.
pub fn has_executors(call: &Call) -> bool {
    jvm::is_machine(call.pid)
}

/// Whether a process has POSIX timers that are not its runtime's own affair.
pub fn has_posix_timers(pid: i32) -> bool {
    let is_own = || ruby::is_interpreter(pid) && !timers::has_posix_timers_but(pid, ruby::OWN_TIMERS);
    timers::has_posix_timers(pid) && !is_own()
}
