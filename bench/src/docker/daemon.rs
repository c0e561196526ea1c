//! dockerd, with everything it owns in namespaces and directories of ours.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::cgroups;
use crate::context::Context;
use crate::interrupt;
use crate::process;

/// It takes about a second.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// In a mount namespace of its own: what dockerd and containerd write outside their directories (/run, /etc/docker/key.json,
/// /opt/containerd) is seen by nobody else, and gone with them.
const HIDE: &str = "set -e
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
if [ -d /opt ]; then mount -t tmpfs tmpfs /opt; fi
exec \"$@\"";

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    cgroups: String,
}

impl Daemon {
    /// Starts it, and waits until it listens.
    pub fn start(context: &Context, program: &Path) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "only root can");
        for parent in cgroups::left_behind() {
            cgroups::thaw(&parent);
            cgroups::remove(&parent);
        }
        let directory = context.sandbox.directory().join("docker");
        std::fs::create_dir_all(&directory)?;
        let (socket, log) = (directory.join("docker.sock"), directory.join("log"));
        let out = File::create(&log).context("making docker's log")?;
        let parent = cgroups::parent();
        // All processes, containers too, are in one PID namespace: they die with its first one, which dies with us.
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child",
            ])
            .args(["sh", "-c", HIDE, "sh"])
            .arg(program)
            .arg("--data-root")
            .arg(directory.join("data"))
            .arg("--exec-root")
            .arg(directory.join("exec"))
            .arg("--pidfile")
            .arg(directory.join("pid"))
            .arg(format!("--host=unix://{}", socket.display()))
            .arg(format!("--cgroup-parent={parent}"))
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            ])
            .args(["--userland-proxy=false", "--storage-driver=vfs", "--group="])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting it by setpriv and unshare (util-linux)")?;
        let mut daemon = Self {
            child,
            socket,
            cgroups: parent,
        };
        daemon.wait().with_context(|| last_lines(&log))?;
        Ok(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("it did not listen within {} s", PATIENCE.as_secs());
            }
            interrupt::pause(LOOK)?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        cgroups::thaw(&self.cgroups);
        // The first process of a PID namespace is gone only when all the others are (pid_namespaces(7)), and unshare waits for it.
        let first = process::descendants(self.child.id())
            .ok()
            .and_then(|found| found.first().copied());
        let first = first.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if first.is_none_or(|first| kill_process(first, Signal::KILL).is_err()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        cgroups::remove(&self.cgroups);
    }
}

/// What it said last.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join("\n")
}
