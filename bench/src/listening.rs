//! Waiting for a server.

use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// No server here takes nearly as long to start.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether a server listens.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until a socket listens there.
///
/// # Errors
/// No socket listens for long, or a signal came.
pub fn wait_for(address: SocketAddrV4) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            bail!("nothing listens on {address}");
        }
        interrupt::pause(LOOK)?;
    }
    Ok(())
}
