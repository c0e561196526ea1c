//! A whole systemd: process 1 of namespaces of its own, with our units only. Its sockets are on the
//! machine's loopback.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::systemd;
use super::units::{self, Unit};
use crate::cgroups::{self, Cgroups};
use crate::command;
use crate::context::{Baseline, Context};
use crate::interrupt;
use crate::isolated::{self, Isolated};

/// The target that is started.
const TARGET: &str = "imsup-bench";
/// The time between two checks whether systemd lives, or whether a service has ended.
const LOOK: Duration = Duration::from_millis(5);
/// An unused service ends within milliseconds.
const ENDS: Duration = Duration::from_secs(20);

/// The shell becomes the program in a cgroup of its own, which is the root of the hierarchy that
/// the program sees. Process 1 cannot write elsewhere (the machine's console, log and sysctls):
/// systemd respects the limits of a container (its CONTAINER_INTERFACE).
const SCRIPT: &str = r#"mkdir "$1"
echo 0 > "$1/cgroup.procs"
shift
exec unshare --cgroup sh -ec '
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
for device in /dev/console /dev/kmsg; do if [ -e $device ]; then mount --bind /dev/null $device; fi; done
exec "$@"' sh "$@""#;

/// How many were started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// A running systemd: ended before its cgroups are removed.
#[derive(Debug)]
pub struct Manager {
    isolated: Isolated,
    _cgroups: Cgroups,
    root: PathBuf,
    /// The time from the start of the process until all wanted units had started.
    pub took: Duration,
}

impl Manager {
    /// Its version.
    ///
    /// # Errors
    /// systemd is not installed.
    pub fn version() -> Result<String> {
        let text = command::output(std::process::Command::new(program()?).arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Starts systemd with these units, and waits until the wanted units have started.
    ///
    /// # Errors
    /// systemd is not installed, we are not root, there is no cgroup v2, or the units do not start
    /// within `timeout`.
    pub fn start(context: &Context, units: &[Unit], wanted: &[Unit], timeout: Duration) -> Result<Self> {
        context.wants(Baseline::Systemd)?;
        let program = program()?;
        let unified = cgroups::unified().context("cgroup v2 is not mounted")?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = context.sandbox.directory().join(format!("systemd-{number}"));
        let (files, none, log) = (directory.join("units"), directory.join("none"), directory.join("log"));
        for directory in [&files, &none] {
            std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        let target = units::target(TARGET, wanted);
        for unit in units.iter().chain(wanted).chain([&target]) {
            command::write_file(&files.join(&unit.name), &unit.text)?;
        }
        let notified = directory.join("notify");
        let ready = UnixDatagram::bind(&notified).context("making a socket that systemd says to that it is ready")?;
        let cgroups = Cgroups::new(&format!("systemd-{number}"));
        let root = unified.join(cgroups.name());
        let mut command = isolated::command(["--uts", "--ipc"], SCRIPT);
        command
            .arg(&root)
            .arg(program)
            .args([
                "--system",
                "--log-target=console",
                "--log-level=err",
                "--show-status=no",
            ])
            .arg(format!("--unit={}", target.name))
            .env("container", "imsup-bench")
            .env("NOTIFY_SOCKET", &notified)
            .env("SYSTEMD_UNIT_PATH", &files)
            .env("SYSTEMD_GENERATOR_PATH", &none)
            .env("SYSTEMD_ENVIRONMENT_GENERATOR_PATH", &none);
        let start = Instant::now();
        let mut manager = Self {
            isolated: Isolated::start(command, &log)?,
            _cgroups: cgroups,
            root,
            took: Duration::ZERO,
        };
        let said = manager.wait(&ready, start + timeout);
        said.with_context(|| format!("systemd {}", isolated::last_lines(&log)))?;
        manager.took = start.elapsed();
        Ok(manager)
    }

    /// Until systemd reports an empty queue of jobs (sd_notify(3)).
    fn wait(&mut self, ready: &UnixDatagram, deadline: Instant) -> Result<()> {
        let mut message = [0; 4096];
        loop {
            if interrupt::readable(ready, LOOK)? {
                let length = ready.recv(&mut message)?;
                let text = String::from_utf8_lossy(&message[..length]);
                if text.lines().any(|line| line == "READY=1") {
                    return Ok(());
                }
            }
            if let Some(status) = self.isolated.ended()? {
                bail!("ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("had not started all units in time");
            }
        }
    }

    /// systemd itself.
    ///
    /// # Errors
    /// systemd has ended.
    pub fn pid(&self) -> Result<u32> {
        let processes = self.isolated.processes()?;
        processes.first().copied().context("systemd has ended")
    }

    /// Waits until these services have ended.
    ///
    /// # Errors
    /// The units do not start, or a signal came.
    pub fn wait_until_ended(&self, services: &[&str]) -> Result<()> {
        let deadline = Instant::now() + ENDS;
        for service in services {
            while self.runs(service) {
                if Instant::now() > deadline {
                    bail!("systemd's service {service} does not end");
                }
                interrupt::pause(LOOK)?;
            }
        }
        Ok(())
    }

    /// True if this service runs: then it has a cgroup.
    pub fn runs(&self, service: &str) -> bool {
        self.root
            .join("system.slice")
            .join(format!("{service}.service"))
            .exists()
    }
}

fn program() -> Result<PathBuf> {
    systemd::library("systemd")
}
