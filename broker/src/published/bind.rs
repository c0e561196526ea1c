//! Binding ports of the machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use imsup_wire::{Endpoint, Planes, Transport};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{PublishError, PublishedListener};
use crate::{limits, sockets};
use imsup_compose::cluster::Publish;

/// The backlog of a published port; the kernel takes the smaller of this and somaxconn.
const BACKLOG: i32 = 65_535;

/// Binds an entry of `ports`: on the given address, else on all addresses of both families.
pub(crate) fn bind(
    publish: &Publish,
    target: Endpoint,
    planes: &Planes,
) -> Result<Vec<PublishedListener>, PublishError> {
    let port = publish.machine_port.unwrap_or(0);
    let wildcards = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let first = publish.machine_ip.unwrap_or(wildcards[0]);
    let attempt = match bind_one(SocketAddr::new(first, port), publish.transport, planes) {
        // A machine without IPv6.
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if publish.machine_ip.is_none() => {
            bind_one(SocketAddr::new(wildcards[1], port), publish.transport, planes)
        }
        result => result,
    };
    match attempt {
        Ok(socket) => {
            let machine = local_address(&socket).map_err(|errno| failure(errno, first, publish, planes))?;
            Ok(vec![PublishedListener {
                socket,
                machine,
                target,
            }])
        }
        // Hosts have sockets with this port on hosts' addresses, without sharing the port: bind
        // each of the machine's addresses.
        Err(Errno::ADDRINUSE)
            if publish.machine_ip.is_none() && sockets::occupants(publish.transport, port, planes).is_empty() =>
        {
            each_address(publish, target, port, planes)
        }
        Err(errno) => Err(failure(errno, first, publish, planes)),
    }
}

fn each_address(
    publish: &Publish,
    target: Endpoint,
    port: u16,
    planes: &Planes,
) -> Result<Vec<PublishedListener>, PublishError> {
    let mut listeners = Vec::new();
    for address in own_addresses() {
        let machine = SocketAddr::new(address, port);
        let socket =
            bind_one(machine, publish.transport, planes).map_err(|errno| failure(errno, address, publish, planes))?;
        listeners.push(PublishedListener {
            socket,
            machine,
            target,
        });
    }
    Ok(listeners)
}

/// The machine's addresses; link-local ones need a scope, and are left out.
fn own_addresses() -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(four), _) => IpAddr::V4(four.ip()),
            (None, Some(six)) if !six.ip().is_unicast_link_local() => IpAddr::V6(six.ip()),
            _ => continue,
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn bind_one(address: SocketAddr, transport: Transport, planes: &Planes) -> Result<OwnedFd, Errno> {
    match attempt(address, transport, false) {
        // Retained sockets have the port on hosts' addresses, and share the port with this user's
        // wildcard. A retained socket does not stand for another user's socket at this address.
        Err(Errno::ADDRINUSE) if sockets::occupants(transport, address.port(), planes).is_empty() => {
            attempt(address, transport, true)
        }
        result => result,
    }
}

fn attempt(address: SocketAddr, transport: Transport, share: bool) -> Result<OwnedFd, Errno> {
    let (family, six) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, false),
        SocketAddr::V6(_) => (AddressFamily::INET6, true),
    };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if six {
        let only = !address.ip().is_unspecified();
        sockopt::set_ipv6_v6only(&socket, only)?;
    }
    if transport == Transport::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if share {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if transport == Transport::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    // From now on hosts may have the port on hosts' addresses.
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(socket)
}

pub(super) fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(|_| Errno::AFNOSUPPORT)
}

fn failure(errno: Errno, ip: IpAddr, publish: &Publish, planes: &Planes) -> PublishError {
    let address = SocketAddr::new(ip, publish.machine_port.unwrap_or(0));
    match errno {
        Errno::ADDRINUSE => PublishError::Occupied {
            address,
            occupants: sockets::occupants(publish.transport, address.port(), planes),
            target: publish.port,
        },
        Errno::ACCESS => PublishError::Privileged {
            address,
            first: limits::first_unprivileged_port(),
        },
        errno => PublishError::Other {
            address,
            source: io::Error::from(errno),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::{Sharing, create};
    use crate::testing::planes_for_tests;

    fn publish(port: u16) -> Publish {
        Publish {
            machine_ip: None,
            machine_port: Some(port),
            port: 80,
            transport: Transport::Tcp,
        }
    }

    /// A port that is free at every address: other tests may run beside these.
    fn free_port() -> u16 {
        let probe = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        probe.local_addr().unwrap().port()
    }

    #[test]
    fn a_published_port_and_hosts_ports_share_a_number_in_either_order() {
        let planes = planes_for_tests();
        let (first, second) = (free_port(), free_port());
        let target = Endpoint::tcp(Ipv4Addr::new(127, 97, 202, 1), first);
        let _machine = bind(&publish(first), target, &planes).unwrap();
        let _host = create(target, None, Sharing::WithTheDead, 16).unwrap();
        let other = Endpoint::tcp(Ipv4Addr::new(127, 97, 202, 1), second);
        let _host = create(other, None, Sharing::WithTheDead, 16).unwrap();
        let machine = bind(&publish(second), other, &planes).unwrap();
        assert_eq!(machine[0].machine.port(), second);
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, second)).unwrap();
    }

    #[test]
    fn an_occupied_port_is_said_to_be() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let target = Endpoint::tcp(Ipv4Addr::new(127, 97, 202, 2), 80);
        let error = bind(&publish(port), target, &planes_for_tests()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("in use") && text.contains("127.0.0.1"), "{text}");
        let free = free_port();
        let one = bind(&publish(free), target, &planes_for_tests()).unwrap();
        let again = bind(&publish(free), target, &planes_for_tests());
        assert!(
            matches!(again, Err(PublishError::Occupied { .. })),
            "two projects must not share one"
        );
        drop(one);
    }

    #[test]
    fn hosts_that_do_not_share_leave_the_machines_own_addresses() {
        let planes = planes_for_tests();
        let free = free_port();
        let _program = std::net::TcpListener::bind((Ipv4Addr::new(127, 97, 202, 3), free)).unwrap();
        let target = Endpoint::tcp(Ipv4Addr::new(127, 97, 202, 4), 80);
        let listeners = bind(&publish(free), target, &planes).unwrap();
        assert!(
            listeners
                .iter()
                .any(|listener| listener.machine.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST))
        );
    }
}
