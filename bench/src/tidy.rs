//! Clean-up after killed benchmarks: a process of its own waits for their end, of any kind, and
//! removes what they left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroups;
use crate::sandbox::Sandbox;

/// The daemon and its containers, which the kernel kills after our death, take a moment to end.
const TIMEOUT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// Waits for the end of the standard input; the remaining content of `directory` is then left over.
///
/// # Errors
/// Something stays.
pub fn run(imsup: PathBuf, directory: &Path) -> Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("waiting for the benchmarks' end")?;
    if !directory.exists() {
        return Ok(());
    }
    let sandbox = Sandbox::left(imsup, directory);
    for entry in fs::read_dir(sandbox.runtime()).into_iter().flatten().flatten() {
        let _ = sandbox
            .command()
            .args(["down", "--forget", "-p"])
            .arg(entry.file_name())
            .output();
    }
    // Dead daemons' containers first: a frozen process cannot die.
    let deadline = Instant::now() + TIMEOUT;
    loop {
        cgroups::remove_left_behind();
        let left = inside(directory);
        for pid in &left {
            let _ = kill_process(*pid, Signal::KILL);
        }
        let removed = left.is_empty() && fs::remove_dir_all(directory).is_ok();
        if removed && cgroups::left_behind().is_empty() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{} cannot be removed", directory.display());
        std::thread::sleep(LOOK);
    }
}

/// The processes whose working directory is there, which is so of all servers and clients that are
/// started: proc_pid_cwd(5).
fn inside(directory: &Path) -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path.starts_with(directory)))
        .filter_map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect()
}
