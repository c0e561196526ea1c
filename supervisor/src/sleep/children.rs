//! Processes that begin and end between two looks: they leave CPU time, or page faults, that no live process has.

use std::collections::HashMap;
use std::time::Duration;

use super::tree::Tree;
use imsup_linux::{cpu, process};

/// What threads that end leave in their cgroup's account and not in their process's: 5 to 8 us each (measured). The shortest child that fork(2) makes
/// leaves 115 us, one that executes a program 600.
const OF_THREADS: Duration = Duration::from_micros(40);

/// What is known of processes that have ended.
#[derive(Debug, Default)]
pub struct Children {
    /// The CPU time of processes that have ended, at most; `None` before it was first read, or without a cgroup.
    ended: Option<Duration>,
    /// The page faults of the children that each process has waited for (proc_pid_stat(5), cminflt), with its CPU time then: who has not run since
    /// has waited for nobody. cutime would have units of 10 ms.
    faults: HashMap<i32, (Duration, u64)>,
    /// The same, of orphans that the supervisor has waited for.
    orphans: u64,
}

impl Children {
    /// Whether a process has begun and ended since this was last asked; `cpu` is what each live one has used, just read.
    pub fn came(&mut self, tree: &Tree, cpu: &[(i32, Duration)]) -> bool {
        match tree.cpu() {
            Some(accounted) => self.came_by_account(tree, accounted, cpu),
            None => self.came_by_faults(cpu),
        }
    }

    /// By the cgroup's account, which has ended processes in it: it was read after the clocks of live ones, so at most the difference was used by others.
    fn came_by_account(&mut self, tree: &Tree, accounted: Duration, cpu: &[(i32, Duration)]) -> bool {
        let most = accounted.saturating_sub(total(cpu));
        let Some(before) = self.ended.replace(most) else {
            return false;
        };
        let limit = before + OF_THREADS;
        if most <= limit {
            return false;
        }
        // It may be the live ones that ran meanwhile: read the other way round, it is at least the difference.
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
