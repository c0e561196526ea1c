//! dockerd, with all its state in namespaces and directories of ours.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cgroups::Cgroups;
use crate::context::Context;
use crate::interrupt;
use crate::isolated::{self, Isolated};

/// The start takes about a second.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// containerd makes that directory.
const HIDE_OPT: &str = "if [ -d /opt ]; then mount -t tmpfs tmpfs /opt; fi\n";

/// The network of the daemon's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The machine's own.
    Machine,
    /// docker's bridge, in a network namespace of the daemon and its containers alone.
    Bridge,
}

/// How many were started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// The loopback of a network namespace that was just made.
const LOOPBACK_UP: &str = "ip link set lo up\n";

/// A running daemon: ended before its cgroups are removed.
#[derive(Debug)]
pub struct Daemon {
    isolated: Isolated,
    cgroups: Cgroups,
    socket: PathBuf,
}

impl Daemon {
    /// Starts the daemon, and waits until it listens.
    pub fn start(context: &Context, program: &Path, network: Network) -> Result<Self> {
        let (name, namespaces, script, bridge) = match network {
            Network::Machine => ("docker", None, HIDE_OPT.to_owned(), Some("--bridge=none")),
            Network::Bridge => ("docker-bridge", Some("--net"), format!("{LOOPBACK_UP}{HIDE_OPT}"), None),
        };
        // A later daemon finds no trace of an earlier one.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = context.sandbox.directory().join(format!("{name}-{number}"));
        std::fs::create_dir_all(&directory)?;
        let (socket, log) = (directory.join("docker.sock"), directory.join("log"));
        let cgroups = Cgroups::new(name);
        let mut command = isolated::command(namespaces, &format!("{script}exec \"$@\""));
        command
            .arg(program)
            .arg("--data-root")
            .arg(directory.join("data"))
            .arg("--exec-root")
            .arg(directory.join("exec"))
            .arg("--pidfile")
            .arg(directory.join("pid"))
            .arg(format!("--host=unix://{}", socket.display()))
            .arg(format!("--cgroup-parent={}", cgroups.name()))
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            ])
            .args(bridge)
            .args(["--userland-proxy=false", "--storage-driver=vfs", "--group="]);
        let mut daemon = Self {
            isolated: Isolated::start(command, &log)?,
            cgroups,
            socket,
        };
        daemon.wait().with_context(|| isolated::last_lines(&log))?;
        Ok(daemon)
    }

    /// The daemon, containerd, and all containers.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.isolated.processes()
    }

    /// The address on which the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.isolated.ended()? {
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
        self.cgroups.thaw();
    }
}
