//! Connections of the host to itself.

use std::net::SocketAddrV4;

use super::recent::Recent;

/// Connections of the host to itself that were made to its localhost and redirected to a listener
/// on its VIP. The accepted end is shown localhost as well. The latest connections are remembered.
#[derive(Debug, Default)]
pub struct OwnConnections(Recent<bool>);

impl OwnConnections {
    fn key(client: SocketAddrV4, port: u16) -> u64 {
        u64::from(u32::from(*client.ip())) << 32 | u64::from(client.port()) << 16 | u64::from(port)
    }

    /// Remembers a connection from `client` to this port of 127.0.0.1 (of `::1` if `v6`).
    pub fn note(&mut self, client: SocketAddrV4, port: u16, v6: bool) {
        self.0.set(Self::key(client, port), Some(v6));
    }

    /// Forgets the connection: the same addresses belong to another connection now.
    pub fn forget(&mut self, client: SocketAddrV4, port: u16) {
        self.0.set(Self::key(client, port), None);
    }

    /// Whether a connection from `client` to this port was made to localhost; true for `::1`.
    pub fn get(&self, client: SocketAddrV4, port: u16) -> Option<bool> {
        self.0.get(Self::key(client, port))
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
