//! The treatment of a datagram that has a destination. Pure, except for the check for a bound
//! socket at the destination.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use nix::errno::Errno;

use crate::identity::{Destination, Identity};
use imsup_linux::socket::{Family, InetSocket};

/// The treatment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Left to the kernel unchanged.
    Native,
    /// Fails.
    Refuse(Errno),
    /// Sent in the program's place: the destination lies in memory that the program may change, so
    /// the kernel cannot be left to read it again, and the source is none that the kernel would
    /// choose.
    OnBehalf {
        /// Where to.
        to: SocketAddrV4,
        /// The source address; the socket's own address if `None`.
        source: Option<Ipv4Addr>,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("left to the kernel"),
            Self::Refuse(_) => f.write_str("refused"),
            Self::OnBehalf { to, source: None } => write!(f, "to {to}"),
            Self::OnBehalf {
                to,
                source: Some(source),
            } => write!(f, "from {source} to {to}"),
        }
    }
}

pub(super) fn decide(
    identity: &Identity,
    socket: &InetSocket,
    address: SocketAddr,
    destination: Destination,
    listens_at_wildcard: impl Fn(u16) -> bool,
    is_native: impl Fn(u16) -> bool,
    is_bound: impl Fn(SocketAddrV4) -> bool,
) -> Plan {
    let fits = socket.family == Family::V6 || address.is_ipv4();
    if !fits || address.port() == 0 {
        return Plan::Native;
    }
    let at_wildcard = socket.local.ip().is_unspecified();
    let from = |source: Ipv4Addr| at_wildcard.then_some(source);
    let vip = identity.vip();
    match destination {
        Destination::Foreign => Plan::Native,
        Destination::Forbidden => Plan::Refuse(Errno::ECONNREFUSED),
        Destination::Vip(_) if !at_wildcard => Plan::Native,
        Destination::Vip(to) => Plan::OnBehalf { to, source: from(vip) },
        Destination::NameServer => Plan::OnBehalf {
            to: identity.name_server,
            source: from(vip),
        },
        Destination::Localhost { v6, port } => {
            let to = match (listens_at_wildcard(port), v6) {
                (true, _) => SocketAddrV4::new(vip, port),
                (false, _) if is_native(port) => return Plan::Native,
                (false, false) => SocketAddrV4::new(identity.localhost(), port),
                (false, true) => SocketAddrV4::new(identity.v6_shadow(), port),
            };
            // A bound socket replies to any client. The client may be outside, on the machine's own
            // localhost.
            let answers = !at_wildcard || is_native(socket.local.port());
            if answers && !is_bound(to) {
                return Plan::Native;
            }
            Plan::OnBehalf {
                to,
                source: from(Ipv4Addr::LOCALHOST),
            }
        }
    }
}

/// True if, according to the kernel, a datagram server is at the wildcard and none at the localhost
/// of its host. For a supervisor that does not see all listeners.
pub(super) fn is_at_wildcard_alone(localhost: SocketAddrV4, wildcard: SocketAddrV4) -> bool {
    !is_bound(localhost) && is_bound(wildcard)
}

