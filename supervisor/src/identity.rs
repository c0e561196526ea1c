//! A host's identity, and the meaning of addresses for the host. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use imsup_wire::{Index, Place, Plane, Planes};

use imsup_linux::socket::as_v4;

const DNS_PORT: u16 = 53;

/// A host's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The planes.
    pub planes: Planes,
    /// The host's index in the planes.
    pub index: Index,
    /// The address of the project's name server.
    pub name_server: SocketAddrV4,
}

/// The meaning of a connect's or a datagram's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Outside the planes: the kernel's affair.
    Foreign,
    /// A name server, whichever: the project's answers.
    NameServer,
    /// The host's own 127.0.0.1 or `::1`.
    Localhost {
        /// True for `::1`.
        v6: bool,
        /// The port.
        port: u16,
    },
    /// A host's VIP, which may be this host's own.
    Vip(SocketAddrV4),
    /// An address of a plane that this host must not reach: another host's localhost.
    Forbidden,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "outside the planes",
            Self::NameServer => "the project's name server",
            Self::Localhost { .. } => "own localhost",
            Self::Vip(_) => "a host",
            Self::Forbidden => "another host's localhost",
        })
    }
}

/// The meaning of a bind's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// Outside the planes: the kernel's affair.
    Foreign,
    /// This address of the host's.
    Own(Ipv4Addr),
    /// Another host's: EADDRNOTAVAIL.
    NotAvailable,
}

impl Identity {
    /// The host's VIP.
    pub fn vip(&self) -> Ipv4Addr {
        self.planes.vip(self.index)
    }

    /// The host's 127.0.0.1.
    pub fn localhost(&self) -> Ipv4Addr {
        self.planes.address(Plane::Localhost, self.index)
    }

    /// The host's IPv6-only shadow.
    pub fn v6_shadow(&self) -> Ipv4Addr {
        self.planes.address(Plane::V6Shadow, self.index)
    }

    /// True if `address` is one of the host's own addresses.
    pub fn owns(&self, address: Ipv4Addr) -> bool {
        self.planes
            .place(address)
            .is_some_and(|place| place.index == self.index)
    }

    /// The meaning of `address` as a destination.
    pub fn destination(&self, address: SocketAddr) -> Destination {
        let port = address.port();
        // To connect to the wildcard is to connect to localhost, of the same family (ip(7);
        // net/ipv6/tcp_ipv6.c, tcp_v6_connect).
        if [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED]
            .map(IpAddr::V6)
            .contains(&address.ip())
        {
            return if port == DNS_PORT {
                Destination::NameServer
            } else {
                Destination::Localhost { v6: true, port }
            };
        }
        let v4 = as_v4(address);
        match v4.map(|v4| (v4, self.planes.place(*v4.ip()))) {
            Some((v4, Some(place))) => self.place_as_destination(v4, place),
            _ if port == DNS_PORT => Destination::NameServer,
            Some((v4, None)) if v4.ip().is_unspecified() || *v4.ip() == Ipv4Addr::LOCALHOST => {
                Destination::Localhost { v6: false, port }
            }
            _ => Destination::Foreign,
        }
    }

    fn place_as_destination(&self, address: SocketAddrV4, place: Place) -> Destination {
        match place.plane {
            Plane::Vip => Destination::Vip(address),
            Plane::Localhost if place.index == self.index => Destination::Localhost {
                v6: false,
                port: address.port(),
            },
            Plane::V6Shadow if place.index == self.index => Destination::Localhost {
                v6: true,
                port: address.port(),
            },
            Plane::Localhost | Plane::V6Shadow => Destination::Forbidden,
        }
    }

    /// The address that a bind to `address` resolves to. `v6only` is the socket's IPV6_V6ONLY.
    pub fn bind_address(&self, address: SocketAddr, v6only: bool) -> BindAddress {
        match address.ip() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if v6only => BindAddress::Own(self.v6_shadow()),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => BindAddress::Own(self.v6_shadow()),
            _ => match as_v4(address).map(|v4| *v4.ip()) {
                Some(Ipv4Addr::UNSPECIFIED) => BindAddress::Own(self.vip()),
                Some(Ipv4Addr::LOCALHOST) => BindAddress::Own(self.localhost()),
                Some(ip) => match self.planes.place(ip) {
                    Some(place) if place.index == self.index => BindAddress::Own(ip),
                    Some(_) => BindAddress::NotAvailable,
                    None => BindAddress::Foreign,
                },
                None => BindAddress::Foreign,
            },
        }
    }

    /// The local address to show to the socket's program if the program did not choose an address
    /// itself: for an accepted or connected socket.
    pub fn shown_local(&self, address: SocketAddr) -> SocketAddr {
        let Some(v4) = as_v4(address) else {
            return address;
        };
        match self.planes.place(*v4.ip()) {
            Some(place) if place.index == self.index => match place.plane {
                Plane::Vip => address,
                Plane::Localhost => like(address, Ipv4Addr::LOCALHOST),
                Plane::V6Shadow => SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port()),
            },
            _ => address,
        }
    }

    /// The peer address to show to the socket's program. `local` is the socket's own address.
    pub fn shown_peer(&self, peer: SocketAddr, local: SocketAddr) -> SocketAddr {
        let from_localhost = as_v4(local).is_some_and(|v4| *v4.ip() == Ipv4Addr::LOCALHOST);
        let is_own_vip = as_v4(peer).is_some_and(|v4| *v4.ip() == self.vip());
        if from_localhost && is_own_vip {
            // The program connected to 127.0.0.1 and was redirected to its own wildcard listener.
            return like(peer, Ipv4Addr::LOCALHOST);
        }
        self.shown_local(peer)
    }
}

