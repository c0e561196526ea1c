//! Connections a second, from several threads.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::control;
use super::ports;

/// Accepts and closes, as fast as it can.
pub fn take(listener: &TcpListener) -> std::io::Result<()> {
    loop {
        drop(listener.accept()?);
    }
}

/// A sample is the connections a second of all threads together, each of which makes as many as the batch's number.
pub fn run(ip: Ipv4Addr, threads: usize) -> Result<()> {
    let to = SocketAddrV4::new(ip, ports::RATE);
    control::serve(|count| {
        let start = Instant::now();
        thread::scope(|scope| {
            let all: Vec<_> = (0..threads)
                .map(|_| scope.spawn(move || (0..count).try_for_each(|_| once(to))))
                .collect();
            all.into_iter()
                .try_for_each(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?)
        })?;
        let rate = (threads * count) as f64 / start.elapsed().as_secs_f64();
        Ok(vec![("connect+close", vec![rate as u64])])
    })
}

fn once(to: SocketAddrV4) -> Result<()> {
    let socket: OwnedFd =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).context("making a socket")?;
    // Closed by a reset: thousands of ports in TIME_WAIT would be what is measured.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).context("setting SO_LINGER")?;
    connect(&socket, &to).with_context(|| format!("connecting to {to}"))?;
    // Until the server has accepted and closed it: a queue that is full is not what is measured either.
    rustix::io::read(&socket, &mut [0_u8; 1]).context("waiting for the end")?;
    Ok(())
}
