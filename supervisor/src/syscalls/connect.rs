//! connect(2).
//!
//! The kernel is tried first, on a duplicate of the program's socket: whatever is listened on or
//! retained answers at once, and the broker is not asked. Only a refusal makes a connect a signal
//! to the broker.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::home::{is_native, is_on_planes, is_on_v6, move_home};
use super::redirect::{Purpose, redirect_datagram, redirect_stream};
use super::{Sockaddr, Verdict, datagram, leave, read_sockaddr, resolver, socket_of, takes_v4};
use crate::host::Host;
use crate::host::closed_listeners::{self, Vetted};
use crate::identity::{Destination, Identity};
use crate::pending::{PendingCall, Until, Waiting};
use imsup_linux::descriptors;
use imsup_linux::memory::ThreadMemory;
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket::{self, Family, InetSocket, as_v4};
use imsup_linux::source;

/// The treatment of a connect.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Left to the kernel unchanged.
    Native,
    /// Left to the kernel once the socket is at this address.
    NativeFrom(IpAddr),
    /// Fails.
    Refuse(Errno),
    /// Carried out on the program's socket.
    Redirect {
        /// The source address that the socket gets first.
        source: Option<Ipv4Addr>,
        /// The possible targets, tried in turn until a target does not refuse.
        candidates: Vec<SocketAddrV4>,
        /// The endpoint that the broker is asked for: when all candidates refuse (TCP), or before
        /// any attempt (UDP, which is never refused).
        reach: Option<Endpoint>,
        /// The peer that the program will see, if the address alone does not tell.
        shown_peer: Option<SocketAddr>,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("left to the kernel"),
            Self::NativeFrom(ip) => write!(f, "left to the kernel, from {ip}"),
            Self::Refuse(_) => f.write_str("refused"),
            Self::Redirect { source, candidates, .. } => {
                if let Some(source) = source {
                    write!(f, "from {source} ")?;
                }
                let candidates: Vec<_> = candidates.iter().map(SocketAddrV4::to_string).collect();
                write!(f, "to {}", candidates.join(" or "))
            }
        }
    }
}

/// Handles connect(2).
pub(super) fn connect(host: &mut Host, call: &Notification) -> Verdict {
    let address = match read_sockaddr(ThreadMemory::of(call.tid), call.args[1], call.args[2]) {
        Ok(Sockaddr::Inet(address)) => address,
        Ok(Sockaddr::Unspecified) => return disconnect(host, call),
        Ok(Sockaddr::Other) => return Answer::Continue.into(),
        Err(why) => return leave(host, call, why),
    };
    let destination = host.identity.destination(address);
    if destination == Destination::Foreign {
        host.trace.decided(&destination);
        resolver::bring_back_to_leave(host, call);
        host.give_up_copy_of(call.tid, call.fd(0));
        if host.incoming.is_looked_at() && descriptors::is_tcp(call.tid, call.fd(0)) != Some(false) {
            host.incoming.note_connect();
        }
        return Answer::Continue.into();
    }
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let destination = host.destination(kind.transport, address);
    host.trace.decided(&destination);
    let asks = destination == Destination::NameServer && kind.transport == Transport::Udp;
    let (socket, kind) = match asks {
        true => (socket, kind),
        false => resolver::bring_back(host, call, socket, kind),
    };
    if asks
        && takes(&kind, &socket, address)
        && let Some(verdict) = resolver::connect(host, call, &socket, &kind, address)
    {
        return verdict;
    }
    let to_v6 = matches!(destination, Destination::Localhost { v6: true, .. });
    let on_v6 = to_v6 && is_on_v6(&kind, socket::is_v6only(socket.as_fd()));
    if !on_v6 && !takes_v4(&kind, &socket, address) {
        return Answer::Continue.into();
    }
    let listeners = Listeners {
        sees_all: host.sees_all_listeners(),
        is_listen_target: |endpoint| match to_v6 {
            true => host.retained.is_dual_stack(endpoint),
            false => host.retained.is_listen_target(endpoint),
        },
        is_native: |v6, port| is_native(host, kind.transport, v6, on_v6, port),
        is_bound: datagram::is_bound,
    };
    let plan = decide(&host.identity, &kind, address, destination, on_v6, &listeners);
    host.trace.decided(&plan);
    match plan {
        Plan::Native => Answer::Continue.into(),
        Plan::NativeFrom(ip) => match move_home(host, &socket, &kind, ip) {
            Ok(()) => Answer::Continue.into(),
            Err(errno) => errno.into(),
        },
        Plan::Refuse(errno) => errno.into(),
        Plan::Redirect {
            source,
            candidates,
            reach,
            shown_peer,
        } => {
            if reach.is_none_or(|_| kind.transport == Transport::Tcp)
                && let Some(pending) = wait_for_closed(host, call, kind.transport, &candidates)
            {
                return Verdict::Pending(Box::new(pending));
            }
            let taken = match source {
                Some(source) if on_v6 => move_home(host, &socket, &kind, source.into()),
                Some(source) => take_source(host, &socket, &kind, source),
                None => Ok(()),
            };
            if let Err(errno) = taken {
                return errno.into();
            }
            show_peer(host, &socket, &kind, shown_peer);
            match kind.transport {
                Transport::Tcp => {
                    let own = candidates.iter().all(|to| host.identity.owns(*to.ip()));
                    // A host's connection to itself does not count as an arrival.
                    match own {
                        true => host.incoming.before_own(),
                        false => host.incoming.note_connect(),
                    }
                    let purpose = match destination {
                        Destination::Localhost { v6, .. } => Purpose::Localhost { v6 },
                        Destination::NameServer => Purpose::NameServer(address.ip().to_canonical()),
                        _ => Purpose::Host,
                    };
                    let verdict = redirect_stream(host, call, socket, &kind, &candidates, reach, purpose);
                    if own {
                        host.incoming.after_own();
                    }
                    verdict
                }
                Transport::Udp => redirect_datagram(host, call, &socket, kind.family, &candidates, reach),
            }
        }
    }
}

