//! Processes that begin and end between two looks. These processes leave CPU time or page faults
//! that no live process has.

use std::collections::HashMap;
use std::time::Duration;

use super::tree::ProcessTree;
use imsup_linux::{cpu, process};

/// The CPU time that ended threads leave in the account of the cgroup and not of the process: 5 to
/// 8 us each (measured). The shortest child of fork(2) leaves 115 us, a child that executes a
/// program 600.
const OF_THREADS: Duration = Duration::from_micros(40);

/// The traces of processes that have ended.
#[derive(Debug, Default)]
pub struct Children {
    /// The upper bound of the CPU time of ended processes; `None` before the first reading, or
    /// without a cgroup.
    ended: Option<Duration>,
    /// The page faults of the children that each process has waited for (proc_pid_stat(5),
    /// cminflt), with the CPU time of the process at the reading. A process that has not run since
    /// has waited for no child. cutime would have units of 10 ms.
    faults: HashMap<i32, (Duration, u64)>,
    /// The same, of orphans that the supervisor has waited for.
    orphans: u64,
}

impl Children {
    /// True if a process has begun and ended since the last call. `cpu` is the CPU time of each
    /// live process, just read.
    pub fn came(&mut self, tree: &ProcessTree, cpu: &[(i32, Duration)]) -> bool {
        match tree.cpu() {
            Some(accounted) => self.came_by_account(tree, accounted, cpu),
            None => self.came_by_faults(cpu),
        }
    }

    /// Decides by the cgroup's account, which includes ended processes. The account was read after
    /// the clocks of the live processes, so other processes used at most the difference.
    fn came_by_account(&mut self, tree: &ProcessTree, accounted: Duration, cpu: &[(i32, Duration)]) -> bool {
        let most = accounted.saturating_sub(total(cpu));
        let Some(before) = self.ended.replace(most) else {
            return false;
        };
        let limit = before + OF_THREADS;
        if most <= limit {
            return false;
        }
        // Perhaps the live processes ran meanwhile. Read in reverse order, the difference is a
        // lower bound.
        let accounted = tree.cpu().unwrap_or_default();
        let again: Vec<_> = cpu
            .iter()
            .filter_map(|(pid, _)| Some((*pid, cpu::process_cpu(*pid)?)))
            .collect();
        again.len() == cpu.len() && accounted.saturating_sub(total(&again)) > limit
    }

    fn came_by_faults(&mut self, cpu: &[(i32, Duration)]) -> bool {
        let mut came = false;
        let mut next = HashMap::with_capacity(cpu.len());
        for (pid, used) in cpu {
            let before = self.faults.get(pid).copied();
            let now = match before {
                Some((at, faults)) if at == *used => faults,
                _ => process::faults_of_children(*pid).unwrap_or(0),
            };
            came |= before.is_some_and(|(_, faults)| faults != now);
            next.insert(*pid, (*used, now));
        }
        self.faults = next;
        let orphans = cpu::faults_of_own_children();
        let before = std::mem::replace(&mut self.orphans, orphans);
        came || (before != 0 && before != orphans)
    }
}

fn total(cpu: &[(i32, Duration)]) -> Duration {
    cpu.iter().map(|(_, used)| *used).sum()
}
