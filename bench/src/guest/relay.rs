//! One of a chain: each request is passed on to the next, and its answer back.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};

use anyhow::Result;

use super::serve::listen;

/// Answers a byte with that byte, after the next one has; the last one has none.
pub fn run(at: SocketAddrV4, next: Option<&str>) -> Result<()> {
    let listener = listen(*at.ip(), at.port())?;
    for stream in listener.incoming() {
        // Whoever gives up concerns nobody else.
        let _ = pass_on(stream?, next);
    }
    Ok(())
}

fn pass_on(mut stream: TcpStream, next: Option<&str>) -> std::io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if let Some(next) = next {
        let mut onward = TcpStream::connect(next)?;
        onward.write_all(&byte)?;
        onward.read_exact(&mut byte)?;
    }
    stream.write_all(&byte)
}
