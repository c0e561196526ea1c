//! Which thread comes first: sched(7).

/// Makes the calling thread stand back: it runs where nobody else wants its processor, gives way at once to whoever wakes, and a processor that only runs such
/// threads counts as idle (kernel/sched/fair.c, sched_idle_cpu). Where the kernel refuses, it goes on as it is.
pub fn stand_back() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one number; 0 is the calling thread (sched_setscheduler(2)).
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
}
