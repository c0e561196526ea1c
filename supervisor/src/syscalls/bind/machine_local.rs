//! Ports of the machine's own addresses, which the kernel chose for the host's sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use imsup_wire::Transport;
use rustix::net::{AddressFamily, SocketType};

use crate::host::Host;
use imsup_linux::notify::Answer;
use imsup_linux::socket::{self, Family, InetSocket};

/// Carries [`super::Plan::MachineLocal`] out.
pub(super) fn bind_machine_local(
    host: &mut Host,
    socket: &OwnedFd,
    transport: Transport,
    asked: SocketAddr,
    v6only: bool,
) -> Answer {
    let socket = socket.as_fd();
    match socket::bind(socket, asked) {
        Ok(()) => {
            if let Some(local) = socket::local_address(socket) {
                let ip = asked.ip().to_canonical();
                let both = ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !v6only;
                for v6 in [false, true] {
                    if both || ip.is_ipv6() == v6 {
                        host.native_ports.insert(transport, v6, local.port());
                    }
                }
            }
            Answer::Value(0)
        }
        Err(errno) => Answer::errno(errno),
    }
}

/// Whether this is a port of localhost that the kernel chose for another socket of the host
/// ([`super::Plan::MachineLocal`]) and that is still bound. Of datagram sockets also the other
/// family's port and the wildcard's count: there the kernel alone knows which of two sockets a
/// datagram is for, and two sockets at one place answer each other's clients. (A stream socket
/// listens in the planes but for `::1`.)
pub(super) fn is_beside_machine_local(host: &Host, kind: &InetSocket, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let families = match kind.transport {
        Transport::Tcp if ip == IpAddr::V6(Ipv6Addr::LOCALHOST) => &[true][..],
        Transport::Udp if ip.is_unspecified() || ip.is_loopback() => &[false, true],
        _ => return false,
    };
    families.iter().any(|v6| {
        host.native_ports.contains(kind.transport, *v6, address.port())
            && is_bound_machine_local(kind.transport, *v6, address.port())
    })
}

/// Whether some socket has this port of the machine's 127.0.0.1, or `::1`.
pub(in crate::syscalls) fn is_bound_machine_local(transport: Transport, v6: bool, port: u16) -> bool {
    let (family, ip) = match v6 {
        true => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::LOCALHOST)),
        false => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, None)
        .and_then(|probe| rustix::net::bind(&probe, &SocketAddr::new(ip, port)))
        .is_err()
}

/// A socket is bound in the planes: the port no longer counts as a port of the machine, even if
/// another socket had it there. (That socket is closed: natively the two would conflict.)
pub(super) fn forget_native(host: &mut Host, socket: &OwnedFd) {
    let Some(kind) = InetSocket::inspect(socket.as_fd()) else {
        return;
    };
    let (port, ip) = (kind.local.port(), kind.local_v4().map(|local| *local.ip()));
    let is_v6_localhost = ip == Some(host.identity.v6_shadow());
    let is_dual = ip == Some(host.identity.vip()) && kind.family == Family::V6;
    if !is_v6_localhost {
        host.native_ports.remove(kind.transport, false, port);
    }
    if is_v6_localhost || is_dual {
        host.native_ports.remove(kind.transport, true, port);
    }
}
