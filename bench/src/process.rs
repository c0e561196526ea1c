//! The resources that processes and the kernel use.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::interrupt;

/// The memory of one process, in bytes: proc_pid_smaps(5), the sums of `smaps_rollup`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Pages that no other process has mapped.
    pub private: u64,
    /// Pages that others have mapped too.
    pub shared: u64,
    /// Private pages, and each shared page divided by its number of users.
    pub proportional: u64,
}

/// The memory of process `pid`.
///
/// # Errors
/// The process is gone, or not ours.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let sum = |names: &[&str]| names.iter().filter_map(|name| kib_line(&text, name)).sum::<u64>();
    Ok(Memory {
        private: sum(&["Private_Clean", "Private_Dirty", "Private_Hugetlb"]),
        shared: sum(&["Shared_Clean", "Shared_Dirty"]),
        proportional: sum(&["Pss"]),
    })
}

/// The kernel's memory, in bytes: proc_meminfo(5).
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The kernel's own objects: sockets, cgroups, epoll instances, processes.
    pub slab: u64,
    /// Memory that the kernel keeps once per processor: cgroups' counters.
    pub percpu: u64,
    /// Threads' kernel stacks.
    pub stacks: u64,
    /// Processes' page tables.
    pub page_tables: u64,
    /// Memory still available, to kernel and processes together.
    pub available: u64,
}

impl Kernel {
    /// The kernel's own memory.
    pub fn whole(&self) -> u64 {
        self.slab + self.percpu + self.stacks + self.page_tables
    }
}

/// The memory that the kernel takes.
///
/// # Errors
/// /proc/meminfo cannot be read.
pub fn kernel() -> Result<Kernel> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = |name: &str| kib_line(&text, name).with_context(|| format!("/proc/meminfo has no line '{name}'"));
    Ok(Kernel {
        slab: line("Slab")?,
        percpu: line("Percpu")?,
        stacks: line("KernelStack")?,
        page_tables: line("PageTables")?,
        available: line("MemAvailable")?,
    })
}

/// The processor time of a process, all its threads together, to the nanosecond:
/// clock_getcpuclockid(3). A running process's use since the last tick is not included.
///
/// # Errors
/// The process is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed())).with_context(|| format!("process {pid}"))?;
    let time = clock
        .now()
        .with_context(|| format!("asking for the processor time of process {pid}"))?;
    Ok(time.into())
}

/// The processor time of these processes in a second, in nanoseconds: watched for so long.
///
/// # Errors
/// A process is gone, or a signal came.
pub fn cpu_share(processes: &[u32], watched: Duration) -> Result<u64> {
    let sum = || processes.iter().map(|pid| cpu(*pid)).sum::<Result<Duration>>();
    let (start, before) = (Instant::now(), sum()?);
    interrupt::pause(watched)?;
    let (took, used) = (start.elapsed(), sum()?.saturating_sub(before));
    Ok((used.as_nanos() as f64 / took.as_secs_f64()) as u64)
}

/// The descendants of `pid`, as far as the kernel knows their parents; without `pid` itself.
///
/// # Errors
/// The process is gone.
pub fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut left = vec![pid];
    while let Some(parent) = left.pop() {
        // A process that ended meanwhile has no children.
        let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
            anyhow::ensure!(parent != pid, "process {pid} is gone");
            continue;
        };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            left.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        found.push(parent);
    }
    Ok(found.split_off(1))
}

/// The bytes of a line `NAME:  N kB`.
fn kib_line(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "Pss_Anon:  8 kB\nPss:     12 kB\n";
        assert_eq!(kib_line(text, "Pss"), Some(12 * 1024));
        assert_eq!(kib_line(text, "Rss"), None);
    }

    #[test]
    fn a_child_is_found_and_takes_time() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Threads of other tests end meanwhile, and hand their children to another thread: one look
        // may miss some (proc_tid_children(5)).
        let mut looks = (0..1_000).map(|_| descendants(std::process::id()).unwrap());
        let found = looks.find(|found| found.contains(&child.id())).unwrap_or_default();
        assert!(found.contains(&child.id()), "{found:?}");
        drop(child.stdin.take());
        // The latest use of another running process counts only at its next tick or switch
        // (thread_group_cputime in the kernel's kernel/sched/cputime.c updates only the caller's
        // own): a process is asked after its end, and before it is reaped.
        let pid = Pid::from_raw(child.id().cast_signed());
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        assert!(cpu(child.id()).unwrap() > Duration::ZERO);
        child.wait().unwrap();
        assert!(cpu(child.id()).is_err());
    }
}
