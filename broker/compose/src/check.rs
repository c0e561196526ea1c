//! Checks of values that only a single host can have: addresses, published ports.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use imsup_wire::Transport;

use super::conflict::{Conflict, HOSTS_PER_BLOCK};
use super::error::Fault;
use super::hostnames::HostNames;
use super::ipam::Pinned;
use super::network::Address;
use crate::cluster::Publish;
use crate::subnet::Subnet;

/// The claims of the services so far.
#[derive(Default)]
pub(super) struct Claims {
    pub names: HostNames,
    addresses: Vec<Claim>,
    published: HashMap<(Transport, u16), Vec<Published>>,
}

/// A pinned address, of the host with this number.
pub(super) struct Claim {
    pub address: Address,
    pub service: Rc<str>,
    pub path: String,
    pub host: usize,
}

struct Published {
    ip: Option<IpAddr>,
    port: u16,
    service: Rc<str>,
}

impl Published {
    fn describe(&self, machine_port: u16) -> String {
        let ip = match self.ip {
            None => String::new(),
            Some(IpAddr::V4(ip)) => format!("{ip}:"),
            Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
        };
        format!("service '{}' (\"{ip}{machine_port}:{}\")", self.service, self.port)
    }
}

/// What becomes of the pinned addresses.
pub(super) struct Addresses {
    pub subnet: Option<Subnet>,
    /// Addresses of a network's own subnet that hosts do not get.
    pub dropped: Vec<Claim>,
}

impl Claims {
    /// A pinned address.
    pub fn address(&mut self, claim: Claim) {
        self.addresses.push(claim);
    }

    /// A port of the machine.
    pub fn publish(&mut self, publish: &Publish, service: &Rc<str>) -> Result<(), Conflict> {
        let Some(machine_port) = publish.machine_port else {
            return Ok(());
        };
        let new = Published {
            ip: publish.machine_ip,
            port: publish.port,
            service: service.clone(),
        };
        let earlier = self.published.entry((publish.transport, machine_port)).or_default();
        if let Some(other) = earlier.iter().find(|other| overlap(other.ip, new.ip)) {
            return Err(Conflict::Published {
                port: machine_port,
                transport: publish.transport,
                first: other.describe(machine_port),
                second: new.describe(machine_port),
            });
        }
        earlier.push(new);
        Ok(())
    }

    /// The checks that need all hosts.
    pub fn finish(&mut self, subnet: Option<Pinned>, hosts: usize) -> Result<Addresses, Fault> {
        let mut taken: HashMap<Ipv4Addr, Rc<str>> = HashMap::new();
        let mut dropped = Vec::new();
        for claim in std::mem::take(&mut self.addresses) {
            let address = claim.address.address;
            let fail = |conflict: Conflict| Err(Fault::new(claim.address.at, &claim.path, conflict));
            let is_outside = match &subnet {
                None => !Subnet::default().contains(address),
                Some(pinned) => !pinned.subnet.contains(address),
            };
            match &subnet {
                _ if is_outside && claim.address.is_in_subnet => {
                    dropped.push(claim);
                    continue;
                }
                None if is_outside => return fail(Conflict::OutsidePlane(address)),
                Some(pinned) if is_outside => {
                    return fail(Conflict::OutsideSubnet {
                        address,
                        subnet: pinned.subnet,
                        pinned_by: pinned.path.clone(),
                    });
                }
                _ => {}
            }
            if address.octets()[3] == 0 {
                return fail(Conflict::Kept(address));
            }
            if let Some(other) = taken.insert(address, claim.service.clone()) {
                return fail(Conflict::Address {
                    address,
                    other: other.to_string(),
                    service: claim.service.to_string(),
                });
            }
        }
        let subnet = match subnet {
            None => None,
            Some(Pinned { subnet, at, path }) => {
                let room = subnet.blocks().count() * HOSTS_PER_BLOCK;
                if hosts > room {
                    return Err(Fault::new(at, path, Conflict::SubnetFull { hosts, subnet, room }));
                }
                Some(subnet)
            }
        };
        Ok(Addresses { subnet, dropped })
    }
}

/// Whether two sockets cannot be bound to the same port of these addresses.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let everything = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip == IpAddr::from([0u16; 8]));
    let (Some(x), Some(y)) = (a, b) else { return true };
    everything(a)
        || everything(b)
        || x == y
        || (x.is_ipv4() && y.is_ipv4() && (x.is_unspecified() || y.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_machine_overlap_as_sockets_do() {
        let ip = |text: &str| Some(text.parse().unwrap());
        for (a, b, expected) in [
            (None, None, true),
            (None, ip("10.0.0.1"), true),
            (ip("0.0.0.0"), ip("10.0.0.1"), true),
            (ip("0.0.0.0"), ip("::1"), false),
            (ip("::"), ip("10.0.0.1"), true),
            (ip("10.0.0.1"), ip("10.0.0.1"), true),
            (ip("10.0.0.1"), ip("10.0.0.2"), false),
            (ip("::1"), ip("127.0.0.1"), false),
        ] {
            assert_eq!(overlap(a, b), expected, "{a:?} {b:?}");
            assert_eq!(overlap(b, a), expected, "{b:?} {a:?}");
        }
    }
}
