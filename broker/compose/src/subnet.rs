//! The place of a project's VIPs, if specified in the file: `x-imsup.subnet`, or the `ipam` subnet
//! of a compose network. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use imsup_wire::Planes;
use serde::{Deserialize, Serialize};

/// A plane is a /16: the last two bytes of a VIP are its host's index.
const SHORTEST: u8 = 16;
/// A project has blocks of 256 addresses.
const LONGEST: u8 = 24;

/// A subnet for VIPs: from a /16, a whole plane, to a /24, one block of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: Ipv4Addr,
    length: u8,
}

/// Why a text is no subnet for VIPs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum SubnetError {
    /// The text is not a subnet.
    #[error("'{0}' is no IPv4 subnet: write ADDRESS/LENGTH, for example 127.77.9.0/24 or 10.77.0.0/16")]
    Malformed(String),
    /// IPv6.
    #[error("'{0}' is IPv6: hosts' addresses are IPv4 (IPv6 sockets get them v4-mapped)")]
    Six(String),
    /// Bits are set beyond the length.
    #[error("'{text}' does not begin where a /{length} begins: write {base}/{length}")]
    NotAligned { text: String, base: Ipv4Addr, length: u8 },
    /// Larger than a plane.
    #[error(
        "'{text}' is more than a project can have, which is a /16: choose one of those in it, for example {first}/16"
    )]
    TooLarge { text: String, first: Ipv4Addr },
    /// Smaller than a block.
    #[error("'{text}' is too small: a project has at least a block of 256 addresses; write {base}/24")]
    TooSmall { text: String, base: Ipv4Addr },
    /// The addresses are reserved.
    #[error("'{text}' cannot be hosts' addresses: {why}")]
    Reserved { text: String, why: &'static str },
}

impl Subnet {
    /// The first address.
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// The number of leading bits in common: 16 to 24.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// True if the address is in the subnet.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.length) == u32::from(self.base)
    }

    /// True if the subnet and BASE/LENGTH have an address in common.
    pub fn overlaps(&self, base: Ipv4Addr, length: u8) -> bool {
        let common = mask(length.min(self.length));
        u32::from(base) & common == u32::from(self.base) & common
    }

    /// True if every machine has the subnet already, without any route: 127.0.0.0/8.
    pub fn is_loopback(&self) -> bool {
        self.base.is_loopback()
    }

    /// The blocks: the third bytes of the addresses.
    pub fn blocks(&self) -> RangeInclusive<u8> {
        let last = u32::from(self.base) | !mask(self.length);
        self.base.octets()[2]..=Ipv4Addr::from(last).octets()[2]
    }

    /// The planes of a project with its VIPs in this subnet; own localhosts and shadows stay in
    /// 127.0.0.0/8.
    pub fn planes(&self) -> Planes {
        let [a, b, _, _] = self.base.octets();
        Planes {
            vip: [a, b],
            ..Planes::default()
        }
    }
}

impl Default for Subnet {
    /// 127.77.0.0/16.
    fn default() -> Self {
        let [a, b] = Planes::default().vip;
        Self {
            base: Ipv4Addr::new(a, b, 0, 0),
            length: SHORTEST,
        }
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        if address.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(SubnetError::Six(text.to_owned()));
        }
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        let length: u8 = length
            .parse()
            .ok()
            .filter(|length| *length <= 32)
            .ok_or_else(malformed)?;
        let base = Ipv4Addr::from(u32::from(address) & mask(length));
        let text = text.to_owned();
        if base != address {
            return Err(SubnetError::NotAligned { text, base, length });
        }
        let subnet = Self { base, length };
        if let Some(why) = subnet.reserved() {
            return Err(SubnetError::Reserved { text, why });
        }
        match length {
            ..SHORTEST => Err(SubnetError::TooLarge { text, first: base }),
            SHORTEST..=LONGEST => Ok(subnet),
            _ => Err(SubnetError::TooSmall {
                text,
                base: Ipv4Addr::from(u32::from(base) & mask(LONGEST)),
            }),
        }
    }
}

impl Subnet {
    /// The purpose of the addresses, if they are reserved (RFC 6890).
    fn reserved(&self) -> Option<&'static str> {
        let planes = Planes::default();
        let [a, b, _, _] = self.base.octets();
        match a {
            0 => Some("0.0.0.0/8 is no address of anybody"),
            127 if self.length < SHORTEST || b == 0 => Some("127.0.0.0/16 has the machine's own localhost"),
            127 if [a, b] == planes.localhost || [a, b] == planes.v6_shadow => {
                Some("127.78.0.0/16 and 127.79.0.0/16 are the hosts' own localhosts")
            }
            169 if self.overlaps(Ipv4Addr::new(169, 254, 0, 0), 16) => {
                Some("169.254.0.0/16 is link-local, where clouds have their metadata")
            }
            224..=239 => Some("224.0.0.0/4 is multicast"),
            240.. => Some("240.0.0.0/4 is reserved"),
            _ => None,
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_had_is_had() {
        for (text, blocks, loopback) in [
            ("127.77.0.0/16", 0..=255, true),
            ("127.77.9.0/24", 9..=9, true),
            ("127.50.0.0/16", 0..=255, true),
            ("10.77.0.0/16", 0..=255, false),
            ("172.28.64.0/18", 64..=127, false),
            ("192.168.200.0/23", 200..=201, false),
        ] {
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(subnet.blocks(), blocks, "{text}");
            assert_eq!(subnet.is_loopback(), loopback, "{text}");
            assert_eq!(subnet.to_string(), text);
        }
        assert_eq!(Subnet::default().planes(), Planes::default());
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        for (text, expected) in [
            ("10.77.0.0", "is no IPv4 subnet"),
            ("10.77.0.0/33", "is no IPv4 subnet"),
            ("10.77.0.0/-1", "is no IPv4 subnet"),
            ("127.77.256.0/24", "is no IPv4 subnet"),
            ("fd00::/64", "is IPv6"),
            ("10.77.5.0/16", "write 10.77.0.0/16"),
            ("10.0.0.0/8", "for example 10.0.0.0/16"),
            ("172.16.0.0/12", "for example 172.16.0.0/16"),
            ("10.77.5.64/26", "write 10.77.5.0/24"),
            ("127.0.0.0/8", "own localhost"),
            ("127.0.5.0/24", "own localhost"),
            ("127.78.1.0/24", "own localhosts"),
            ("0.0.0.0/0", "no address"),
            ("169.254.0.0/16", "link-local"),
            ("224.1.0.0/16", "multicast"),
            ("255.255.0.0/16", "reserved"),
        ] {
            let said = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn subnets_overlap_either_way_round() {
        let subnet: Subnet = "10.77.0.0/16".parse().unwrap();
        let overlaps = |text: &str, length| subnet.overlaps(text.parse().unwrap(), length);
        assert!(overlaps("10.77.3.0", 24) && overlaps("10.0.0.0", 8) && overlaps("0.0.0.0", 0));
        assert!(!overlaps("10.78.0.0", 16) && !overlaps("10.76.255.255", 32));
    }
}
