//! What keeps other machines from hosts' addresses: socket(7), SO_ATTACH_FILTER;
//! net/ipv4/tcp_ipv4.c, tcp_filter; net/ipv4/udp.c, udp_queue_rcv_one_skb.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::guard;
use imsup_linux::socket::{self, Family};
use rustix::net::{AddressFamily, SocketType};

use crate::network::{Neighbour, ip, is_own};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 5, 7);

/// A socket at the host's address, kept from neighbours or not.
fn at_host(family: Family, kind: SocketType, kept: bool) -> (OwnedFd, SocketAddr) {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(domain, kind, rustix::net::SocketFlags::CLOEXEC, None).unwrap();
    if kept {
        assert!(guard::keep_neighbours_out(socket.as_fd(), HOST));
        assert!(!guard::keep_neighbours_out(socket.as_fd(), HOST), "it is kept already");
    }
    socket::bind(socket.as_fd(), family.form(std::net::SocketAddrV4::new(HOST, 0))).unwrap();
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, 16).unwrap();
    }
    let local = socket::local_address(socket.as_fd()).unwrap();
    (socket, SocketAddr::from((HOST, local.port())))
}

/// A packet is dropped by the index of its device, before a listener replies or a datagram is
/// queued, also on AF_INET6 sockets. Packets from the loopback device are accepted.
#[test]
fn a_filter_by_device_keeps_neighbours_out_and_lets_the_machine_in() {
    if !is_own() {
        return;
    }
    ip("route add local 10.77.0.0/16 dev lo");
    let mut neighbour = Neighbour::with_route_to("10.77.0.0/16", false);
    for (family, kept) in [
        (Family::V4, false),
        (Family::V6, false),
        (Family::V4, true),
        (Family::V6, true),
    ] {
        let (listener, at) = at_host(family, SocketType::STREAM, kept);
        let (datagrams, to) = at_host(family, SocketType::DGRAM, kept);
        let (listener, datagrams) = (TcpListener::from(listener), UdpSocket::from(datagrams));
        let made = neighbour.try_to_reach(&[at], &[to]);
        assert_eq!(made, usize::from(!kept), "{family:?}, kept: {kept}");
        datagrams.set_nonblocking(true).unwrap();
        let came = datagrams.recv_from(&mut [0; 64]);
        assert_eq!(came.is_ok(), !kept, "{family:?}: {came:?}");
        if !kept {
            drop(listener.accept().unwrap());
        }
        let mut client = TcpStream::connect(at).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"a").unwrap();
        server.read_exact(&mut [0]).unwrap();
        assert_eq!(guard::has_filter(server.as_fd()), kept, "a connection inherits it");
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"b", to).unwrap();
        datagrams.set_nonblocking(false).unwrap();
        datagrams.recv_from(&mut [0; 64]).unwrap();
    }
}

/// net/core/filter.c, sk_detach_filter: anybody may take a filter away, unlike SO_BINDTODEVICE
/// (net/core/sock.c, sock_bindtoindex_locked: CAP_NET_RAW).
#[test]
fn a_filter_can_be_taken_away() {
    if !is_own() {
        return;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(!guard::has_filter(socket.as_fd()));
    assert!(guard::keep_neighbours_out(socket.as_fd(), HOST));
    assert!(guard::has_filter(socket.as_fd()));
    guard::let_neighbours_in(socket.as_fd());
    assert!(!guard::has_filter(socket.as_fd()));
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// ip_route_input_slow drops packets for 127.0.0.0/8 from another device, unless route_localnet is
/// on.
#[test]
fn neighbours_reach_127_0_0_0_only_where_it_is_routed() {
    if !is_own() {
        return;
    }
    let mut neighbour = Neighbour::with_route_to("127.77.0.0/16", true);
    let listener = TcpListener::bind("127.77.5.7:0").unwrap();
    let at = listener.local_addr().unwrap();
    assert_eq!(neighbour.try_to_reach(&[at], &[]), 1);
    std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "0").unwrap();
    assert_eq!(neighbour.try_to_reach(&[at], &[]), 0);
}
