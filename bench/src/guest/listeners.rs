//! The kernel's cost of many listening sockets: one port of each of many addresses, as a broker
//! retains them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::control::{self, nanoseconds};

/// Outside imsup's planes.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 90, 0, 1);
const PORT: u16 = 7000;

/// A batch makes all sockets, and a sample is the time for that; they are closed when the input
/// ends.
pub fn run(count: u32) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of descriptors")?;
    let mut sockets: Vec<OwnedFd> = Vec::with_capacity(count as usize);
    control::serve(|_| {
        sockets.clear();
        let start = Instant::now();
        for number in 0..count {
            let address = SocketAddrV4::new(Ipv4Addr::from(u32::from(FIRST) + number), PORT);
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &address).with_context(|| format!("binding {address}"))?;
            listen(&socket, 4096)?;
            sockets.push(socket);
        }
        Ok(vec![("time", vec![nanoseconds(start)])])
    })
}
