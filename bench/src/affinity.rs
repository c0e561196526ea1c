//! Which processor a thread runs on.

use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this process's first thread, and threads made later, on one processor. On the data path
/// imsup has no part, so all that the scheduler's placement would add there is noise.
///
/// # Errors
/// As sched_setaffinity(2).
pub fn pin(cpu: Option<usize>) -> rustix::io::Result<()> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
}

/// Two different processors for a client and its server; `None` on a machine with a single
/// processor.
pub fn pair() -> Option<(usize, usize)> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus > 1).then_some((0, 1))
}