/// Whether the kernel would send a datagram socket's question to this address.
fn takes(kind: &InetSocket, socket: &OwnedFd, server: SocketAddr) -> bool {
    match kind.family {
        Family::V4 => server.is_ipv4(),
        Family::V6 => as_v4(server).is_none() || !socket::is_v6only(socket.as_fd()),
    }
}

/// imsup too closes the sockets that the program has closed among these ports of its own host, even
/// the latest: so the kernel knows if a listener exists. Returns the call that must wait for that,
/// if any. A call that has waited for the searches only waits for the closes that these have
/// caused.
fn wait_for_closed(
    host: &mut Host,
    call: &Notification,
    transport: Transport,
    candidates: &[SocketAddrV4],
) -> Option<PendingCall> {
    let anew = host.begun_anew.is_some_and(|(anew, _)| anew == call.id);
    let (mut waits_at, mut search) = (None, 0);
    for address in candidates.iter().copied() {
        let endpoint = Endpoint { transport, address };
        if !host.identity.owns(*address.ip()) {
            continue;
        }
        if !anew {
            match closed_listeners::vet(host, endpoint) {
                Vetted::Settled => continue,
                Vetted::Closing => {}
                Vetted::Search(number) => search = search.max(number),
            }
        } else if !host.closed_listeners.is_closing(endpoint) {
            continue;
        }
        waits_at = Some(endpoint);
    }
    let endpoint = waits_at?;
    let now = Instant::now();
    Some(PendingCall {
        tid: call.tid,
        since: now,
        deadline: now + host.hold_timeout,
        timeout_errno: Errno::ETIMEDOUT as i32,
        waiting: Waiting::Anew {
            call: *call,
            until: Until::Vetted { endpoint, search },
        },
    })
}

