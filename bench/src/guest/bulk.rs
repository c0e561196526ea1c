//! Throughput: many bytes in one direction.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};

use super::control;
use super::ports;

const PIECE: usize = 128 * 1024;
const PIECES: u64 = 256;

/// A sample is the bytes per second of one transfer.
pub fn run(ip: Ipv4Addr) -> Result<()> {
    let mut stream = TcpStream::connect((ip, ports::BULK)).context("connecting")?;
    let piece = vec![7; PIECE];
    let bytes = PIECES * PIECE as u64;
    control::serve(|count| {
        let mut rates = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            stream.write_all(&bytes.to_le_bytes())?;
            for _ in 0..PIECES {
                stream.write_all(&piece)?;
            }
            stream.read_exact(&mut [0])?;
            rates.push((bytes as f64 / start.elapsed().as_secs_f64()) as u64);
        }
        Ok(vec![("rate", rates)])
    })
}

/// The server's side.
pub fn take(mut stream: TcpStream) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut left = u64::from_le_bytes(length);
        while left > 0 {
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                count => left = left.saturating_sub(count as u64),
            }
        }
        stream.write_all(&[1])?;
    }
}
