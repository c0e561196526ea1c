//! Futexes in memory that other hosts and the machine share: whoever wakes one wakes nobody whose thread is held, so its value is compared.
//!
//! A futex that is not private lies in shared memory or not: pthread_join(3) and the first thread of a JVM wait for one in memory of their own, which nobody
//! changes while their host sleeps. The mapping tells (proc_pid_maps(5)). Looking at a value costs about 1 µs, and is done once per slack, without letting
//! the host run.

use std::collections::HashSet;
use std::ops::Range;

use super::wait::Futex;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::process;
use imsup_linux::stopped::{At, StoppedThread};

/// `FUTEX_TID_MASK` and `FUTEX_OWNER_DIED` (linux/futex.h).
const TID_MASK: u32 = 0x3fff_ffff;
const OWNER_DIED: u32 = 0x4000_0000;

/// So many futexes are remembered as nobody else's.
const MAX_REMEMBERED: usize = 1024;

/// A futex that others share, and the thread that waits for it.
#[derive(Clone, Copy, Debug)]
pub struct SharedWord {
    tid: i32,
    futex: Futex,
    /// What it was when the thread was held; `None` where it could not be read.
    was: Option<u32>,
}

impl SharedWord {
    /// Whether the thread has something to do by now.
    pub fn has_changed(&self) -> bool {
        let now = read(self.tid, self.futex.address);
        match (self.futex.value, now) {
            (Some(awaited), Some(now)) => now != awaited,
            // A lock is had by another thread as long as that one's number is in it.
            (None, Some(now)) => Some(now) != self.was || now & TID_MASK == 0 || now & OWNER_DIED != 0,
            // The memory is gone, which the call itself would find.
            (_, None) => self.was.is_some(),
        }
    }
}

/// Futexes that are known to be in memory that nobody shares: thread, address and stack of the call that waits.
#[derive(Debug, Default)]
pub struct PrivateWords {
    known: HashSet<(i32, u64, u64)>,
}

impl PrivateWords {
    /// Those of these futexes that others share.
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
