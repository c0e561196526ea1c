//! docker as a baseline: a daemon of our own that leaves the machine's state alone, and containers
//! on the machine's network or on a bridge of their own.

mod api;
mod daemon;
mod image;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::command;
use crate::context::Context;
use crate::interrupt;
use crate::listening::wait_for;
use api::{Api, Method};
use daemon::Daemon;
pub use daemon::Network;

/// Missing programs are named, with the package to install.
const HINT: &str = "install it with 'apt-get install --no-install-recommends docker.io' (Debian 12's is measured; the daemon is started here, \
                    none needs to run), or leave it out with '--without docker'";

/// How often, and how many times in a row, docker is asked whether a container is paused.
const LOOK: Duration = Duration::from_millis(2);
const LOOKS: usize = 4;
/// A start takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running daemon with an image; ended and removed on drop.
#[derive(Debug)]
pub struct Docker {
    daemon: Daemon,
    api: Api,
    client: PathBuf,
    /// The machine's mounts in the containers.
    binds: Vec<String>,
    network: Network,
}

impl Docker {
    /// Starts the daemon and makes the image.
    ///
    /// # Errors
    /// docker is not installed, we are not root, or the daemon does not start.
    pub fn start(context: &Context, network: Network) -> Result<Self> {
        let program = |name: &str| command::find(name).with_context(|| format!("there is no {name}: {HINT}"));
        let client = program("docker")?;
        let daemon = Daemon::start(context, &program("dockerd")?, network)
            .with_context(|| format!("dockerd could not be started: {HINT}"))?;
        let mut api = Api::connect(daemon.socket())?;
        let binds = image::import(context, &mut api)?;
        Ok(Self {
            daemon,
            api,
            client,
            binds,
            network,
        })
    }

    /// The version, for the report.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn describe(&mut self) -> Result<String> {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let version: Value = serde_json::from_str(&self.api.call(Method::Get, "/version", None)?)?;
        let info: Value = serde_json::from_str(&self.api.call(Method::Get, "/info", None)?)?;
        Ok(format!(
            "docker {} with {}, cgroup v{}",
            text(&version["Version"]),
            text(&info["DefaultRuntime"]),
            text(&info["CgroupVersion"])
        ))
    }

    /// The processes of the daemon and of all containers.
    ///
    /// # Errors
    /// systemd has ended.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.daemon.processes()
    }

    /// Starts a container, and waits until it listens there.
    ///
    /// # Errors
    /// The service does not start or listen.
    pub fn run(&mut self, name: &str, words: &[String], listens: SocketAddrV4) -> Result<()> {
        self.create(name, words)?;
        self.begin(name)?;
        wait_for(listens).with_context(|| format!("container {name}"))
    }

    /// Makes a container without starting it.
    ///
    /// # Errors
    /// The container cannot be made.
    pub fn create(&mut self, name: &str, words: &[String]) -> Result<()> {
        let network = match self.network {
            Network::Machine => "host",
            Network::Bridge => "bridge",
        };
        let body = json!({
            "Image": image::NAME,
            "Cmd": words,
            "HostConfig": {"NetworkMode": network, "Binds": self.binds, "LogConfig": {"Type": "none"}},
        });
        let path = format!("/containers/create?name={name}");
        self.api
            .call(Method::Post, &path, Some(body.to_string().as_bytes()))
            .map(drop)
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    /// The container does not start.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.api
            .call(Method::Post, &format!("/containers/{name}/start"), None)
            .map(drop)
    }

    /// Ends a container's program at once; the container stays, and can be started again.
    ///
    /// # Errors
    /// docker refuses.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.api.call(Method::Post, &format!("/containers/{name}/kill"), None)?;
        let path = format!("/containers/{name}/wait?condition=not-running");
        self.api.call(Method::Post, &path, None).map(drop)
    }

    /// Takes a container away, running or not.
    ///
    /// # Errors
    /// docker refuses.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.api
            .call(Method::Delete, &format!("/containers/{name}?force=true"), None)
            .map(drop)
    }

    /// The address of a running container on docker's bridge.
    ///
    /// # Errors
    /// The container has no address.
    pub fn address(&mut self, name: &str) -> Result<Ipv4Addr> {
        let text = self.api.call(Method::Get, &format!("/containers/{name}/json"), None)?;
        let value: Value = serde_json::from_str(&text)?;
        let address = value["NetworkSettings"]["IPAddress"].as_str().unwrap_or_default();
        address
            .parse()
            .with_context(|| format!("container {name} has the address '{address}'"))
    }

    /// `docker exec -i NAME`, to be given a command.
    pub fn exec(&self, name: &str) -> Command {
        let mut command = self.command();
        command.args(["exec", "-i", name]);
        command
    }

    /// `docker run -d`, the command, on the machine's network: until it returns.
    ///
    /// # Errors
    /// It fails.
    pub fn run_by_command(&self, name: &str, words: &[String]) -> Result<()> {
        let mut command = self.command();
        command.args(["run", "-d", "--network", "host", "--log-driver", "none", "--name", name]);
        for bind in &self.binds {
            command.args(["-v", bind]);
        }
        command.arg(image::NAME).args(words);
        command::output(&mut command).map(drop)
    }

    /// docker's own command.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        command
            .env("DOCKER_HOST", format!("unix://{}", self.daemon.socket().display()))
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// `docker pause`, by the API. Returns the duration, without the waits before and after until
    /// docker's own state agrees.
    ///
    /// # Errors
    /// The container is not paused.
    pub fn pause(&mut self, name: &str) -> Result<Duration> {
        self.settle(name, false)?;
        let start = Instant::now();
        self.api
            .call(Method::Post, &format!("/containers/{name}/pause"), None)?;
        let took = start.elapsed();
        self.settle(name, true)?;
        Ok(took)
    }

    /// `docker unpause`, by the API on a connection that is there already: as fast as docker can
    /// be.
    ///
    /// # Errors
    /// The container is not unpaused.
    pub fn unpause(&mut self, name: &str) -> Result<()> {
        self.api
            .call(Method::Post, &format!("/containers/{name}/unpause"), None)
            .map(drop)
    }

    /// Waits until docker itself reports the container as paused, or as running. docker learns of
    /// both from containerd, after its reply, and refuses to pause a container that it still takes
    /// for paused (20.10, daemon/monitor.go).
    fn settle(&mut self, name: &str, paused: bool) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        let mut agreed = 0;
        while agreed < LOOKS {
            ensure!(
                Instant::now() < deadline,
                "docker does not take container {name} for {}paused",
                if paused { "" } else { "un" }
            );
            let text = self.api.call(Method::Get, &format!("/containers/{name}/json"), None)?;
            let state: Value = serde_json::from_str(&text)?;
            agreed = if state["State"]["Paused"] == paused {
                agreed + 1
            } else {
                0
            };
            interrupt::pause(LOOK)?;
        }
        Ok(())
    }

    /// `docker unpause`, the command.
    ///
    /// # Errors
    /// It fails.
    pub fn unpause_by_command(&self, name: &str) -> Result<()> {
        command::output(self.command().args(["unpause", name])).map(drop)
    }
}
