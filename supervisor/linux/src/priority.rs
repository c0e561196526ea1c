//! Which thread comes first: sched(7).

use super::syscall::syscall;

/// Lowers the priority of the calling thread. The thread runs only if no other thread wants the
/// processor, and gives way to any thread that wakes. A processor that only runs threads of this
/// class counts as idle (kernel/sched/fair.c, sched_idle_cpu). If the kernel refuses, the priority
/// stays unchanged.
pub fn stand_back() {
    let priority: libc::c_int = 0;
    // Not by the C library's sched_setscheduler, since musl's does nothing.
    // SAFETY: the kernel reads one number; 0 is the calling thread (sched_setscheduler(2)).
    let _ = unsafe { syscall!(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
}
