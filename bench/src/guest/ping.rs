//! The latency of a byte there and back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};

use super::control::{self, nanoseconds};
use super::ports;

pub fn run(ip: Ipv4Addr) -> Result<()> {
    let mut stream = TcpStream::connect((ip, ports::PING)).context("connecting")?;
    stream.set_nodelay(true)?;
    control::serve(|count| {
        let mut times = Vec::with_capacity(count);
        let mut byte = [1];
        for _ in 0..count {
            let start = Instant::now();
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            times.push(nanoseconds(start));
        }
        Ok(vec![("ping", times)])
    })
}
