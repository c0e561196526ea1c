//! connect(2) and close(2), each by itself and both together.
//!
//! The client closes the connection after the server has accepted it and sent a byte; the wait for
//! the byte is not timed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::control::{self, nanoseconds};
use super::ports;

/// The results of one kind of connection.
struct Kind {
    names: [&'static str; 2],
    non_blocking: bool,
    connect: Vec<u64>,
    both: Vec<u64>,
}

impl Kind {
    fn new(non_blocking: bool, names: [&'static str; 2]) -> Self {
        Self {
            names,
            non_blocking,
            connect: Vec::new(),
            both: Vec::new(),
        }
    }

    fn once(&mut self, to: SocketAddrV4) -> Result<()> {
        let socket = make(self.non_blocking)?;
        let start = Instant::now();
        establish(&socket, to).with_context(|| format!("connecting to {to}"))?;
        let connected = nanoseconds(start);
        wait(&socket, PollFlags::IN)?;
        rustix::io::read(&socket, &mut [0u8; 1]).context("reading the greeting")?;
        let start = Instant::now();
        drop(socket);
        self.both.push(connected + nanoseconds(start));
        self.connect.push(connected);
        Ok(())
    }

    fn series(&mut self) -> [control::Series; 2] {
        let [connect, both] = self.names;
        [
            (connect, std::mem::take(&mut self.connect)),
            (both, std::mem::take(&mut self.both)),
        ]
    }
}

pub fn run(ip: Ipv4Addr) -> Result<()> {
    let mut same = [
        Kind::new(false, ["connect-blocking", "connect+close-blocking"]),
        Kind::new(true, ["connect-non-blocking", "connect+close-non-blocking"]),
    ];
    let mut rotating = [
        Kind::new(false, ["first-connect-blocking", "first-connect+close-blocking"]),
        Kind::new(true, ["first-connect-non-blocking", "first-connect+close-non-blocking"]),
    ];
    let mut rotation = ports::ROTATION.cycle();
    control::serve(|count| {
        for _ in 0..count {
            same[0].once(SocketAddrV4::new(ip, ports::BLOCKING))?;
            same[1].once(SocketAddrV4::new(ip, ports::NON_BLOCKING))?;
            for kind in &mut rotating {
                let port = rotation.next().context("an empty range of ports")?;
                kind.once(SocketAddrV4::new(ip, port))?;
            }
        }
        Ok(same.iter_mut().chain(&mut rotating).flat_map(Kind::series).collect())
    })
}

fn make(non_blocking: bool) -> Result<OwnedFd> {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, non_blocking);
    socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).context("making a socket")
}

/// Connects as an event loop would, if the socket does not block: waits until the socket is
/// writable and reads the error.
fn establish(socket: &OwnedFd, to: SocketAddrV4) -> Result<()> {
    match connect(socket, &to) {
        Ok(()) => Ok(()),
        Err(Errno::INPROGRESS) => {
            wait(socket, PollFlags::OUT)?;
            sockopt::socket_error(socket)??;
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

fn wait(socket: &OwnedFd, flags: PollFlags) -> Result<()> {
    poll(&mut [PollFd::new(socket, flags)], None).context("waiting")?;
    Ok(())
}
