//! Checks of values that only a single host can have: names, addresses, published ports.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use imsup_wire::Transport;

use super::conflict::{Conflict, HOSTS_PER_BLOCK};
use super::error::Fault;
use super::ipam::Pinned;
use super::tree::Location;
use crate::cluster::Publish;
use crate::subnet::Subnet;

/// The claims of the services so far.
#[derive(Default)]
pub(super) struct Claims {
    names: HashMap<String, (Rc<str>, &'static str)>,
    aliases: Vec<(String, Rc<str>, Location, String)>,
    addresses: Vec<(Ipv4Addr, Rc<str>, Location, String)>,
    published: HashMap<(Transport, u16), Vec<Published>>,
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

impl Claims {
    /// A name that is the service's alone: its own, its replicas', `hostname`, `container_name`.
    pub fn name(&mut self, name: &str, kind: &'static str, service: &Rc<str>) -> Result<(), Conflict> {
        match self.names.get(name) {
            Some((other, _)) if other == service => Ok(()),
            Some((other, kind)) => Err(Conflict::Name {
                name: name.to_owned(),
                kind,
                other: other.to_string(),
            }),
            None => {
                self.names.insert(name.to_owned(), (service.clone(), kind));
                Ok(())
            }
        }
    }

    /// A name that several services may share, but which must not be another's own.
    pub fn alias(&mut self, name: &str, service: &Rc<str>, at: Location, path: String) {
        self.aliases.push((name.to_owned(), service.clone(), at, path));
    }

    /// A pinned address.
    pub fn address(&mut self, address: Ipv4Addr, service: &Rc<str>, at: Location, path: String) {
        self.addresses.push((address, service.clone(), at, path));
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

    /// The checks that need all hosts. Returns the subnet that the file pins.
    pub fn finish(self, subnet: Option<Pinned>, hosts: usize) -> Result<Option<Subnet>, Fault> {
        for (name, service, at, path) in &self.aliases {
            if let Some((other, kind)) = self.names.get(name).filter(|(other, _)| other != service) {
                let conflict = Conflict::Name {
                    name: name.clone(),
                    kind,
                    other: other.to_string(),
                };
                return Err(Fault::new(*at, path, conflict));
            }
        }
        let mut taken: HashMap<Ipv4Addr, &Rc<str>> = HashMap::new();
        for (address, service, at, path) in &self.addresses {
            let fail = |conflict: Conflict| Err(Fault::new(*at, path, conflict));
            match &subnet {
                None if !Subnet::default().contains(*address) => return fail(Conflict::OutsidePlane(*address)),
                Some(pinned) if !pinned.subnet.contains(*address) => {
                    return fail(Conflict::OutsideSubnet {
                        address: *address,
                        subnet: pinned.subnet,
                        pinned_by: pinned.path.clone(),
                    });
                }
                _ => {}
            }
            if address.octets()[3] == 0 {
                return fail(Conflict::Kept(*address));
            }
            if let Some(other) = taken.insert(*address, service) {
                return fail(Conflict::Address {
                    address: *address,
                    other: other.to_string(),
                    service: service.to_string(),
                });
            }
        }
        let Some(Pinned { subnet, at, path }) = subnet else {
            return Ok(None);
        };
        let room = subnet.blocks().count() * HOSTS_PER_BLOCK;
        if hosts > room {
            return Err(Fault::new(at, path, Conflict::SubnetFull { hosts, subnet, room }));
        }
        Ok(Some(subnet))
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
