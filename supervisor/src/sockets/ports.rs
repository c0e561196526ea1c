//! Ports of the program on the machine's own addresses.

use imsup_wire::Transport;

/// Ports of sockets on the machine's own addresses: localhost reaches these sockets without a
/// redirect. IPv4 and IPv6 are kept apart, since two sockets may have the same port.
#[derive(Debug, Default)]
pub struct NativePorts {
    tcp_v6: PortSet,
    udp_v4: PortSet,
    udp_v6: PortSet,
}

impl NativePorts {
    /// The ports of a transport and family; `None` for TCP over IPv4, which is bound to addresses
    /// in the planes only.
    fn of(&mut self, transport: Transport, v6: bool) -> Option<&mut PortSet> {
        match (transport, v6) {
            (Transport::Tcp, true) => Some(&mut self.tcp_v6),
            (Transport::Tcp, false) => None,
            (Transport::Udp, true) => Some(&mut self.udp_v6),
            (Transport::Udp, false) => Some(&mut self.udp_v4),
        }
    }

    /// Whether a connect or datagram to 127.0.0.1 (`::1` if `v6`) with this port is redirected
    /// nowhere else.
    pub fn contains(&self, transport: Transport, v6: bool, port: u16) -> bool {
        match (transport, v6) {
            (Transport::Tcp, true) => self.tcp_v6.contains(port),
            (Transport::Tcp, false) => false,
            (Transport::Udp, true) => self.udp_v6.contains(port),
            (Transport::Udp, false) => self.udp_v4.contains(port),
        }
    }

    /// Adds a port.
    pub fn insert(&mut self, transport: Transport, v6: bool, port: u16) {
        if let Some(ports) = self.of(transport, v6) {
            ports.insert(port);
        }
    }

    /// Removes a port: the port was bound to an address in the planes since.
    pub fn remove(&mut self, transport: Transport, v6: bool, port: u16) {
        if let Some(ports) = self.of(transport, v6) {
            ports.remove(port);
        }
    }
}

/// A set of ports, always of 8 KiB.
#[derive(Debug)]
struct PortSet(Box<[u64; 1024]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl PortSet {
    /// True if the set contains `port`.
    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// Adds `port`.
    fn insert(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }

    /// Takes `port` out.
    fn remove(&mut self, port: u16) {
        self.0[usize::from(port / 64)] &= !(1 << (port % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_set_holds_every_port() {
        let mut ports = PortSet::default();
        for port in [0, 63, 64, 1023, 65_535] {
            assert!(!ports.contains(port));
            ports.insert(port);
            assert!(ports.contains(port) && !ports.contains(port ^ 1), "{port}");
            ports.remove(port);
            assert!(!ports.contains(port), "{port}");
        }
    }
}
