//! What processes and the kernel use.

use anyhow::{Context, Result};

/// What one process uses, in bytes: proc_pid_smaps(5), the sums of `smaps_rollup`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Pages that no other process has mapped.
    pub private: u64,
    /// Pages that others have mapped too.
    pub shared: u64,
    /// Private pages, and each shared one divided by the number of its users.
    pub proportional: u64,
}

/// What process `pid` uses.
///
/// # Errors
/// It is gone, or not ours.
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

/// The kernel's own objects, sockets among them, in bytes: proc_meminfo(5), `Slab`.
///
/// # Errors
/// /proc/meminfo cannot be read.
pub fn kernel_objects() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    kib_line(&text, "Slab").context("/proc/meminfo has no line 'Slab'")
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
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "Pss_Anon:  8 kB\nPss:     12 kB\n";
        assert_eq!(kib_line(text, "Pss"), Some(12 * 1024));
        assert_eq!(kib_line(text, "Rss"), None);
    }
}
