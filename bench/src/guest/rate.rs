//! Connections a second, from several threads.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::control::{self, nanoseconds};
use super::ports;

/// Accepts and closes, as fast as possible.
pub fn take(listener: &TcpListener) -> std::io::Result<()> {
    loop {
        drop(listener.accept()?);
    }
}

/// Each thread makes as many connections as the batch's number. One series has the connections a
/// second of all threads together, the other the time of each connection.
pub fn run(ip: Ipv4Addr, threads: usize) -> Result<()> {
    let to = SocketAddrV4::new(ip, ports::RATE);
    control::serve(|count| {
        let start = Instant::now();
        let times = thread::scope(|scope| {
            let each = || (0..count).map(|_| once(to)).collect::<Result<Vec<_>>>();
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
            let join = |one: thread::ScopedJoinHandle<'_, _>| one.join().map_err(|_| anyhow!("a thread panicked"))?;
            all.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let rate = (threads * count) as f64 / start.elapsed().as_secs_f64();
        Ok(vec![("connect+close", vec![rate as u64]), ("time", times.concat())])
    })
}

/// Makes one connection, and returns the time until its close.
fn once(to: SocketAddrV4) -> Result<u64> {
    let start = Instant::now();
    let socket: OwnedFd =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).context("making a socket")?;
    // Closed by a reset: otherwise thousands of ports in TIME_WAIT would be measured.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).context("setting SO_LINGER")?;
    connect(&socket, &to).with_context(|| format!("connecting to {to}"))?;
    // Until the server has accepted and closed the connection: a full queue is not to be measured
    // either.
    rustix::io::read(&socket, &mut [0_u8; 1]).context("waiting for the end")?;
    drop(socket);
    Ok(nanoseconds(start))
}
