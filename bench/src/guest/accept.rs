//! accept(2) of connections that are already there.

use std::net::SocketAddrV4;
use std::time::Instant;

use anyhow::{Context, Result};

use super::control::{self, nanoseconds};
use super::serve::listen;

/// The caller of a batch has made as many connections before.
pub fn run(at: SocketAddrV4) -> Result<()> {
    let listener = listen(*at.ip(), at.port())?;
    control::serve(|count| {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            let accepted = listener.accept().context("accepting")?;
            times.push(nanoseconds(start));
            drop(accepted);
        }
        Ok(vec![("accept", times)])
    })
}
