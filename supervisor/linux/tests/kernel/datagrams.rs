//! Sources of datagrams: ip(7), ipv6(7), udp(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::socket::{self, Family, InetSocket};
use imsup_linux::{message, source};
use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::script::until;
use crate::{A, B, listener};

fn datagram(family: Family) -> OwnedFd {
    make(family, SocketType::DGRAM)
}

fn make(family: Family, kind: SocketType) -> OwnedFd {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, None).unwrap()
}

fn local(socket: &OwnedFd) -> SocketAddr {
    socket::local_address(socket.as_fd()).unwrap()
}

/// Binds a socket to a port chosen by the test, not by the kernel, and returns the port. A port
/// that was just free may be taken, so retry.
fn bind_chosen(socket: &OwnedFd, address: impl Fn(u16) -> SocketAddr) -> u16 {
    let mut chosen = 0;
    until("a free port", || {
        chosen = UdpSocket::bind((A, 0)).unwrap().local_addr().unwrap().port();
        let bound = socket::bind(socket.as_fd(), address(chosen));
        assert!(matches!(bound, Ok(()) | Err(Errno::EADDRINUSE)), "{bound:?}");
        bound.is_ok()
    });
    chosen
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    socket::as_v4(address).unwrap()
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 100];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..count].to_vec(), from)
}

/// ip(7), IP_PKTINFO: "ipi_spec_dst is used as the local source address". The same for an AF_INET6
/// socket, whose v4-mapped datagrams udp_sendmsg sends (net/ipv6/udp.c, udpv6_sendmsg;
/// net/ipv4/ip_sockglue.c, ip_cmsg_send). The socket stays on the wildcard.
#[test]
fn control_data_gives_a_datagram_its_source() {
    let receiver = UdpSocket::bind((A, 0)).unwrap();
    let SocketAddr::V4(to) = receiver.local_addr().unwrap() else {
        unreachable!()
    };
    for family in [Family::V4, Family::V6] {
        let sender = datagram(family);
        let control = message::with_source(Vec::new(), B);
        for round in [b"one", b"two"] {
            let sent = message::send(sender.as_fd(), round, &control, Some(family.form(to)), 0);
            assert_eq!(sent, Ok(3));
            let (bytes, from) = receive(&receiver);
            assert_eq!(bytes, round);
            assert_eq!(from, SocketAddr::from((B, local(&sender).port())), "{family:?}");
            assert!(local(&sender).ip().is_unspecified(), "{family:?}");
        }
        // An answer arrives, though the socket is not bound to the address.
        receiver.send_to(b"back", (B, local(&sender).port())).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(rustix::io::read(&sender, &mut buffer), Ok(4));
    }
}

/// net/ipv4/udp.c, __udp_disconnect: a disconnect takes port and address from a socket whose
/// program chose neither (sk_userlocks). The queue stays.
#[test]
fn a_datagram_socket_whose_port_the_kernel_chose_can_be_moved() {
    let peer = UdpSocket::bind((A, 0)).unwrap();
    for family in [Family::V4, Family::V6] {
        let moved = datagram(family);
        let any = match family {
            Family::V4 => "0.0.0.0:0",
            Family::V6 => "[::]:0",
        };
        socket::bind(moved.as_fd(), any.parse().unwrap()).unwrap();
        let port = local(&moved).port();
        peer.send_to(b"early", (Ipv4Addr::LOCALHOST, port)).unwrap();
        let kind = InetSocket::inspect(moved.as_fd()).unwrap();
        source::move_to(moved.as_fd(), &kind, B.into()).unwrap();
        assert_eq!(v4(local(&moved)), SocketAddrV4::new(B, port));
        socket::connect(moved.as_fd(), family.form(v4(peer.local_addr().unwrap()))).unwrap();
        assert_eq!(v4(local(&moved)), SocketAddrV4::new(B, port), "{family:?}");
        let mut buffer = [0; 10];
        assert_eq!(rustix::io::read(&moved, &mut buffer), Ok(5), "what came before");
    }
}

