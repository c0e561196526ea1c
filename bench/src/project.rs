//! A project that is up, and taken down in any case.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;
use crate::compose;
use crate::sandbox::Sandbox;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A project that is up.
#[derive(Debug)]
pub struct Project<'a> {
    sandbox: &'a Sandbox,
    name: String,
    /// How long `imsup up -d` took.
    pub took: Duration,
}

/// A host, from `imsup ps --format json`.
#[derive(Debug, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its VIP.
    pub address: Ipv4Addr,
    /// The host's state.
    pub state: String,
    /// The program's first process, while it runs.
    pub pid: Option<u32>,
}

/// An event, from `imsup events --format json`.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// Which host's.
    pub host: String,
    /// What happened.
    pub event: String,
    /// The duration, in microseconds.
    pub duration_us: Option<u64>,
}

fn next_name() -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("bench-{}-{number}", std::process::id())
}

impl<'a> Project<'a> {
    /// Brings up a project of these services with `imsup up -d`.
    ///
    /// # Errors
    /// The project does not come up.
    pub fn up(sandbox: &'a Sandbox, services: &[compose::Service]) -> Result<Self> {
        let name = next_name();
        let file = sandbox.directory().join(format!("{name}.yaml"));
        command::write_file(&file, &compose::file(services))?;
        Self::up_named(sandbox, name, &[&file], &[])
    }

    /// Brings up a project of these compose files, with these variables.
    ///
    /// # Errors
    /// The project does not come up.
    pub fn up_files(sandbox: &'a Sandbox, files: &[&Path], variables: &[(&str, &Path)]) -> Result<Self> {
        Self::up_named(sandbox, next_name(), files, variables)
    }

    fn up_named(sandbox: &'a Sandbox, name: String, files: &[&Path], variables: &[(&str, &Path)]) -> Result<Self> {
        // Made first: an `up` that fails halfway is taken down too.
        let mut project = Self {
            sandbox,
            name,
            took: Duration::ZERO,
        };
        let mut up = project.sandbox.command();
        up.args(["up", "-d", "-p", &project.name])
            .envs(variables.iter().copied());
        for file in files {
            up.arg("-f").arg(file);
        }
        let start = Instant::now();
        command::output(&mut up)?;
        project.took = start.elapsed();
        Ok(project)
    }

    /// A verb of imsup for this project.
    fn verb(&self, verb: &str) -> Command {
        let mut command = self.sandbox.command();
        command.args([verb, "-p", &self.name]);
        command
    }

    /// `imsup run`, to be given the command; as `host`, or as a transient host.
    pub fn supervised(&self, host: Option<&str>) -> Command {
        let mut command = self.verb("run");
        if let Some(host) = host {
            command.args(["--host", host]);
        }
        command.arg("--");
        command
    }

    /// All hosts.
    ///
    /// # Errors
    /// The hosts cannot be listed.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let lines = command::output(self.verb("ps").args(["--format", "json"]))?;
        let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("reading 'imsup ps': {line}"));
        lines.lines().map(parse).collect()
    }

    /// The VIP of a host.
    ///
    /// # Errors
    /// There is no such host.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr> {
        let found = self.hosts()?.into_iter().find(|found| found.name == host);
        Ok(found
            .with_context(|| format!("'imsup ps' does not list host {host}"))?
            .address)
    }

    /// Boots a host.
    ///
    /// # Errors
    /// The host does not boot.
    pub fn wake(&self, host: &str) -> Result<()> {
        command::output(self.verb("wake").arg(host)).map(drop)
    }

    /// Boots all hosts.
    ///
    /// # Errors
    /// A host does not boot.
    pub fn wake_all(&self) -> Result<()> {
        command::output(&mut self.verb("wake")).map(drop)
    }

    /// Suspends hosts, and returns when they sleep.
    ///
    /// # Errors
    /// A host does not sleep.
    pub fn suspend(&self, hosts: &[&str]) -> Result<()> {
        command::output(self.verb("suspend").args(hosts)).map(drop)
    }

    /// Wakes sleeping hosts. For hosts that are awake this has no effect, but takes as long as a
    /// suspend.
    ///
    /// # Errors
    /// The hosts cannot be woken.
    pub fn resume(&self, hosts: &[&str]) -> Result<()> {
        command::output(self.verb("resume").args(hosts)).map(drop)
    }

    /// Ends a host's program.
    ///
    /// # Errors
    /// The host does not end.
    pub fn stop(&self, host: &str) -> Result<()> {
        command::output(self.verb("stop").arg(host)).map(drop)
    }

    /// Ends all programs.
    ///
    /// # Errors
    /// A host does not end.
    pub fn stop_all(&self) -> Result<()> {
        command::output(&mut self.verb("stop")).map(drop)
    }

    /// All that happened.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn events(&self) -> Result<Vec<Event>> {
        let lines = command::output(self.verb("events").args(["--format", "json"]))?;
        let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("reading 'imsup events': {line}"));
        lines.lines().map(parse).collect()
    }

    /// The use of all hosts, as JSON Lines.
    ///
    /// # Errors
    /// The status is not available.
    pub fn usage(&self) -> Result<String> {
        command::output(self.verb("usage").args(["--format", "json"]))
    }

    /// The broker's process.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub fn broker(&self) -> Result<u32> {
        let path = self.sandbox.runtime().join(&self.name).join("broker.sock");
        let socket = UnixStream::connect(&path).with_context(|| format!("connecting to {}", path.display()))?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).context("asking who the broker is")?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// The supervisor of a host that runs.
    ///
    /// # Errors
    /// The broker does not run.
    pub fn supervisor(&self, host: &str) -> Result<u32> {
        let path = self.sandbox.runtime().join(&self.name).join("running").join(host);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // A second line is the boot's token.
        let pid = text.lines().next().unwrap_or_default();
        pid.parse().with_context(|| format!("'{pid}' is not a process id"))
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // After a signal too: signals do not end this wait.
        match self.verb("down").arg("--forget").output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!(
                "imsup-bench: 'imsup down -p {}': {}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Err(error) => eprintln!("imsup-bench: 'imsup down -p {}': {error}", self.name),
        }
    }
}