/// Gives a socket its source address.
fn take_source(host: &mut Host, socket: &OwnedFd, kind: &InetSocket, source: Ipv4Addr) -> Result<(), Errno> {
    if kind.is_unbound() {
        return source::bind_source(socket.as_fd(), kind.family, source);
    }
    match source::move_to(socket.as_fd(), kind, source.into()) {
        Ok(()) => {
            host.has_bound_datagrams = true;
            if let Ok(cookie) = socket::cookie(socket.as_fd()) {
                let asked = SocketAddr::new(kind.local.ip(), 0);
                host.sockets.update(cookie, |entry| entry.bound = Some(asked));
            }
            Ok(())
        }
        // The socket was bound before it came to imsup, and connects from its present address.
        Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Remembers the peer that the program is to see. A datagram socket may have had another peer.
fn show_peer(host: &mut Host, socket: &OwnedFd, kind: &InetSocket, peer: Option<SocketAddr>) {
    if (peer.is_some() || kind.transport == Transport::Udp)
        && let Ok(cookie) = socket::cookie(socket.as_fd())
        && host.sockets.get(cookie).peer != peer
    {
        host.sockets.update(cookie, |asked| asked.peer = peer);
    }
}

/// Handles connect(2) to AF_UNSPEC: a source that was bound here is unbound again.
fn disconnect(host: &mut Host, call: &Notification) -> Verdict {
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let bound_itself = socket::cookie(socket.as_fd()).is_ok_and(|cookie| host.sockets.get(cookie).bound.is_some());
    let sources = [host.identity.vip(), Ipv4Addr::LOCALHOST];
    let has_our_source = kind.local_v4().is_some_and(|local| sources.contains(local.ip()))
        && !bound_itself
        && source::is_source_bound(socket.as_fd());
    if !has_our_source {
        return Answer::Continue.into();
    }
    match source::disconnect(socket.as_fd()).and_then(|()| source::unbind_source(socket.as_fd(), kind.family)) {
        Ok(()) => Answer::Value(0).into(),
        Err(errno) => errno.into(),
    }
}

/// The supervisor's knowledge of listeners.
struct Listeners<W, N> {
    /// True if the supervisor sees all listeners of its host.
    sees_all: bool,
    /// True if the program listens on the wildcard, or on its own localhost, and that resolves to
    /// this endpoint. The program may have closed the listener.
    is_listen_target: W,
    /// True if a socket on the machine's own address has this port; on `::1` if the first argument
    /// is true.
    is_native: N,
    /// Whether any datagram socket is bound there.
    is_bound: fn(SocketAddrV4) -> bool,
}

impl<W, N> Listeners<W, N> {
    fn is_at_wildcard_alone(&self, private: SocketAddrV4, wildcard: SocketAddrV4) -> bool {
        !(self.is_bound)(private) && (self.is_bound)(wildcard)
    }
}

fn decide<W: Fn(Endpoint) -> bool, N: Fn(bool, u16) -> bool>(
    identity: &Identity,
    socket: &InetSocket,
    address: SocketAddr,
    destination: Destination,
    on_v6: bool,
    listeners: &Listeners<W, N>,
) -> Plan {
    let transport = socket.transport;
    let fits = match (socket.family, address) {
        (Family::V4, SocketAddr::V4(_)) | (Family::V6, SocketAddr::V6(_)) => true,
        // A UDP socket of IPv6 takes IPv4 addresses too (net/ipv6/datagram.c).
        (Family::V6, SocketAddr::V4(_)) => transport == Transport::Udp,
        (Family::V4, SocketAddr::V6(_)) => false,
    };
    // No listener has port 0. Resolvers use a UDP connect to port 0 to ask for a route.
    if !fits || address.port() == 0 {
        return Plan::Native;
    }
    // A datagram socket on the wildcard can still move if the kernel chose its port.
    let has_no_source = socket.local.ip().is_unspecified() && (socket.is_unbound() || transport == Transport::Udp);
    let vip = identity.vip();
    let own_source = has_no_source.then_some(vip);
    match destination {
        Destination::Foreign => Plan::Native,
        Destination::Forbidden => Plan::Refuse(Errno::ECONNREFUSED),
        Destination::NameServer => Plan::Redirect {
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
            // The host's own program is never signalled to listen.
            let own = *target.ip() == vip && listeners.sees_all;
            Plan::Redirect {
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
            let is_target = |address| (listeners.is_listen_target)(Endpoint { transport, address });
            let (on_wildcard, on_private) = (is_target(wildcard), is_target(private));
            if !on_wildcard && (listeners.is_native)(v6, port) {
                return if v6 && is_on_planes(identity, socket) {
                    Plan::NativeFrom(Ipv6Addr::LOCALHOST.into())
                } else {
                    Plan::Native
                };
            }
            // The more exact address comes first, as the kernel prefers. A known listener may be
            // closed, and its port may be another's.
            let candidates = match (on_wildcard, on_private, listeners.sees_all) {
                (true, false, _) => vec![wildcard, private],
                (false, _, true) => vec![private],
                // Unlike a stream, a datagram socket is not refused, and takes the first candidate.
                (false, false, false)
                    if transport == Transport::Udp && listeners.is_at_wildcard_alone(private, wildcard) =>
                {
                    vec![wildcard]
                }
                (true, true, _) | (false, _, false) => vec![private, wildcard],
            };
            // A bound datagram socket replies to any client. The client may be outside, on the
            // machine's own localhost.
            let answers = !socket.local.ip().is_unspecified() || (listeners.is_native)(v6, socket.local.port());
            if transport == Transport::Udp && answers && !candidates.iter().any(|to| (listeners.is_bound)(*to)) {
                return Plan::Native;
            }
            // For a loopback destination, the kernel itself chooses this source. For any other
            // local destination, the kernel chooses the destination itself, unless the route says
            // otherwise (net/ipv4/route.c, ip_route_output_key_hash_rcu).
            let needs_source = has_no_source && !vip.is_loopback() && candidates.contains(&wildcard);
            let source = match on_v6 {
                true => Some(identity.v6_shadow()),
                false => needs_source.then_some(Ipv4Addr::LOCALHOST),
            };
            let localhost = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            // The peer's address alone means localhost only if the socket's own address is
            // 127.0.0.1 (Identity::shown_peer).
            let shown_peer = match v6 {
                true => Some(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)),
                false => (!has_no_source && on_wildcard).then(|| socket.family.form(localhost)),
            };
            Plan::Redirect {
                source,
                candidates,
                reach: None,
                shown_peer,
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
            is_on_v6(socket, false),
            &Listeners {
                sees_all,
                is_listen_target: |endpoint: Endpoint| wildcard && *endpoint.address.ip() == identity().vip(),
                is_native: |v6, port| (v6 || socket.transport == Transport::Udp) && port == 40_000,
                is_bound: |to| to.port() == 80,
            },
        )
    }

    fn v4(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_reached_from_the_callers_vip() {
        let expected = |source: Option<&str>| Plan::Redirect {
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
    fn a_datagram_socket_whose_port_the_kernel_chose_moves_to_the_vip() {
        let source = |local: &str| {
            let socket = InetSocket {
                transport: Transport::Udp,
                ..stream(Family::V4, local)
            };
            match plan(&socket, "127.77.5.8:80", true, false) {
                Plan::Redirect { source, .. } => source,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(source("0.0.0.0:0"), Some(identity().vip()));
        assert_eq!(source("0.0.0.0:40000"), Some(identity().vip()));
        assert_eq!(source("127.77.5.7:40000"), None);
        assert_eq!(source("192.0.2.2:40000"), None);
    }

    #[test]
    fn a_bound_datagram_socket_may_answer_a_client_outside() {
        let bound = InetSocket {
            transport: Transport::Udp,
            ..stream(Family::V4, "127.77.5.7:53")
        };
        assert_eq!(plan(&bound, "127.0.0.1:4000", true, false), Plan::Native);
        assert_ne!(
            plan(&bound, "127.0.0.1:80", true, false),
            Plan::Native,
            "one of its own"
        );
        let unbound = InetSocket {
            transport: Transport::Udp,
            ..stream(Family::V4, "0.0.0.0:0")
        };
        assert_ne!(plan(&unbound, "127.0.0.1:4000", true, false), Plan::Native);
    }

    #[test]
    fn a_datagram_socket_on_the_machines_wildcard_is_reached_there() {
        let datagram = InetSocket {
            transport: Transport::Udp,
            ..stream(Family::V4, "0.0.0.0:0")
        };
        assert_eq!(plan(&datagram, "127.0.0.1:40000", true, false), Plan::Native);
        let stream = stream(Family::V4, "0.0.0.0:0");
        assert_ne!(plan(&stream, "127.0.0.1:40000", true, false), Plan::Native);
    }

    #[test]
    fn localhost_is_the_hosts_own() {
        let socket = stream(Family::V4, "0.0.0.0:0");
        let candidates = |plan| match plan {
            Plan::Redirect {
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
            [v4("127.77.5.7:80"), v4("127.78.5.7:80")]
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
            let listeners = Listeners {
                sees_all: true,
                is_listen_target: |endpoint: Endpoint| wildcard && *endpoint.address.ip() == identity.vip(),
                is_native: |_, _| false,
                is_bound: |_| false,
            };
            match decide(&identity, &socket, to, identity.destination(to), false, &listeners) {
                Plan::Redirect { source, .. } => source,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(source("0.0.0.0:0", true), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(source("0.0.0.0:0", false), None, "127.78.5.7 is a loopback address");
        assert_eq!(source("127.0.0.1:4000", true), None, "it is bound");
    }

    #[test]
    fn a_listener_on_localhost_comes_before_one_on_the_wildcard_whose_port_happens_to_be_the_same() {
        let (identity, to) = (identity(), "127.0.0.1:80".parse().unwrap());
        let socket = stream(Family::V4, "0.0.0.0:0");
        let listeners = Listeners {
            sees_all: true,
            is_listen_target: |_| true,
            is_native: |_, _| false,
            is_bound: |_| false,
        };
        match decide(&identity, &socket, to, identity.destination(to), false, &listeners) {
            Plan::Redirect { candidates, .. } => assert_eq!(candidates, [v4("127.78.5.7:80"), v4("127.77.5.7:80")]),
            other => panic!("{other:?}"),
        }
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
