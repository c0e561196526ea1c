//! The addresses of imaginary machines: planes, indexes, endpoints.
//!
//! A host has a 16-bit index; a *plane* is a /16 in which that index is an address. The planes are
//! a value, not constants, so that another prefix that is local on the machine can serve as well.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

/// A host's 16-bit machine index: the last two bytes of each of the host's addresses.
///
/// An index whose low byte is 0 is never a host: the project's broker keeps these addresses for its
/// name server, and for the claim that makes a block of indexes exclusive on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Index(u16);

/// A number that is no host's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:#06x} is no host's index: the low byte 0 is kept for the broker")]
pub struct BadIndex(u16);

impl Index {
    /// The index with this number, or `None` if the broker keeps that number (low byte 0).
    pub fn new(number: u16) -> Option<Self> {
        (number & 0xff != 0).then_some(Self(number))
    }

    /// The number itself.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Index {
    type Error = BadIndex;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Self::new(number).ok_or(BadIndex(number))
    }
}

impl From<Index> for u16 {
    fn from(index: Index) -> Self {
        index.number()
    }
}

/// Names one of a host's three addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Plane {
    /// The address that the host's name resolves to, and the listen target of a bind to the
    /// wildcard.
    Vip,
    /// The host's private 127.0.0.1.
    Localhost,
    /// The address for binds of IPv6 only: `[::1]`, and the wildcard of an `IPV6_V6ONLY` socket.
    V6Shadow,
}

/// An address in one of the planes, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The plane.
    pub plane: Plane,
    /// The host's index there.
    pub index: Index,
}

/// The /16 prefixes of the three planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Planes {
    /// Prefix of the VIPs.
    pub vip: [u8; 2],
    /// Prefix of the private localhosts.
    pub localhost: [u8; 2],
    /// Prefix of the IPv6-only shadows.
    pub v6_shadow: [u8; 2],
}

impl Default for Planes {
    /// The planes inside 127.0.0.0/8, which are local on every Linux machine.
    fn default() -> Self {
        Self {
            vip: [127, 77],
            localhost: [127, 78],
            v6_shadow: [127, 79],
        }
    }
}

impl Planes {
    /// The address of host `index` in `plane`.
    pub fn address(&self, plane: Plane, index: Index) -> Ipv4Addr {
        self.raw(plane, index.number())
    }

    /// The VIP of host `index`.
    pub fn vip(&self, index: Index) -> Ipv4Addr {
        self.address(Plane::Vip, index)
    }

    /// The broker's own address in the block that holds `index`: `vip.hi.0`.
    pub fn broker_address(&self, block: u8) -> Ipv4Addr {
        self.raw(Plane::Vip, u16::from(block) << 8)
    }

    /// The address that makes a block of indexes one broker's: `localhost.hi.0`. Own localhosts
    /// depend on the index alone, so projects whose VIPs have different prefixes must not share a
    /// block either.
    pub fn claim_address(&self, block: u8) -> Ipv4Addr {
        self.raw(Plane::Localhost, u16::from(block) << 8)
    }

    /// The host of this address, or `None` if the address lies outside the planes or belongs to a
    /// broker.
    pub fn place(&self, address: Ipv4Addr) -> Option<Place> {
        let [a, b, hi, lo] = address.octets();
        let plane = match [a, b] {
            p if p == self.vip => Plane::Vip,
            p if p == self.localhost => Plane::Localhost,
            p if p == self.v6_shadow => Plane::V6Shadow,
            _ => return None,
        };
        let index = Index::new(u16::from_be_bytes([hi, lo]))?;
        Some(Place { plane, index })
    }

    fn raw(&self, plane: Plane, number: u16) -> Ipv4Addr {
        let [a, b] = match plane {
            Plane::Vip => self.vip,
            Plane::Localhost => self.localhost,
            Plane::V6Shadow => self.v6_shadow,
        };
        let [hi, lo] = number.to_be_bytes();
        Ipv4Addr::new(a, b, hi, lo)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP, over IPv4 or v4-mapped IPv6.
    Tcp,
    /// UDP, over IPv4 or v4-mapped IPv6.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A transport and an address in one of the planes: the key of a retained socket.
///
/// The address is IPv4 even if the socket is AF_INET6: such sockets carry the same address
/// v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The transport.
    pub transport: Transport,
    /// The address and port.
    pub address: SocketAddrV4,
}

impl Endpoint {
    /// A TCP endpoint.
    pub fn tcp(address: Ipv4Addr, port: u16) -> Self {
        Self {
            transport: Transport::Tcp,
            address: SocketAddrV4::new(address, port),
        }
    }

    /// A UDP endpoint.
    pub fn udp(address: Ipv4Addr, port: u16) -> Self {
        Self {
            transport: Transport::Udp,
            address: SocketAddrV4::new(address, port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_with_low_byte_zero_is_never_a_host() {
        assert_eq!(Index::new(0x0500), None);
        assert_eq!(
            Planes::default().place(Ipv4Addr::new(127, 77, 5, 0)),
            None,
            "the broker's own address is no host"
        );
    }

    #[test]
    fn addresses_and_places_are_inverse() {
        let planes = Planes::default();
        let index = Index::new(0x0507).unwrap();
        for plane in [Plane::Vip, Plane::Localhost, Plane::V6Shadow] {
            let address = planes.address(plane, index);
            assert_eq!(planes.place(address), Some(Place { plane, index }));
        }
        assert_eq!(planes.vip(index), Ipv4Addr::new(127, 77, 5, 7));
        assert_eq!(planes.place(Ipv4Addr::LOCALHOST), None);
    }
}
