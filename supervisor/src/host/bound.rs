//! What the program bound in the planes, and whether it still has that.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use imsup_linux::socket::{self, Sharing, is_endpoint_in_use as is_in_use};
use imsup_wire::{Endpoint, Transport};

use super::Host;

/// Endpoints remembered before any is looked at again.
const FEW: usize = 256;

/// The options by which a socket shares its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// SO_REUSEADDR.
    address: bool,
    /// SO_REUSEPORT.
    port: bool,
    /// The socket's user, if not our user: a socket of ours may stand for another user's.
    other_user: Option<u32>,
}

impl Terms {
    /// Those of a socket.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> Self {
        Self {
            address: Sharing::Address.is_set(socket),
            port: Sharing::Port.is_set(socket),
            other_user: socket::other_owner(socket),
        }
    }

    /// Whether the kernel lets the two share a port (net/ipv4/udp.c, udp_lib_lport_inuse); of
    /// stream sockets, while neither listens.
    pub(crate) fn agree(self, other: Self) -> bool {
        let one_user = match (self.other_user, other.other_user) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        (self.address && other.address) || (self.port && other.port && one_user)
    }
}

/// A socket that the program bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) inode: u64,
    /// The address that the program asked for.
    pub(crate) asked: IpAddr,
    pub(crate) terms: Terms,
}

/// The sockets that the program bound in the planes. Some may be closed by now.
#[derive(Debug, Default)]
pub struct BoundSockets {
    by_endpoint: BTreeMap<Endpoint, Vec<Bound>>,
    count: usize,
    sweep_at: usize,
}

impl BoundSockets {
    /// Remembers a socket that was bound.
    fn note(&mut self, endpoint: Endpoint, bound: Bound) {
        if self.count >= self.sweep_at.max(FEW) {
            self.by_endpoint.retain(|at, _| is_in_use(*at));
            self.count = self.by_endpoint.values().map(Vec::len).sum();
            self.sweep_at = 2 * self.count;
        }
        let sockets = self.by_endpoint.entry(endpoint).or_default();
        let before = sockets.len();
        // A retained socket may be bound by another address this time. Sockets beside which the
        // kernel would not have bound this socket are closed.
        sockets.retain(|one| one.inode != bound.inode && one.terms.agree(bound.terms));
        sockets.push(bound);
        self.count = self.count + sockets.len() - before;
    }

    /// Forgets a socket that was closed.
    pub fn forget(&mut self, endpoint: Endpoint, inode: u64) {
        if let Some(sockets) = self.by_endpoint.get_mut(&endpoint) {
            let before = sockets.len();
            sockets.retain(|one| one.inode != inode);
            self.count -= before - sockets.len();
            if sockets.is_empty() {
                self.by_endpoint.remove(&endpoint);
            }
        }
    }

    /// What was bound there.
    pub(crate) fn at(&self, endpoint: Endpoint) -> &[Bound] {
        self.by_endpoint.get(&endpoint).map_or(&[][..], Vec::as_slice)
    }
}

/// True if the program still has this socket at `at`, or may have the socket.
pub(crate) fn is_live(host: &Host, at: Endpoint, one: &Bound, is_in_use: impl Fn(Endpoint) -> bool) -> bool {
    if let Some(given) = host.retained.given_at(at).iter().find(|given| given.inode == one.inode) {
        return given.place.may_have(one.inode);
    }
    // An endpoint in use belongs to the program, if imsup has no socket there and the machine's
    // wildcard is free.
    let at_wildcard = socket::at_machine_wildcard(at);
    !host.closed_listeners.is_closing(at) && !host.retained.knows(at) && is_in_use(at) && !is_in_use(at_wildcard)
}

/// Remembers a socket that a program bound. Connections are no longer redirected to a closed socket
/// that had the port at another of the host's addresses.
pub fn note(host: &mut Host, socket: BorrowedFd<'_>, transport: Transport, asked: IpAddr) {
    let local = socket::local_address(socket).and_then(socket::as_v4);
    let (Some(address), Ok(inode)) = (local, socket::inode(socket)) else {
        return;
    };
    let terms = Terms::of(socket);
    let bound = Bound { inode, asked, terms };
    host.bound.note(Endpoint { transport, address }, bound);
    for ip in [
        host.identity.vip(),
        host.identity.localhost(),
        host.identity.v6_shadow(),
    ] {
        let other = Endpoint {
            transport,
            address: SocketAddrV4::new(ip, address.port()),
        };
        if other.address != address
            && host.retained.is_listen_target(other)
            && !host
                .bound
                .at(other)
                .iter()
                .any(|one| is_live(host, other, one, is_in_use))
        {
            host.retained.forget_listen_target(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut bound = BoundSockets::default();
        for port in 1..=10_000 {
            bound.note(
                Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), port),
                Bound {
                    inode: port.into(),
                    asked: Ipv4Addr::UNSPECIFIED.into(),
                    terms: Terms::default(),
                },
            );
        }
        assert!(bound.count <= FEW);
    }
    #[test]
    fn what_the_next_socket_does_not_share_its_port_with_is_closed() {
        let at = Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), 80);
        let shares = |address| Terms {
            address,
            ..Terms::default()
        };
        let mut bound = BoundSockets::default();
        for (inode, address) in [(1, true), (2, true), (2, true), (3, false), (4, true), (5, true)] {
            let asked = Ipv4Addr::UNSPECIFIED.into();
            let terms = shares(address);
            bound.note(at, Bound { inode, asked, terms });
        }
        let inodes: Vec<u64> = bound.at(at).iter().map(|one| one.inode).collect();
        assert_eq!((inodes, bound.count), (vec![4, 5], 2));
        bound.forget(at, 4);
        bound.forget(at, 5);
        assert!(bound.by_endpoint.is_empty() && bound.count == 0);
    }

    #[test]
    fn datagram_sockets_share_a_port_as_their_options_say() {
        let terms = |address, port, other_user| Terms {
            address,
            port,
            other_user,
        };
        let agree = |one: Terms, other: Terms| one.agree(other) && other.agree(one);
        assert!(!agree(terms(false, false, None), terms(true, true, None)));
        assert!(!agree(terms(true, false, None), terms(false, true, None)));
        assert!(agree(terms(true, false, Some(1)), terms(true, false, Some(2))));
        assert!(agree(terms(false, true, Some(1)), terms(false, true, Some(1))));
        assert!(!agree(terms(false, true, Some(1)), terms(false, true, Some(2))));
    }
}