/// True if a datagram socket is bound to `address`: then no other socket can be bound there.
pub(super) fn is_bound(address: SocketAddrV4) -> bool {
    rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|probe| rustix::net::bind(&probe, &address))
    .is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use imsup_wire::Transport;

    use crate::identity::tests::identity;

    struct Circumstances {
        listens_at_wildcard: bool,
        is_native: bool,
        is_bound: bool,
    }

    const NOTHING: Circumstances = Circumstances {
        listens_at_wildcard: false,
        is_native: false,
        is_bound: false,
    };

    fn plan(local: &str, to: &str, circumstances: &Circumstances) -> Plan {
        let local: SocketAddr = local.parse().unwrap();
        let socket = InetSocket {
            family: if local.is_ipv4() { Family::V4 } else { Family::V6 },
            transport: Transport::Udp,
            local,
        };
        let to = to.parse().unwrap();
        decide(
            &identity(),
            &socket,
            to,
            identity().destination(to),
            |_| circumstances.listens_at_wildcard,
            |_| circumstances.is_native,
            |_| circumstances.is_bound,
        )
    }

    fn in_place(to: &str, source: Option<&str>) -> Plan {
        Plan::OnBehalf {
            to: to.parse().unwrap(),
            source: source.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn a_host_is_sent_to_from_the_senders_vip() {
        let from_vip = in_place("127.77.5.8:53", Some("127.77.5.7"));
        for local in ["0.0.0.0:0", "0.0.0.0:40000"] {
            assert_eq!(plan(local, "127.77.5.8:53", &NOTHING), from_vip, "{local}");
        }
        for local in ["[::]:0", "[::]:40000"] {
            assert_eq!(plan(local, "[::ffff:127.77.5.8]:53", &NOTHING), from_vip, "{local}");
            assert_eq!(
                plan(local, "127.77.5.8:53", &NOTHING),
                from_vip,
                "{local}: IPv4 is taken too"
            );
        }
        assert_eq!(
            plan("127.77.5.7:4000", "127.77.5.8:53", &NOTHING),
            Plan::Native,
            "bound to it"
        );
    }

    #[test]
    fn localhost_is_the_hosts_own() {
        let to_own = |source| in_place("127.78.5.7:80", source);
        let localhost = Some("127.0.0.1");
        assert_eq!(plan("0.0.0.0:0", "127.0.0.1:80", &NOTHING), to_own(localhost));
        assert_eq!(
            plan("[::]:0", "[::1]:80", &NOTHING),
            in_place("127.79.5.7:80", localhost)
        );
        let at_wildcard = Circumstances {
            listens_at_wildcard: true,
            is_bound: true,
            ..NOTHING
        };
        assert_eq!(
            plan("0.0.0.0:0", "127.0.0.1:80", &at_wildcard),
            in_place("127.77.5.7:80", localhost)
        );
        let bound = Circumstances {
            is_bound: true,
            ..NOTHING
        };
        assert_eq!(plan("127.77.5.7:4000", "127.0.0.1:80", &bound), to_own(None));
    }

    #[test]
    fn who_answers_may_answer_a_client_outside() {
        assert_eq!(plan("127.77.5.7:4000", "127.0.0.1:80", &NOTHING), Plan::Native);
        let native = Circumstances {
            is_native: true,
            ..NOTHING
        };
        assert_eq!(plan("0.0.0.0:40000", "127.0.0.1:80", &native), Plan::Native);
    }

    #[test]
    fn name_servers_are_the_projects() {
        let asked = |local| plan(local, "192.0.2.1:53", &NOTHING);
        assert_eq!(asked("0.0.0.0:0"), in_place("127.77.5.0:1053", Some("127.77.5.7")));
        assert_eq!(asked("127.77.5.7:4000"), in_place("127.77.5.0:1053", None));
    }

    #[test]
    fn others_are_left_alone_or_refused() {
        assert_eq!(plan("0.0.0.0:0", "192.0.2.1:80", &NOTHING), Plan::Native);
        assert_eq!(plan("0.0.0.0:0", "239.1.2.3:80", &NOTHING), Plan::Native, "a group");
        assert_eq!(plan("0.0.0.0:0", "255.255.255.255:80", &NOTHING), Plan::Native);
        assert_eq!(
            plan("0.0.0.0:0", "[::1]:80", &NOTHING),
            Plan::Native,
            "the family does not fit"
        );
        assert_eq!(plan("0.0.0.0:0", "127.77.5.8:0", &NOTHING), Plan::Native, "no port");
        assert_eq!(
            plan("0.0.0.0:0", "127.78.5.8:80", &NOTHING),
            Plan::Refuse(Errno::ECONNREFUSED)
        );
    }
}
