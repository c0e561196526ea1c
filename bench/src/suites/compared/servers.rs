//! The servers whose data path is compared, and the clients that load them.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command;
use crate::compose::Service;
use crate::context::Context;
use crate::guest::ports;
use crate::suites::programs::nginx_words;

/// A server.
pub struct Server {
    /// The name as a host and as a container.
    pub name: &'static str,
    /// The port that readiness is judged by.
    pub port: u16,
    /// Further ports that need a relay.
    pub more: Vec<u16>,
    command: Box<dyn Fn(Ipv4Addr) -> Vec<String> + 'static>,
}

impl Server {
    /// The command for this address.
    pub fn command(&self, ip: Ipv4Addr) -> Vec<String> {
        (self.command)(ip)
    }

    /// The server as a host.
    pub fn service(&self) -> Service {
        let expose = [self.port].into_iter().chain(self.more.iter().copied());
        Service::new(self.name, self.command(Ipv4Addr::UNSPECIFIED), expose)
    }
}

fn server(name: &'static str, port: u16, command: impl Fn(Ipv4Addr) -> Vec<String> + 'static) -> Server {
    Server {
        name,
        port,
        more: Vec::new(),
        command: Box::new(command),
    }
}

fn installed(name: &str, package: &str) -> Result<PathBuf> {
    command::find_server(name).with_context(|| format!("{name} is not installed (Debian: {package})"))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// This crate's own.
pub fn guest(context: &Context) -> Server {
    let this = context.this.to_string_lossy().into_owned();
    Server {
        more: vec![ports::RATE],
        ..server("peer", ports::PING, move |ip| {
            words(&format!("{this} guest serve {ip}"))
        })
    }
}

/// redis-server.
pub fn redis() -> Result<Server> {
    let program = installed("redis-server", "redis-server")?.display().to_string();
    Ok(server("redis", 6379, move |ip| {
        let mut command = words(&format!(
            "{program} --port 6379 --bind {ip} --protected-mode no --appendonly no --save"
        ));
        command.push(String::new());
        command
    }))
}

/// iperf3 as a server.
pub fn iperf() -> Result<Server> {
    let program = installed("iperf3", "iperf3")?.display().to_string();
    Ok(server("iperf", 5201, move |ip| {
        words(&format!("{program} --server --bind {ip} --port 5201"))
    }))
}

/// nginx with one small page.
pub fn nginx(context: &Context) -> Result<Server> {
    const PORT: u16 = 8080;
    let words = nginx_words(context)?;
    Ok(server("nginx", PORT, move |ip| words(ip, PORT)))
}
