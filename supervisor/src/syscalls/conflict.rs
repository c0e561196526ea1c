//! Binds that natively conflict with another socket of the same host, and in the planes would not: the wildcard and localhost are addresses of their own here.
//!
//! The kernel is asked whether the two sockets may share the port: a socket of ours with the same options tries the other's address for a moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use crate::host::Host;
use crate::identity::Identity;
use crate::kernel::holders::Search;
use crate::kernel::{process, socket};

/// Endpoints remembered before any is looked at again.
const FEW: usize = 256;

/// A socket that the program bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    inode: u64,
    /// The address that it asked for.
    asked: IpAddr,
}

/// What the program bound in the planes. Close(2) is not seen: whether it still has a socket is asked when that matters.
#[derive(Debug, Default)]
pub struct BoundSockets {
    by_endpoint: BTreeMap<Endpoint, Vec<Bound>>,
    count: usize,
    sweep_at: usize,
}

impl BoundSockets {
    /// Remembers a socket that was bound.
    pub fn note(&mut self, endpoint: Endpoint, inode: u64, asked: IpAddr) {
        if self.count >= self.sweep_at.max(FEW) {
            let held = process::sockets_held().sockets;
            self.by_endpoint.retain(|_, sockets| {
                sockets.retain(|one| held.contains(&one.inode));
                !sockets.is_empty()
            });
            self.count = self.by_endpoint.values().map(Vec::len).sum();
            self.sweep_at = 2 * self.count;
        }
        let sockets = self.by_endpoint.entry(endpoint).or_default();
        // A retained one may be bound by another address this time.
        match sockets.iter_mut().find(|one| one.inode == inode) {
            Some(known) => known.asked = asked,
            None => {
                sockets.push(Bound { inode, asked });
                self.count += 1;
            }
        }
    }

    /// Whether the program still has a socket at `endpoint` whose address it asked for thus.
    fn has(&self, endpoint: Endpoint, is_meant: impl Fn(IpAddr) -> bool) -> bool {
        let sockets = self.by_endpoint.get(&endpoint).map_or(&[][..], Vec::as_slice);
        sockets.iter().any(|one| is_meant(one.asked) && is_held(one.inode))
    }
}

/// Whether a process of the host has the socket, or may have it.
fn is_held(inode: u64) -> bool {
    let mut search = Search::new([inode]);
    search.step(usize::MAX);
    search.place(inode).is_some() || search.is_hidden_from()
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

/// Where else sockets may be that conflict with one that asks for `ip`.
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

/// Whether `socket`, which asks for the wildcard of both families, shares its port with one at the IPv4 wildcard: natively that one gets
/// all of IPv4, and `socket` IPv6 alone.
pub(super) fn is_beside_v4(host: &Host, socket: BorrowedFd<'_>, endpoint: Endpoint) -> bool {
    let is_v4 = |asked: IpAddr| asked.to_canonical() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let may_share = endpoint.transport == Transport::Udp || socket::is_reuseport(socket);
    may_share
        && host.bound.has(endpoint, is_v4)
        && !is_refused(socket, endpoint.transport, SocketAddr::V4(endpoint.address))
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
    let refused = |address| is_refused(socket, transport, address);
    for at in elsewhere(&host.identity, ip, v6only) {
        let endpoint = Endpoint {
            transport,
            address: SocketAddrV4::new(at, port),
        };
        // At the host's own address are wildcards, and what asked for that address.
        let is_meant =
            |other: IpAddr| overlaps(other) && (at != host.identity.vip() || other.to_canonical().is_unspecified());
        if host.bound.has(endpoint, is_meant) && refused(SocketAddr::V4(endpoint.address)) {
            return true;
        }
    }
    let is_dual = ip.is_unspecified() && v4 && v6;
    is_dual
        && transport == Transport::Tcp
        && host.native_ports.contains(transport, true, port)
        && refused((Ipv6Addr::LOCALHOST, port).into())
}

/// Whether a socket with the options and the owner of this one cannot be bound there.
fn is_refused(socket: BorrowedFd<'_>, transport: Transport, address: SocketAddr) -> bool {
    // Who shares by SO_REUSEPORT must be one user (socket(7)), and ours may be another than the program's.
    if socket::is_reuseport(socket) && !socket::is_own(socket) {
        return false;
    }
    socket::probe_like(socket, transport, address) == Err(Errno::EADDRINUSE)
}

/// Remembers what a program bound. What had the port at another of the host's addresses, and is closed, is led to no more.
pub(super) fn note(host: &mut Host, socket: BorrowedFd<'_>, transport: Transport, asked: IpAddr) {
    let local = socket::local_address(socket).and_then(socket::as_v4);
    let (Some(address), Ok(inode)) = (local, socket::inode(socket)) else {
        return;
    };
    host.bound.note(Endpoint { transport, address }, inode, asked);
    for ip in [
        host.identity.vip(),
        host.identity.localhost(),
        host.identity.v6_shadow(),
    ] {
        let other = Endpoint {
            transport,
            address: SocketAddrV4::new(ip, address.port()),
        };
        if other.address != address && host.retained.is_landing(other) && !host.bound.has(other, |_| true) {
            host.retained.forget_landing(other);
        }
    }
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

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut bound = BoundSockets::default();
        for port in 1..=10_000 {
            bound.note(
                Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), port),
                port.into(),
                Ipv4Addr::UNSPECIFIED.into(),
            );
        }
        assert!(bound.count <= FEW);
    }
}
