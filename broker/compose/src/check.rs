//! What only one host can have: names, addresses, ports of the machine.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use imsup_wire::Transport;

use super::error::Fault;
use super::ipam::Pinned;
use super::tree::Location;
use crate::cluster::Publish;
use crate::subnet::Subnet;

/// Hosts in a block: its addresses but the broker's own, `127.77.B.0`.
const HOSTS_PER_BLOCK: usize = 255;

/// Ports that all hosts may declare: more descriptors no process of Linux has by default (proc_sys_fs(5), nr_open).
pub(super) const MAX_PORTS: usize = 1 << 20;

/// Bytes that the variables of all hosts may take: each host has its own.
pub(super) const MAX_ENVIRONMENT_BYTES: usize = 256 << 20;

/// Hosts in all blocks together.
pub(super) const MAX_HOSTS: usize = 256 * HOSTS_PER_BLOCK;

/// Two hosts want the same thing, or one wants what nobody can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum Conflict {
    /// One name for two services.
    #[error("'{name}' is already the {kind} of service '{other}': rename one of them")]
    Name {
        name: String,
        /// What it is to the other service.
        kind: &'static str,
        other: String,
    },
    /// One address for two services.
    #[error("services '{service}' and '{other}' both have the address {address}: give one of them another")]
    Address {
        address: Ipv4Addr,
        other: String,
        service: String,
    },
    /// Two addresses for one service.
    #[error("a host has one address: {first} and {second} are two; keep one of them")]
    TwoAddresses { first: Ipv4Addr, second: Ipv4Addr },
    /// An address that isn't one of the planes'.
    #[error(
        "{0} cannot be a host's address here: hosts have addresses in 127.77.0.0/16; choose one, leave it out and \
         imsup does, or pin its subnet with `x-imsup.subnet`"
    )]
    OutsidePlane(Ipv4Addr),
    /// An address that is kept for the broker.
    #[error("{0} is kept for imsup itself: a host's address ends in 1 to 255")]
    Kept(Ipv4Addr),
    /// An address outside the subnet.
    #[error("{address} is outside {subnet}, which {pinned_by} pins: change one of them")]
    OutsideSubnet {
        address: Ipv4Addr,
        subnet: Subnet,
        pinned_by: String,
    },
    /// More hosts than a pinned subnet has addresses.
    #[error("there are {hosts} hosts, and {subnet} has room for {room}: pin a larger one, or leave it to imsup")]
    SubnetFull {
        hosts: usize,
        subnet: Subnet,
        /// How many hosts it has addresses for.
        room: usize,
    },
    /// More ports than there can be sockets.
    #[error(
        "all hosts together declare more than {MAX_PORTS} ports, for each of which a socket is kept: declare those that clients connect to"
    )]
    TooManyPorts,
    /// More variables than there may be memory.
    #[error(
        "the variables of all hosts together, of which each has its own, take more than {} MiB: declare fewer hosts, or shorter ones",
        MAX_ENVIRONMENT_BYTES >> 20
    )]
    EnvironmentTooLarge,
    /// More hosts than a subnet has addresses for.
    #[error("there are more than {MAX_HOSTS} hosts, which is all that a subnet has addresses for")]
    TooManyHosts,
    /// One port of the machine for two hosts.
    #[error("the machine's port {port}/{transport} is published twice: by {first} and by {second}")]
    Published {
        port: u16,
        transport: Transport,
        /// The earlier, in words.
        first: String,
        /// The later, in words.
        second: String,
    },
}

/// What the services have claimed so far.
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

    /// Checks what can only be checked when all are there, and gives the subnet that the file pins.
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
