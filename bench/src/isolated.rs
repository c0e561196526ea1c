//! A daemon with all its children in namespaces of its own: what it writes outside its directories is seen by nobody else, and everything
//! dies with us.

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

/// A running daemon; all of its processes have ended when this is dropped.
#[derive(Debug)]
pub struct Isolated(Child);

/// What a shell's `script` becomes, to be given its arguments: process 1 of a PID namespace, with mounts of its own and these namespaces,
/// which are options of unshare(1).
pub fn command<'a>(namespaces: impl IntoIterator<Item = &'a str>, script: &str) -> Command {
    let mut command = Command::new("setpriv");
    // All processes are in one PID namespace: they die with its first one, which dies with us.
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

    /// Its status, where it has ended.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("looking at it")
    }

    /// It and all that it has started.
    ///
    /// # Errors
    /// It has ended.
    pub fn processes(&self) -> Result<Vec<u32>> {
        process::descendants(self.0.id())
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        // The first process of a PID namespace is gone only when all the others are (pid_namespaces(7)), and unshare waits for it.
        let first = self.processes().ok().and_then(|found| found.first().copied());
        let first = first.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if first.is_none_or(|first| kill_process(first, Signal::KILL).is_err()) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// What it said last.
pub fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join("\n")
}
