//! connect(2).
//!
//! The kernel is tried first, on a duplicate of the program's socket: whatever is listened on or retained answers at once,
//! and the broker is not asked. Only a refusal makes a connect a signal to the broker.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::lead::{lead_datagram, lead_stream};
use super::{Verdict, read_sockaddr, socket_of, takes_v4};
use crate::host::Host;
use crate::identity::{Destination, Identity};
use crate::kernel::memory::ThreadMemory;
use crate::kernel::notify::{Answer, Notification};
use crate::kernel::socket::{self, Family, InetSocket};

/// What is done with a connect.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Left to the kernel as it is.
    Native,
    /// Fails.
    Refuse(Errno),
    /// Carried out on the program's socket.
    Lead {
        /// The source address that the socket gets first.
        source: Option<Ipv4Addr>,
        /// Where it may lead; tried in turn until one does not refuse.
        candidates: Vec<SocketAddrV4>,
        /// What the broker is asked for when all refuse (TCP), or first of all (UDP, where nobody refuses).
        reach: Option<Endpoint>,
        /// What the program will see as its peer, where that cannot be told from the address.
        shown_peer: Option<SocketAddr>,
    },
}

/// Handles connect(2).
pub(super) fn connect(host: &mut Host, call: &Notification) -> Verdict {
    let memory = ThreadMemory::of(call.tid);
    let Some(address) = read_sockaddr(memory, call.args[1], call.args[2]) else {
        return Answer::Continue.into();
    };
    let destination = host.identity.destination(address);
    if destination == Destination::Foreign {
        host.give_up_copy_of(call.tid, call.fd(0));
        return Answer::Continue.into();
    }
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    if !takes_v4(&kind, &socket, address) {
        return Answer::Continue.into();
    }
    let sees_all = host.sees_all_listeners();
    let plan = decide(&host.identity, &kind, address, destination, sees_all, |endpoint| {
        host.retained.is_wildcard(endpoint)
    });
    match plan {
        Plan::Native => Answer::Continue.into(),
        Plan::Refuse(errno) => errno.into(),
        Plan::Lead {
            source,
            candidates,
            reach,
            shown_peer,
        } => {
            if let Some(source) = source
                && let Err(errno) = socket::bind_source(socket.as_fd(), kind.family, source)
            {
                return errno.into();
            }
            if let Some(peer) = shown_peer
                && let Ok(cookie) = socket::cookie(socket.as_fd())
            {
                host.sockets.update(cookie, |asked| asked.peer = Some(peer));
            }
            match kind.transport {
                Transport::Tcp => lead_stream(host, call, socket, kind.family, &candidates, reach),
                Transport::Udp => lead_datagram(host, call, &socket, kind.family, &candidates, reach),
            }
        }
    }
}

