//! TCP connections of a host, and what moved on them: tcp(7), sock_diag(7).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A TCP socket that does not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// Whether bytes or an end of file may still come.
    pub established: bool,
    /// Bytes received, and bytes sent that were acknowledged.
    pub bytes: u64,
    /// How long ago the last data came.
    pub last_received: Duration,
}

/// The TCP connections of the host with these processes and addresses.
///
/// # Errors
/// Where the kernel cannot be asked.
pub fn connections(_pids: &[i32], _planes: [Ipv4Addr; 3]) -> std::io::Result<Vec<Connection>> {
    Ok(Vec::new())
}