/// As above: a port that the program chose stays.
#[test]
fn a_datagram_socket_whose_port_was_chosen_stays() {
    let socket = datagram(Family::V4);
    let free = bind_chosen(&socket, |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let kind = InetSocket::inspect(socket.as_fd()).unwrap();
    assert_eq!(source::move_to(socket.as_fd(), &kind, B.into()), Err(Errno::EINVAL));
    assert_eq!(local(&socket).port(), free);
}

/// net/ipv4/tcp.c, tcp_set_state: a stream socket that stops listening gives up a port that the
/// program did not choose. With IP_LOCAL_PORT_RANGE (Linux 6.3, ip(7)) the socket gets the same
/// port again, as a choice of the kernel. The socket can then be moved between an IPv6 address and
/// a v4-mapped address, and back.
#[test]
fn a_socket_whose_port_the_kernel_chose_moves_between_the_families() {
    let places: [IpAddr; 2] = [B.into(), Ipv6Addr::LOCALHOST.into()];
    for kind in [SocketType::DGRAM, SocketType::STREAM] {
        let moved = make(Family::V6, kind);
        socket::bind(moved.as_fd(), (Ipv6Addr::LOCALHOST, 0).into()).unwrap();
        let port = local(&moved).port();
        for place in places.iter().chain(&places) {
            let kind = InetSocket::inspect(moved.as_fd()).unwrap();
            source::move_to(moved.as_fd(), &kind, *place).unwrap();
            let now = local(&moved);
            assert_eq!((now.ip().to_canonical(), now.port()), (*place, port), "{kind:?}");
        }
    }
}

/// net/ipv4/af_inet.c, __inet_bind: a socket without a port may be bound again, to the wildcard as
/// well. So a source that was bound without a port can be taken back after a disconnect.
#[test]
fn a_source_can_be_taken_back() {
    let peer = UdpSocket::bind((A, 0)).unwrap();
    let (_listener, listening) = listener();
    for family in [Family::V4, Family::V6] {
        for (kind, to) in [
            (SocketType::DGRAM, peer.local_addr().unwrap()),
            (SocketType::STREAM, listening),
        ] {
            let client = make(family, kind);
            assert!(!source::is_source_bound(client.as_fd()));
            source::bind_source(client.as_fd(), family, B).unwrap();
            socket::connect(client.as_fd(), family.form(v4(to))).unwrap();
            assert!(source::is_source_bound(client.as_fd()));
            assert_eq!(
                source::unbind_source(client.as_fd(), family),
                Err(Errno::EINVAL),
                "it has a port"
            );
            source::disconnect(client.as_fd()).unwrap();
            assert_eq!(*v4(local(&client)).ip(), B, "{family:?} {kind:?}: the source stays");
            source::unbind_source(client.as_fd(), family).unwrap();
            let kind_now = InetSocket::inspect(client.as_fd()).unwrap();
            assert!(
                kind_now.is_unbound() && kind_now.local.ip().is_unspecified(),
                "{kind_now:?}"
            );
            assert!(!source::is_source_bound(client.as_fd()));
            socket::connect(client.as_fd(), family.form(v4(to))).unwrap();
            assert_eq!(
                *v4(local(&client)).ip(),
                Ipv4Addr::LOCALHOST,
                "the kernel's own choice again"
            );
        }
    }
}

/// net/ipv4/route.c, __mkroute_output: a loopback source leads out of no other device. Nothing is
/// sent here: connect(2) looks the route up as well.
#[test]
fn a_loopback_source_does_not_lead_out() {
    let outside: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let anywhere = datagram(Family::V4);
    let bound = datagram(Family::V4);
    socket::bind(bound.as_fd(), SocketAddr::from((B, 0))).unwrap();
    // A machine without a route there says so to both.
    let expected = match socket::connect(anywhere.as_fd(), outside) {
        Ok(()) => Err(Errno::EINVAL),
        unreachable => unreachable,
    };
    assert_eq!(socket::connect(bound.as_fd(), outside), expected);
}

/// ipv6(7), IPV6_ADDRFORM: "only for IPv6 sockets that are connected and bound to a v4-mapped-on-v6
/// address". The queue stays (net/ipv6/ipv6_sockglue.c).
#[test]
fn a_datagram_socket_of_both_families_becomes_one_of_ipv4() {
    let client = UdpSocket::bind((B, 0)).unwrap();
    let socket = datagram(Family::V6);
    socket::clear_v6only(socket.as_fd()).unwrap();
    // A chosen port, like a retained socket's: a port chosen by the kernel would be lost on
    // disconnect.
    bind_chosen(&socket, |port| Family::V6.form(SocketAddrV4::new(A, port)));
    let to = SocketAddr::V4(v4(local(&socket)));
    client.send_to(b"early", to).unwrap();
    source::become_v4(socket.as_fd()).unwrap();
    assert_eq!(local(&socket), to);
    assert_eq!(socket::peer_address(socket.as_fd()), Err(Errno::ENOTCONN));
    let server = UdpSocket::from(socket);
    assert_eq!(receive(&server), (b"early".to_vec(), client.local_addr().unwrap()));
    client.send_to(b"late", to).unwrap();
    assert_eq!(receive(&server), (b"late".to_vec(), client.local_addr().unwrap()));
    server.send_to(b"back", client.local_addr().unwrap()).unwrap();
    assert_eq!(receive(&client), (b"back".to_vec(), to));
}

/// net/ipv4/ip_sockglue.c, ipv4_pktinfo_prepare: the destination of a datagram is recorded at
/// queueing, if the option is set then.
#[test]
fn where_a_datagram_came_to_is_noted_as_it_is_queued() {
    for asked_before in [true, false] {
        let server = UdpSocket::bind((A, 0)).unwrap();
        let ask = |on| nix::sys::socket::setsockopt(&server, nix::sys::socket::sockopt::Ipv4PacketInfo, &on).unwrap();
        ask(asked_before);
        let client = UdpSocket::bind((B, 0)).unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        ask(true);
        let mut buffer = [0; 10];
        let mut vectors = [std::io::IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!(libc::in_pktinfo);
        let received = nix::sys::socket::recvmsg::<()>(
            std::os::fd::AsRawFd::as_raw_fd(&server),
            &mut vectors,
            Some(&mut space),
            nix::sys::socket::MsgFlags::empty(),
        );
        let received = received.unwrap();
        let info = received.cmsgs().unwrap().find_map(|message| match message {
            nix::sys::socket::ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        });
        let info = info.expect("the program has asked for it by now");
        assert_eq!(info.ipi_ifindex != 0, asked_before);
        assert_eq!(info.ipi_spec_dst.s_addr == u32::from(A).to_be(), asked_before);
    }
}