fn decide(
    identity: &Identity,
    socket: &InetSocket,
    address: SocketAddr,
    destination: Destination,
    sees_all_listeners: bool,
    is_wildcard: impl Fn(Endpoint) -> bool,
) -> Plan {
    let transport = socket.transport;
    let fits = match (socket.family, address) {
        (Family::V4, SocketAddr::V4(_)) | (Family::V6, SocketAddr::V6(_)) => true,
        // A UDP socket of IPv6 takes IPv4 addresses too (net/ipv6/datagram.c).
        (Family::V6, SocketAddr::V4(_)) => transport == Transport::Udp,
        (Family::V4, SocketAddr::V6(_)) => false,
    };
    // Nobody listens on port 0; a UDP connect to it is how resolvers ask for a route.
    if !fits || address.port() == 0 {
        return Plan::Native;
    }
    let unbound = socket.is_unbound() && socket.local_v4().is_some_and(|local| local.ip().is_unspecified());
    let vip = identity.vip();
    let own_source = unbound.then_some(vip);
    match destination {
        Destination::Foreign => Plan::Native,
        Destination::Forbidden => Plan::Refuse(Errno::ECONNREFUSED),
        Destination::NameServer => Plan::Lead {
            source: own_source,
            candidates: vec![identity.name_server],
            reach: None,
            shown_peer: Some(address),
        },
        Destination::Vip(target) => {
            let endpoint = Endpoint {
                transport,
                address: target,
            };
            // Its own program is asked by nobody to listen.
            let own = *target.ip() == vip && sees_all_listeners;
            Plan::Lead {
                source: own_source,
                candidates: vec![target],
                reach: (!own).then_some(endpoint),
                shown_peer: None,
            }
        }
        // The peer is to see 127.0.0.1.
        Destination::Localhost { v6, port } => {
            let private = if v6 { identity.v6_shadow() } else { identity.localhost() };
            let (private, wildcard) = (SocketAddrV4::new(private, port), SocketAddrV4::new(vip, port));
            let listens_on_wildcard = is_wildcard(Endpoint {
                transport,
                address: wildcard,
            });
            let candidates = match (listens_on_wildcard, sees_all_listeners) {
                (true, _) => vec![wildcard],
                (false, true) => vec![private],
                (false, false) => vec![private, wildcard],
            };
            // For a loopback destination that is the kernel's own choice; for any other local one it is the destination itself,
            // unless the route says otherwise (net/ipv4/route.c, ip_route_output_key_hash_rcu).
            let source =
                (unbound && !vip.is_loopback() && candidates.contains(&wildcard)).then_some(Ipv4Addr::LOCALHOST);
            Plan::Lead {
                source,
                candidates,
                reach: None,
                shown_peer: v6.then_some(address),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    fn stream(family: Family, local: &str) -> InetSocket {
        InetSocket {
            family,
            transport: Transport::Tcp,
            local: local.parse().unwrap(),
        }
    }

    fn plan(socket: &InetSocket, to: &str, sees_all: bool, wildcard: bool) -> Plan {
        let address = to.parse().unwrap();
        decide(
            &identity(),
            socket,
            address,
            identity().destination(address),
            sees_all,
            |_| wildcard,
        )
    }

    fn v4(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_reached_from_the_callers_vip() {
        let expected = |source: Option<&str>| Plan::Lead {
            source: source.map(|text| text.parse().unwrap()),
            candidates: vec![v4("127.77.5.8:80")],
            reach: Some(Endpoint {
                transport: Transport::Tcp,
                address: v4("127.77.5.8:80"),
            }),
            shown_peer: None,
        };
        let unbound = stream(Family::V4, "0.0.0.0:0");
        assert_eq!(
            plan(&unbound, "127.77.5.8:80", true, false),
            expected(Some("127.77.5.7"))
        );
        let unbound = stream(Family::V6, "[::]:0");
        assert_eq!(
            plan(&unbound, "[::ffff:127.77.5.8]:80", true, false),
            expected(Some("127.77.5.7"))
        );
        let bound = stream(Family::V4, "127.77.5.7:4000");
        assert_eq!(plan(&bound, "127.77.5.8:80", true, false), expected(None));
    }

    #[test]
    fn localhost_is_the_hosts_own() {
        let socket = stream(Family::V4, "0.0.0.0:0");
        let candidates = |plan| match plan {
            Plan::Lead {
                candidates,
                source: None,
                reach: None,
                ..
            } => candidates,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            candidates(plan(&socket, "127.0.0.1:80", true, false)),
            [v4("127.78.5.7:80")]
        );
        assert_eq!(
            candidates(plan(&socket, "127.0.0.1:80", true, true)),
            [v4("127.77.5.7:80")]
        );
        assert_eq!(
            candidates(plan(&socket, "127.0.0.1:80", false, false)),
            [v4("127.78.5.7:80"), v4("127.77.5.7:80")],
            "a command of exec does not know what its host listens on"
        );
        let socket = stream(Family::V6, "[::]:0");
        assert_eq!(
            candidates(plan(&socket, "[::1]:80", true, false)),
            [v4("127.79.5.7:80")]
        );
    }

    #[test]
    fn a_wildcard_listener_outside_127_8_is_reached_from_127_0_0_1() {
        let identity = Identity {
            planes: imsup_wire::Planes {
                vip: [10, 77],
                ..imsup_wire::Planes::default()
            },
            ..identity()
        };
        let source = |local: &str, wildcard| {
            let to = "127.0.0.1:80".parse().unwrap();
            let socket = stream(Family::V4, local);
            match decide(&identity, &socket, to, identity.destination(to), true, |_| wildcard) {
                Plan::Lead { source, .. } => source,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(source("0.0.0.0:0", true), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(source("0.0.0.0:0", false), None, "127.78.5.7 is a loopback address");
        assert_eq!(source("127.0.0.1:4000", true), None, "it is bound");
    }

    #[test]
    fn others_are_left_alone_or_refused() {
        let socket = stream(Family::V4, "0.0.0.0:0");
        assert_eq!(plan(&socket, "10.0.0.1:80", true, false), Plan::Native);
        assert_eq!(
            plan(&socket, "[::1]:80", true, false),
            Plan::Native,
            "the family does not fit"
        );
        assert_eq!(plan(&socket, "127.77.5.8:0", true, false), Plan::Native);
        assert_eq!(
            plan(&socket, "127.78.5.8:80", true, false),
            Plan::Refuse(Errno::ECONNREFUSED)
        );
    }
}
