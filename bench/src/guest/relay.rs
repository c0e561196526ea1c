//! A member of a chain: each request is passed on to the next member, and the reply back.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};

use anyhow::Result;

use super::serve::listen;

/// Answers a byte with that byte, after the next member has; the last member has none.
pub fn run(at: SocketAddrV4, next: Option<&str>) -> Result<()> {
    let listener = listen(*at.ip(), at.port())?;
    for stream in listener.incoming() {
        // A client that gives up concerns no other client.
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
