//! The sleeping servers, and their requests.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::command;
use crate::compose::Service;
use crate::context::Context;

/// No answer here takes nearly as long; a SYN that is sent again would take 1 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    /// The name as a host.
    pub name: &'static str,
    /// The name of the cluster.
    pub what: &'static str,
    /// Its port.
    pub port: u16,
    program: String,
    request: &'static [u8],
    reply: &'static [u8],
    words: fn(Ipv4Addr, u16) -> Vec<String>,
}

/// This crate's own server: one thread, one epoll instance.
pub fn echo(context: &Context) -> Server {
    Server {
        name: "echo",
        what: "one thread with epoll",
        port: 7000,
        program: context.this.to_string_lossy().into_owned(),
        request: b"x",
        reply: b"x",
        words: |ip, port| ["guest".to_owned(), "echo".to_owned(), format!("{ip}:{port}")].to_vec(),
    }
}

/// redis.
///
/// # Errors
/// systemd is not installed.
pub fn redis() -> Result<Server> {
    let program = command::find("redis-server").context("redis-server is not installed (Debian: redis-server)")?;
    Ok(Server {
        name: "redis",
        what: "redis",
        port: 6379,
        program: program.to_string_lossy().into_owned(),
        request: b"PING\r\n",
        reply: b"+PONG\r\n",
        words: |ip, port| {
            let text = format!("--port {port} --bind {ip} --protected-mode no --appendonly no --save");
            let words = text.split(' ').map(str::to_owned);
            words.chain([String::new()]).collect()
        },
    })
}

impl Server {
    /// The command for this address.
    pub fn command(&self, ip: Ipv4Addr) -> Vec<String> {
        let mut words = vec![self.program.clone()];
        words.extend((self.words)(ip, self.port));
        words
    }

    /// The server as a host.
    pub fn service(&self, settings: &'static str) -> Service {
        Service::new(self.name, self.command(Ipv4Addr::UNSPECIFIED), [self.port]).with(settings)
    }

    /// Connects.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub fn connect(&self, ip: Ipv4Addr) -> Result<TcpStream> {
        let address = SocketAddrV4::new(ip, self.port);
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Asks once and reads the reply.
    ///
    /// # Errors
    /// There is none, or another.
    pub fn ask(&self, stream: &mut TcpStream) -> Result<()> {
        let mut reply = [0; 16];
        let reply = &mut reply[..self.reply.len()];
        stream.write_all(self.request).context("sending a request")?;
        stream.read_exact(reply).context("waiting for the reply")?;
        anyhow::ensure!(reply == self.reply, "{} replied {reply:?}", self.name);
        Ok(())
    }
}

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// On a connection that was there before.
    Held,
    /// On a new connection: from before connect(2).
    New,
}

impl Connection {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Held, Self::New];

    /// The name of the cluster.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Held => "held connection",
            Self::New => "new connection",
        }
    }
}

/// A client of one server.
#[derive(Debug)]
pub struct Client<'a> {
    server: &'a Server,
    ip: Ipv4Addr,
    held: Option<TcpStream>,
}

impl<'a> Client<'a> {
    /// A client, connected if the connection is to be held.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn new(server: &'a Server, ip: Ipv4Addr, connection: Connection) -> Result<Self> {
        let mut stream = server.connect(ip)?;
        server.ask(&mut stream)?;
        let held = (connection == Connection::Held).then_some(stream);
        Ok(Self { server, ip, held })
    }

    /// A client whose first request is timed.
    pub fn new_unasked(server: &'a Server, ip: Ipv4Addr) -> Self {
        Self { server, ip, held: None }
    }

    /// The time since `start` when the reply is there.
    ///
    /// # Errors
    /// There is none.
    pub fn reply(&mut self, start: Instant) -> Result<Duration> {
        match &mut self.held {
            Some(stream) => {
                self.server.ask(stream)?;
                Ok(start.elapsed())
            }
            None => {
                let mut stream = self.server.connect(self.ip)?;
                self.server.ask(&mut stream)?;
                // Closing is not in the time.
                Ok(start.elapsed())
            }
        }
    }
}