/// `ip` in the family of `address`, with the port of `address`.
pub fn like(address: SocketAddr, ip: Ipv4Addr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn identity() -> Identity {
        Identity {
            planes: Planes::default(),
            index: Index::new(0x0507).unwrap(),
            name_server: "127.77.5.0:1053".parse().unwrap(),
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn destinations() {
        let local = |v6, port| Destination::Localhost { v6, port };
        let vip = |text: &str| Destination::Vip(text.parse().unwrap());
        for (text, expected) in [
            ("127.0.0.1:80", local(false, 80)),
            ("0.0.0.0:80", local(false, 80)),
            ("[::]:80", local(true, 80)),
            ("[::ffff:127.0.0.1]:80", local(false, 80)),
            ("[::1]:80", local(true, 80)),
            ("127.78.5.7:80", local(false, 80)),
            ("127.79.5.7:80", local(true, 80)),
            ("127.78.5.8:80", Destination::Forbidden),
            ("127.77.5.8:80", vip("127.77.5.8:80")),
            ("[::ffff:127.77.5.8]:80", vip("127.77.5.8:80")),
            ("127.77.5.8:53", vip("127.77.5.8:53")),
            ("10.0.0.2:53", Destination::NameServer),
            ("127.0.0.53:53", Destination::NameServer),
            ("[2001:db8::1]:53", Destination::NameServer),
            ("127.0.0.1:53", Destination::NameServer),
            ("10.0.0.2:80", Destination::Foreign),
            ("127.0.0.2:80", Destination::Foreign),
            ("[2001:db8::1]:80", Destination::Foreign),
            ("127.77.5.0:80", Destination::Foreign),
        ] {
            assert_eq!(identity().destination(address(text)), expected, "{text}");
        }
    }

    #[test]
    fn bind_addresses() {
        let own = |text: &str| BindAddress::Own(text.parse().unwrap());
        for (text, v6only, expected) in [
            ("0.0.0.0:80", false, own("127.77.5.7")),
            ("[::]:80", false, own("127.77.5.7")),
            ("[::]:80", true, own("127.79.5.7")),
            ("127.0.0.1:80", false, own("127.78.5.7")),
            ("[::ffff:127.0.0.1]:80", false, own("127.78.5.7")),
            ("[::1]:80", false, own("127.79.5.7")),
            ("[::1]:80", true, own("127.79.5.7")),
            ("127.77.5.7:80", false, own("127.77.5.7")),
            ("127.77.5.8:80", false, BindAddress::NotAvailable),
            ("127.78.5.8:80", false, BindAddress::NotAvailable),
            ("10.0.0.2:80", false, BindAddress::Foreign),
            ("[2001:db8::1]:80", false, BindAddress::Foreign),
        ] {
            assert_eq!(
                identity().bind_address(address(text), v6only),
                expected,
                "{text} {v6only}"
            );
        }
    }

    #[test]
    fn programs_see_the_addresses_they_know() {
        let host = identity();
        let shown = |text: &str| host.shown_local(address(text));
        assert_eq!(shown("127.78.5.7:80"), address("127.0.0.1:80"));
        assert_eq!(shown("[::ffff:127.78.5.7]:80"), address("[::ffff:127.0.0.1]:80"));
        assert_eq!(shown("127.77.5.7:80"), address("127.77.5.7:80"));
        assert_eq!(shown("127.79.5.7:80"), address("[::1]:80"));
        assert_eq!(shown("127.78.5.8:80"), address("127.78.5.8:80"), "not its own");
        assert_eq!(
            host.shown_peer(address("127.77.5.7:80"), address("127.0.0.1:4000")),
            address("127.0.0.1:80")
        );
        assert_eq!(
            host.shown_peer(address("127.77.5.7:80"), address("127.77.5.7:4000")),
            address("127.77.5.7:80")
        );
    }
}
