//! Which thread comes first: sched(7).

use super::syscall::syscall;

/// Makes the calling thread stand back: it runs where nobody else wants its processor, gives way at once to whoever wakes, and a processor that only runs such
/// threads counts as idle (kernel/sched/fair.c, sched_idle_cpu). Where the kernel refuses, it goes on as it is.
pub fn stand_back() {
    let priority: libc::c_int = 0;
    // Not by the C library's sched_setscheduler, since musl's does nothing.
    // SAFETY: the kernel reads one number; 0 is the calling thread (sched_setscheduler(2)).
    let _ = unsafe { syscall!(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
}
