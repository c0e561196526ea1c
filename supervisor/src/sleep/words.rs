//! Futexes in memory that is shared with other hosts and the machine: a wake of a futex does not
//! wake a held thread, so the value is compared.
//!
//! A futex that is not private may still lie in memory that is not shared: pthread_join(3) and the
//! first thread of a JVM wait for a futex in the process's own memory, which no process changes
//! while the host sleeps. The mapping shows the difference (proc_pid_maps(5)). Looking at a value
//! costs about 1 µs, and is done once per slack, without letting the host run.

use std::collections::HashSet;
use std::ops::Range;

use super::wait::Futex;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::process;
use imsup_linux::stopped::{At, StoppedThread};

/// `FUTEX_TID_MASK` and `FUTEX_OWNER_DIED` (linux/futex.h).
const TID_MASK: u32 = 0x3fff_ffff;
const OWNER_DIED: u32 = 0x4000_0000;

/// The number of futexes that are remembered as not shared.
const MAX_REMEMBERED: usize = 1024;

/// A shared futex, and the thread that waits.
#[derive(Clone, Copy, Debug)]
pub struct SharedWord {
    tid: i32,
    futex: Futex,
    /// The value when the thread was held; `None` if the value could not be read.
    was: Option<u32>,
}

impl SharedWord {
    /// True if the thread has work to do by now.
    pub fn has_changed(&self) -> bool {
        let now = read(self.tid, self.futex.address);
        match (self.futex.value, now) {
            (Some(awaited), Some(now)) => now != awaited,
            // Another thread has the lock as long as that thread's number is in the value.
            (None, Some(now)) => Some(now) != self.was || now & TID_MASK == 0 || now & OWNER_DIED != 0,
            // The memory is gone, which the call itself would find.
            (_, None) => self.was.is_some(),
        }
    }
}

/// Futexes that are known to be in memory that is not shared: thread, address and stack of the call
/// that waits.
#[derive(Debug, Default)]
pub struct PrivateWords {
    known: HashSet<(i32, u64, u64)>,
}

impl PrivateWords {
    /// Returns the shared futexes of these.
    pub fn sort_out(&mut self, futexes: &[(StoppedThread, Futex)]) -> Vec<SharedWord> {
        let mut found = Vec::new();
        let mut mappings: Option<(i32, Vec<Range<u64>>)> = None;
        for (thread, futex) in futexes {
            let At::Blocked { stack, .. } = thread.at else { continue };
            let key = (thread.tid, futex.address, stack);
            if self.known.contains(&key) {
                continue;
            }
            if mappings.as_ref().is_none_or(|(pid, _)| *pid != thread.pid) {
                mappings = Some((thread.pid, process::shared_mappings(thread.pid)));
            }
            let shared = mappings.iter().flat_map(|(_, ranges)| ranges);
            if shared.into_iter().any(|range| range.contains(&futex.address)) {
                found.push(SharedWord {
                    tid: thread.tid,
                    futex: *futex,
                    was: read(thread.tid, futex.address),
                });
                continue;
            }
            if self.known.len() >= MAX_REMEMBERED {
                self.known.clear();
            }
            self.known.insert(key);
        }
        found
    }
}

fn read(tid: i32, address: u64) -> Option<u32> {
    let bytes = ThreadMemory::of(tid).read_array(address).ok()?;
    Some(u32::from_ne_bytes(bytes))
}
