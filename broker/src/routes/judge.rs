//! Decides from the machine's routes and addresses if a subnet may be made local. Pure.

use std::fmt;
use std::net::Ipv4Addr;

use super::netlink::{Address, Kind, Route};
use imsup_compose::subnet::Subnet;

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The subnet is local already, by another's route.
    Local,
    /// The subnet is free.
    Free,
    /// The machine needs addresses of the subnet.
    Obstacle(Obstacle),
}

/// The machine's use of addresses in a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// An interface is in a network that overlaps the subnet.
    Interface {
        /// Its name.
        name: String,
        /// Its address.
        address: Ipv4Addr,
        /// The length of its network.
        length: u8,
    },
    /// A route leads to a network that overlaps the subnet.
    Route {
        /// The network.
        base: Ipv4Addr,
        /// Its length.
        length: u8,
        /// The interface.
        name: String,
    },
    /// The default route's next hop is in the subnet.
    Gateway(Ipv4Addr),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { name, address, length } => {
                write!(f, "they overlap the network of interface {name} ({address}/{length})")
            }
            Self::Route { base, length, name } => {
                write!(
                    f,
                    "this machine has a route to {base}/{length} there (interface {name})"
                )
            }
            Self::Gateway(address) => write!(f, "the default route's gateway {address} is among them"),
        }
    }
}

/// Decides. Addresses on the loopback device are the machine's in any case.
pub(super) fn judge(subnet: &Subnet, routes: &[Route], addresses: &[Address]) -> Verdict {
    for address in addresses.iter().filter(|address| address.interface != "lo") {
        if subnet.overlaps(address.ip, address.length) {
            return Verdict::Obstacle(Obstacle::Interface {
                name: address.interface.clone(),
                address: address.ip,
                length: address.length,
            });
        }
    }
    let away = |route: &&Route| route.kind == Kind::Unicast && route.interface != "lo";
    for route in routes.iter().filter(away) {
        if route.length > 0 && subnet.overlaps(route.base, route.length) {
            return Verdict::Obstacle(Obstacle::Route {
                base: route.base,
                length: route.length,
                name: route.interface.clone(),
            });
        }
        if let Some(gateway) = route.gateway.filter(|gateway| subnet.contains(*gateway)) {
            return Verdict::Obstacle(Obstacle::Gateway(gateway));
        }
    }
    let covers = |route: &Route| {
        let same = route.kind == Kind::Local && route.interface == "lo" && !route.ours;
        same && route.length <= subnet.length() && subnet.overlaps(route.base, route.length)
    };
    if routes.iter().any(covers) {
        Verdict::Local
    } else {
        Verdict::Free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: Kind, base: &str, length: u8, interface: &str) -> Route {
        Route {
            kind,
            base: base.parse().unwrap(),
            length,
            interface: interface.to_owned(),
            gateway: None,
            ours: false,
        }
    }

    fn verdict(routes: &[Route], addresses: &[(&str, &str, u8)]) -> Verdict {
        let addresses: Vec<Address> = addresses
            .iter()
            .map(|(interface, ip, length)| Address {
                interface: (*interface).to_owned(),
                ip: ip.parse().unwrap(),
                length: *length,
            })
            .collect();
        judge(&"10.77.0.0/16".parse().unwrap(), routes, &addresses)
    }

    #[test]
    fn a_machine_on_other_networks_has_room() {
        let gateway = Route {
            gateway: Some("192.168.1.1".parse().unwrap()),
            ..route(Kind::Unicast, "0.0.0.0", 0, "eth0")
        };
        let routes = [
            gateway,
            route(Kind::Unicast, "192.168.1.0", 24, "eth0"),
            route(Kind::Local, "127.0.0.0", 8, "lo"),
            route(Kind::Other, "10.0.0.0", 8, "lo"),
        ];
        let addresses = [("lo", "127.0.0.1", 8), ("eth0", "192.168.1.7", 24)];
        assert_eq!(verdict(&routes, &addresses), Verdict::Free);
    }

    #[test]
    fn what_the_machine_needs_stays() {
        let obstacle = |routes: &[Route], addresses: &[(&str, &str, u8)]| match verdict(routes, addresses) {
            Verdict::Obstacle(obstacle) => obstacle.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(obstacle(&[], &[("eth0", "10.77.3.2", 24)]).contains("eth0 (10.77.3.2/24)"));
        assert!(obstacle(&[], &[("eth0", "10.1.2.3", 8)]).contains("10.1.2.3/8"));
        let vpn = route(Kind::Unicast, "10.64.0.0", 10, "tun0");
        assert!(obstacle(&[vpn], &[]).contains("10.64.0.0/10"));
        let onlink = Route {
            gateway: Some("10.77.0.1".parse().unwrap()),
            ..route(Kind::Unicast, "0.0.0.0", 0, "eth0")
        };
        assert!(obstacle(&[onlink], &[("eth0", "192.0.2.1", 32)]).contains("gateway 10.77.0.1"));
    }

    #[test]
    fn what_is_local_by_another_hand_stays_so() {
        let theirs = route(Kind::Local, "10.77.0.0", 16, "lo");
        assert_eq!(verdict(std::slice::from_ref(&theirs), &[]), Verdict::Local);
        assert_eq!(verdict(&[route(Kind::Local, "10.0.0.0", 8, "lo")], &[]), Verdict::Local);
        assert_eq!(
            verdict(&[route(Kind::Local, "10.77.3.0", 24, "lo")], &[]),
            Verdict::Free,
            "a part of it is not all"
        );
        let ours = Route { ours: true, ..theirs };
        assert_eq!(
            verdict(&[ours], &[]),
            Verdict::Free,
            "another project's: it goes with that"
        );
    }
}
