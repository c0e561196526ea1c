//! dockerd, with everything it owns in namespaces and directories of ours.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Which network its containers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The machine's own.
    Machine,
    /// docker's bridge, in a network namespace that only the daemon and its containers are in.
    Bridge,
}

/// How many were started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// The loopback of a network namespace that was just made.
const LOOPBACK_UP: &str = "ip link set lo up";

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    cgroups: String,
}

impl Daemon {
    /// Starts it, and waits until it listens.
    pub fn start(context: &Context, program: &Path, network: Network) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "only root can");
        for parent in cgroups::left_behind() {
            cgroups::thaw(&parent);
            cgroups::remove(&parent);
        }
        let (name, isolation, script, bridge) = match network {
            Network::Machine => ("docker", None, HIDE.to_owned(), Some("--bridge=none")),
            Network::Bridge => ("docker-bridge", Some("--net"), format!("{LOOPBACK_UP}\n{HIDE}"), None),
        };
        // One that follows another finds nothing of it.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = context.sandbox.directory().join(format!("{name}-{number}"));
        std::fs::create_dir_all(&directory)?;
        let (socket, log) = (directory.join("docker.sock"), directory.join("log"));
        let out = File::create(&log).context("making docker's log")?;
        let parent = format!("{}-{name}", cgroups::parent());
        // All processes, containers too, are in one PID namespace: they die with its first one, which dies with us.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .args(isolation)
            .args(["sh", "-c", &script, "sh"])
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
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            ])
            .args(bridge)
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
