//! A daemon with all its children in namespaces of its own: its writes outside its directories are
//! invisible elsewhere, and everything dies with us.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// /run is empty, and what is written to /etc is gone with the namespace.
const HIDE: &str = "set -e
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
";

/// A running daemon; on drop all of its processes end.
#[derive(Debug)]
pub struct Isolated(Child);

/// Wraps a shell's `script`, which gets its arguments later: process 1 of a PID namespace, with
/// mounts of its own and these namespaces (options of unshare(1)).
pub fn command<'a>(namespaces: impl IntoIterator<Item = &'a str>, script: &str) -> Command {
    let mut command = Command::new("setpriv");
    // All processes are in one PID namespace: they die with its first process, which dies with us.
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(namespaces)
        .args(["sh", "-c", &format!("{HIDE}{script}"), "sh"]);
    command
}

impl Isolated {
    /// Starts such a command.
    ///
    /// # Errors
    /// We are not root, or util-linux is missing.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "only root can");
        let out = File::create(log).context("making its log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting it by setpriv and unshare (util-linux)")?;
        Ok(Self(child))
    }

    /// The status, if the daemon has ended.
    ///
    /// # Errors
    /// The status is not available.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("looking at it")
    }

    /// The daemon and all its descendants.
    ///
    /// # Errors
    /// systemd has ended.
    pub fn processes(&self) -> Result<Vec<u32>> {
        process::descendants(self.0.id())
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        // The first process of a PID namespace is gone only after all others (pid_namespaces(7)),
        // and unshare waits for that.
        let first = self.processes().ok().and_then(|found| found.first().copied());
        let first = first.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if first.is_none_or(|first| kill_process(first, Signal::KILL).is_err()) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// The daemon's last output.
pub fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join("\n")
}
