//! Knowledge of the runtimes that programs are written for: deadlines that belong to the runtime
//! and not to the program.
//!
//! Only certain evidence counts: all other deadlines are work ahead until [`super::rhythm`] knows
//! better.

mod go;
mod jvm;
mod libuv;
mod ruby;

use super::deadlines::Call;
use imsup_linux::memory::ThreadMemory;
use imsup_linux::timers;

/// True if the deadline of a thread's call belongs to the runtime.
pub fn is_own_affair(tid: i32, call: &Call) -> bool {
    go::is_own_affair(call) || jvm::is_own_affair(tid, call) || libuv::is_own_affair(call, &ThreadMemory::of(tid))
}

/// True if a thread with a single wait may wait for the nearest of several timers, as the executors
/// of a JVM do.
pub fn has_executors(call: &Call) -> bool {
    jvm::is_machine(call.pid)
}

/// True if a process has POSIX timers that do not belong to the runtime.
pub fn has_posix_timers(pid: i32) -> bool {
    let is_own = || ruby::is_interpreter(pid) && !timers::has_posix_timers_but(pid, ruby::OWN_TIMERS);
    timers::has_posix_timers(pid) && !is_own()
}
