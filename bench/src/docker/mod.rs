//! docker, to compare with: a daemon of our own that touches nothing of the machine's, and containers on the host's network.

mod api;
mod cgroups;
mod daemon;
mod image;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::command;
use crate::context::Context;
use crate::interrupt;
use crate::suites::native::wait_for;
use api::{Api, Method};
use daemon::Daemon;

/// What is missing is named with how to get it.
const HINT: &str = "install it with 'apt-get install --no-install-recommends docker.io' (Debian 12's is measured; the daemon is started here, \
                    none needs to run), or leave it out with '--without docker'";

/// How often, and how many times in a row, docker is asked whether it knows that a container is paused.
const LOOK: Duration = Duration::from_millis(2);
const LOOKS: usize = 4;
/// It takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running daemon with an image; everything is ended and taken away when it is dropped.
#[derive(Debug)]
pub struct Docker {
    daemon: Daemon,
    api: Api,
    client: PathBuf,
    /// What mounts of the machine its containers have.
    binds: Vec<String>,
}

impl Docker {
    /// Starts the daemon and makes the image.
    ///
    /// # Errors
    /// docker is not installed, we are not root, or it does not start.
    pub fn start(context: &Context) -> Result<Self> {
        let program = |name: &str| command::find(name).with_context(|| format!("there is no {name}: {HINT}"));
        let client = program("docker")?;
        let daemon = Daemon::start(context, &program("dockerd")?)
            .with_context(|| format!("dockerd could not be started: {HINT}"))?;
        let mut api = Api::connect(daemon.socket())?;
        let binds = image::import(context, &mut api)?;
        Ok(Self {
            daemon,
            api,
            client,
            binds,
        })
    }

    /// What it is, for the report.
    ///
    /// # Errors
    /// It does not answer.
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

    /// Starts a container, and waits until it listens there.
    ///
    /// # Errors
    /// It does not start or listen.
    pub fn run(&mut self, name: &str, words: &[String], listens: SocketAddrV4) -> Result<()> {
        let body = json!({
            "Image": image::NAME,
            "Cmd": words,
            "HostConfig": {"NetworkMode": "host", "Binds": self.binds, "LogConfig": {"Type": "none"}},
        });
        self.api.call(
            Method::Post,
            &format!("/containers/create?name={name}"),
            Some(body.to_string().as_bytes()),
        )?;
        self.api
            .call(Method::Post, &format!("/containers/{name}/start"), None)?;
        wait_for(listens).with_context(|| format!("container {name}"))
    }

    /// `docker pause`, by the API; gives how long that took, without the waiting before and after until docker knows its own mind.
    ///
    /// # Errors
    /// It is not paused.
    pub fn pause(&mut self, name: &str) -> Result<Duration> {
        self.settle(name, false)?;
        let start = Instant::now();
        self.api
            .call(Method::Post, &format!("/containers/{name}/pause"), None)?;
        let took = start.elapsed();
        self.settle(name, true)?;
        Ok(took)
    }

    /// `docker unpause`, by the API on a connection that is there already: as fast as docker can be.
    ///
    /// # Errors
    /// It is not unpaused.
    pub fn unpause(&mut self, name: &str) -> Result<()> {
        self.api
            .call(Method::Post, &format!("/containers/{name}/unpause"), None)
            .map(drop)
    }

    /// Waits until docker itself takes the container for paused, or for running: it hears of both from containerd, after it has
    /// answered, and refuses to pause what it still takes for paused (20.10, daemon/monitor.go).
    fn settle(&mut self, name: &str, paused: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
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
        let mut command = Command::new(&self.client);
        command
            .args(["unpause", name])
            .env("DOCKER_HOST", format!("unix://{}", self.daemon.socket().display()))
            .env_remove("DOCKER_CONTEXT");
        command::output(&mut command).map(drop)
    }
}
