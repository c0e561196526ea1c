//! Binds that natively conflict with another socket of the same host, and in the planes would not:
//! here the wildcard and localhost are separate addresses.
//!
//! Of stream sockets the kernel is asked whether the two may share the port: a socket of ours with
//! the same options tries the other's address for a moment. A datagram socket that tried it would
//! take datagrams of the other, so there the options of the two are compared.
//!
//! close(2) is not seen. If imsup has a duplicate, the socket's known place tells if the socket is
//! still the program's. Otherwise the kernel tells: a search of all descriptors would take too long
//! for a trapped call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use crate::host::Host;
use crate::host::bound::{Terms, is_live};
use crate::identity::Identity;
use imsup_linux::socket::{self, Sharing, is_endpoint_in_use as is_in_use};

/// True if a socket of the program at `at` is in the way of `socket`. Only sockets whose requested
/// address satisfies `is_meant` count; `None` if there are none.
fn is_in_the_way(host: &Host, socket: BorrowedFd<'_>, at: Endpoint, is_meant: impl Fn(IpAddr) -> bool) -> Option<bool> {
    let mut meant = host.bound.at(at).iter().filter(|one| is_meant(one.asked)).peekable();
    meant.peek()?;
    if at.transport == Transport::Tcp {
        let refuses = |at: Endpoint| is_refused(socket, SocketAddr::V4(at.address));
        let refused = refuses(at);
        // Two sockets with SO_REUSEADDR may share the port while neither listens.
        let is_in_use = |at| refuses(at) || is_in_use(at);
        return meant.any(|one| is_live(host, at, one, is_in_use)).then_some(refused);
    }
    let own = Terms::of(socket);
    let conflicts = meant.filter(|one| is_live(host, at, one, is_in_use)).map(|one| {
        // The socket may have changed its options since.
        let retained = host.retained.by_inode(one.inode);
        !own.agree(retained.map_or(one.terms, |socket| Terms::of(socket.as_fd())))
    });
    conflicts.reduce(|one, other| one || other)
}

/// The families that an address takes traffic of.
fn families(ip: IpAddr, v6only: bool) -> (bool, bool) {
    match ip.to_canonical() {
        IpAddr::V4(_) => (true, false),
        IpAddr::V6(v6) => (v6.is_unspecified() && !v6only, true),
    }
}

fn is_localhost(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// The other addresses at which a socket may conflict with a socket that asks for `ip`.
fn elsewhere(identity: &Identity, ip: IpAddr, v6only: bool) -> Vec<Ipv4Addr> {
    let (v4, v6) = families(ip, v6only);
    match (ip.to_canonical().is_unspecified(), v4, v6) {
        (true, true, false) => vec![identity.localhost()],
        (true, true, true) => vec![identity.localhost(), identity.v6_shadow()],
        (true, false, true) => vec![identity.vip()],
        _ if is_localhost(ip) => vec![identity.vip()],
        _ => Vec::new(),
    }
}

/// True if `socket`, which asks for the wildcard of both families, shares its port with a socket at
/// the IPv4 wildcard. Natively the other socket gets all of IPv4, and `socket` gets IPv6 alone.
pub(super) fn is_beside_v4(host: &Host, socket: BorrowedFd<'_>, endpoint: Endpoint) -> bool {
    let is_v4 = |asked: IpAddr| asked.to_canonical() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let may_share = endpoint.transport == Transport::Udp || Sharing::Port.is_set(socket);
    may_share && is_in_the_way(host, socket, endpoint, is_v4) == Some(false)
}

/// Whether the kernel would natively refuse `socket`, which asks for `asked`, this port.
pub(super) fn is_taken(
    host: &Host,
    socket: BorrowedFd<'_>,
    transport: Transport,
    asked: SocketAddr,
    v6only: bool,
) -> bool {
    let (ip, port) = (asked.ip(), asked.port());
    let (v4, v6) = families(ip, v6only);
    let overlaps = |other: IpAddr| {
        let (other_v4, other_v6) = families(other, false);
        (v4 && other_v4) || (v6 && other_v6)
    };
    for at in elsewhere(&host.identity, ip, v6only) {
        let endpoint = Endpoint {
            transport,
            address: SocketAddrV4::new(at, port),
        };
        // The sockets at the host's own address asked for a wildcard, or for that address.
        let is_meant =
            |other: IpAddr| overlaps(other) && (at != host.identity.vip() || other.to_canonical().is_unspecified());
        if is_in_the_way(host, socket, endpoint, is_meant) == Some(true) {
            return true;
        }
    }
    let is_dual = ip.is_unspecified() && v4 && v6;
    is_dual
        && transport == Transport::Tcp
        && host.native_ports.contains(transport, true, port)
        && is_refused(socket, (Ipv6Addr::LOCALHOST, port).into())
}

/// True if a stream socket with the options and the owner of `socket` cannot be bound to `address`.
fn is_refused(socket: BorrowedFd<'_>, address: SocketAddr) -> bool {
    // Sockets that share by SO_REUSEPORT must belong to one user (socket(7)), and our user may
    // differ from the program's.
    if Sharing::Port.is_set(socket) && socket::other_owner(socket).is_some() {
        return false;
    }
    socket::probe_like(socket, address) == Err(Errno::EADDRINUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    #[test]
    fn a_wildcard_conflicts_with_localhost_of_its_families() {
        let at = |ip: &str, v6only| {
            let found = elsewhere(&identity(), ip.parse().unwrap(), v6only);
            found.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(at("0.0.0.0", false), "127.78.5.7");
        assert_eq!(at("::ffff:0.0.0.0", false), "127.78.5.7");
        assert_eq!(at("::", false), "127.78.5.7 127.79.5.7");
        assert_eq!(at("::", true), "127.77.5.7");
        assert_eq!(at("127.0.0.1", false), "127.77.5.7");
        assert_eq!(at("::1", true), "127.77.5.7");
        assert_eq!(at("127.77.5.7", false), "", "the wildcard is there too");
        assert_eq!(at("192.0.2.1", false), "");
    }
}
