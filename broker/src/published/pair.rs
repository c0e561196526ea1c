//! One relayed connection: two sockets, and a pipe in each direction through which the kernel moves
//! the bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// Most bytes moved at once: the capacity of a pipe.
const CHUNK: usize = 64 * 1024;

/// The progress of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Bytes come.
    Open,
    /// The source has ended; the bytes in the pipe are still to be sent.
    Draining,
    /// The end was passed on.
    Ended,
}

#[derive(Debug)]
struct Direction {
    read: OwnedFd,
    write: OwnedFd,
    buffered: usize,
    flow: Flow,
}

/// One relayed connection.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: OwnedFd,
    pub(super) host: OwnedFd,
    connected: bool,
    to_host: Direction,
    to_client: Direction,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It does.
    Goes,
    /// Both directions have ended.
    Ended,
    /// One side was reset, or could not be reached: the other is reset as well.
    Reset,
}

impl Pair {
    /// Begins to connect to `target` for a client; the client's address is kept if the loopback
    /// device permits.
    pub(super) fn connect(client: OwnedFd, from: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let host = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        if let IpAddr::V4(address) = from.ip().to_canonical()
            && address.is_loopback()
        {
            // Any port is fine, even the port of another connection, as connect(2) itself would
            // choose.
            sockopt::set_socket_reuseaddr(&host, true)?;
            // After a failure, the connection comes from 127.0.0.1, which is no reason to refuse
            // the client.
            let _ = rustix::net::bind(&host, &SocketAddr::new(IpAddr::V4(address), 0));
        }
        match rustix::net::connect(&host, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        for socket in [&client, &host] {
            sockopt::set_tcp_nodelay(socket, true)?;
        }
        Ok(Self {
            client,
            host,
            connected: false,
            to_host: Direction::new()?,
            to_client: Direction::new()?,
        })
    }

    /// Moves all bytes that can be moved.
    pub(super) fn advance(&mut self) -> Progress {
        if !self.connected {
            match self.check_connected() {
                Ok(true) => self.connected = true,
                Ok(false) => return Progress::Goes,
                Err(_) => return Progress::Reset,
            }
        }
        let to_host = self.to_host.advance(&self.client, &self.host);
        let to_client = self.to_client.advance(&self.host, &self.client);
        if to_host.is_err() || to_client.is_err() {
            return Progress::Reset;
        }
        match (self.to_host.flow, self.to_client.flow) {
            (Flow::Ended, Flow::Ended) => Progress::Ended,
            _ => Progress::Goes,
        }
    }

    /// Closes both sides so that their peers see a reset.
    pub(super) fn reset(self) {
        let _ = crate::sockets::reset(self.client);
        let _ = crate::sockets::reset(self.host);
    }

    fn check_connected(&self) -> Result<bool, Errno> {
        sockopt::socket_error(&self.host)??;
        match rustix::net::getpeername(&self.host) {
            Ok(_) => Ok(true),
            Err(Errno::NOTCONN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

impl Direction {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            read,
            write,
            buffered: 0,
            flow: Flow::Open,
        })
    }

    fn advance(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        loop {
            let mut moved = false;
            if self.flow == Flow::Open && self.buffered < CHUNK {
                match splice(from, None, &self.write, None, CHUNK - self.buffered, flags) {
                    Ok(0) => self.flow = Flow::Draining,
                    Ok(count) => {
                        self.buffered += count;
                        moved = true;
                    }
                    // There are no new bytes, or the pipe has no free slot, however few bytes are
                    // in it.
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if self.buffered > 0 {
                match splice(&self.read, None, to, None, self.buffered, flags) {
                    Ok(count) => {
                        self.buffered -= count;
                        moved |= count > 0;
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if self.flow == Flow::Draining && self.buffered == 0 {
                self.flow = Flow::Ended;
                match rustix::net::shutdown(to, Shutdown::Write) {
                    Ok(()) | Err(Errno::NOTCONN) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if !moved {
                return Ok(());
            }
        }
    }
}
