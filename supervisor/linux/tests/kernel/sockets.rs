//! Addresses, connects and queues: ip(7), connect(2), listen(2), socket(7).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::socket::{self, Family, InetSocket, Progress};
use imsup_linux::{settings, source};
use nix::errno::Errno;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketType};

use crate::{A, B, listener};

fn tcp(family: AddressFamily) -> OwnedFd {
    rustix::net::socket_with(family, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None).unwrap()
}

fn nonblocking(socket: &OwnedFd) {
    socket::set_status_flags(socket.as_fd(), OFlags::RDWR | OFlags::NONBLOCK).unwrap();
}

/// A port of `A` without a listener: bound, so that no other socket can use the port.
fn refusing() -> (OwnedFd, SocketAddr) {
    let bound = tcp(AddressFamily::INET);
    socket::bind(bound.as_fd(), SocketAddr::from((A, 0))).unwrap();
    let address = socket::local_address(bound.as_fd()).unwrap();
    (bound, address)
}

/// ip(7): "the loopback network" is local as a whole (net/ipv4/fib_frontend.c, the local table has
/// 127.0.0.0/8).
#[test]
fn every_loopback_address_can_be_bound_without_configuration() {
    for ip in [A, Ipv4Addr::new(127, 78, 254, 1), Ipv4Addr::new(127, 79, 254, 1)] {
        TcpListener::bind((ip, 0)).unwrap();
    }
}

/// The local route of 127.0.0.0/8 has 127.0.0.1 as the source, so a connect to a host's private
/// localhost comes from 127.0.0.1 without a bind.
#[test]
fn the_default_source_for_every_loopback_address_is_127_0_0_1() {
    let (listener, address) = listener();
    let client = TcpStream::connect(address).unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(client.local_addr().unwrap(), peer);
}

/// ip(7), IP_BIND_ADDRESS_NO_PORT: the port is chosen by connect, and the peer sees the address
/// that was bound.
#[test]
fn a_source_can_be_bound_without_a_port() {
    let (listener, address) = listener();
    for family in [Family::V4, Family::V6] {
        let client = tcp(match family {
            Family::V4 => AddressFamily::INET,
            Family::V6 => AddressFamily::INET6,
        });
        source::bind_source(client.as_fd(), family, B).unwrap();
        assert!(InetSocket::inspect(client.as_fd()).unwrap().is_unbound(), "no port yet");
        let SocketAddr::V4(v4) = address else { unreachable!() };
        socket::connect(client.as_fd(), family.form(v4)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), B);
    }
}

/// A stream socket without a port is neither connected nor listens, so no thread waits on the
/// socket. listen(2) and connect(2) choose a port first, even if there is no reply so far
/// (net/ipv4/inet_connection_sock.c, inet_csk_listen_start; net/ipv4/tcp_ipv4.c, tcp_v4_connect).
#[test]
fn a_socket_that_listens_or_connects_has_a_port() {
    let is_unbound = |socket: &OwnedFd| InetSocket::inspect(socket.as_fd()).unwrap().is_unbound();
    let server = tcp(AddressFamily::INET);
    assert!(is_unbound(&server) && !socket::is_in_use(server.as_fd()));
    socket::listen(server.as_fd(), 0).unwrap();
    assert!(!is_unbound(&server) && socket::is_in_use(server.as_fd()));
    let address = socket::local_address(server.as_fd()).unwrap();
    // A queue of 0 holds a single connection; the next attempt gets no reply.
    let clients = [(); 3].map(|()| tcp(AddressFamily::INET));
    for client in &clients {
        nonblocking(client);
        assert_eq!(socket::connect(client.as_fd(), address), Err(Errno::EINPROGRESS));
        assert!(!is_unbound(client));
    }
    assert_eq!(socket::progress(clients[2].as_fd()), Progress::Waiting);
}

/// net/ipv4/af_inet.c, __inet_stream_connect: a non-blocking connect returns EINPROGRESS even if
/// loopback has completed the handshake; a second call then returns 0, and a third EISCONN.
#[test]
fn a_loopback_handshake_is_over_when_a_nonblocking_connect_returns() {
    let (_listener, address) = listener();
    let client = tcp(AddressFamily::INET);
    nonblocking(&client);
    assert_eq!(socket::connect(client.as_fd(), address), Err(Errno::EINPROGRESS));
    // On a loaded machine the handshake may be left to ksoftirqd: wait for the end, as imsup does.
    while socket::progress(client.as_fd()) == Progress::Waiting {
        std::thread::yield_now();
    }
    assert_eq!(socket::progress(client.as_fd()), Progress::Established);
    assert_eq!(socket::connect(client.as_fd(), address), Ok(()));
    assert_eq!(socket::connect(client.as_fd(), address), Err(Errno::EISCONN));
}

/// net/ipv4/af_inet.c: the next connect takes a refusal, after which the socket can be connected
/// again; the source address stays.
#[test]
fn a_refused_socket_can_be_connected_again_and_keeps_its_source() {
    let (_bound, nobody) = refusing();
    let (listener, address) = listener();
    let client = tcp(AddressFamily::INET);
    source::bind_source(client.as_fd(), Family::V4, B).unwrap();
    nonblocking(&client);
    assert_eq!(socket::connect(client.as_fd(), nobody), Err(Errno::EINPROGRESS));
    while socket::progress(client.as_fd()) == Progress::Waiting {
        std::thread::yield_now();
    }
    assert_eq!(socket::progress(client.as_fd()), Progress::Failed);
    assert_eq!(socket::connect(client.as_fd(), nobody), Err(Errno::ECONNREFUSED));
    socket::set_status_flags(client.as_fd(), OFlags::RDWR).unwrap();
    socket::connect(client.as_fd(), address).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), B);
}

/// The idea of the retained socket: connections, and the bytes sent on these connections, wait in
/// the queue of a listening socket as long as any process has the socket open.
#[test]
fn a_listening_socket_keeps_its_queue_while_a_duplicate_is_open() {
    let (listener, address) = listener();
    let retained = socket::duplicate(&OwnedFd::from(listener.try_clone().unwrap())).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"early").unwrap();
    drop(listener);
    let mut late = TcpStream::connect(address).unwrap();
    late.write_all(b"later").unwrap();
    let next = TcpListener::from(retained);
    for expected in [b"early", b"later"] {
        let mut bytes = [0; 5];
        next.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, expected);
    }
}

/// listen(2) on a listening socket changes the backlog (net/ipv4/af_inet.c, __inet_listen_sk).
#[test]
fn a_second_listen_changes_the_backlog() {
    let (listener, address) = listener();
    socket::listen(listener.as_fd(), 0).unwrap();
    let attempt = || {
        let client = tcp(AddressFamily::INET);
        nonblocking(&client);
        let _ = socket::connect(client.as_fd(), address);
        client
    };
    let first = attempt();
    while socket::progress(first.as_fd()) == Progress::Waiting {
        std::thread::yield_now();
    }
    let crowded: Vec<_> = (0..3).map(|_| attempt()).collect();
    assert!(
        crowded
            .iter()
            .any(|client| socket::progress(client.as_fd()) == Progress::Waiting),
        "a backlog of 0 must not take four"
    );
    socket::listen(listener.as_fd(), 64).unwrap();
    let after = attempt();
    while socket::progress(after.as_fd()) == Progress::Waiting {
        std::thread::yield_now();
    }
    assert_eq!(socket::progress(after.as_fd()), Progress::Established);
}

/// ipv6(7): a dual-stack socket bound to a v4-mapped address serves IPv4; an IPV6_V6ONLY socket
/// refuses the address.
#[test]
fn a_dual_stack_socket_binds_a_mapped_address() {
    let socket = tcp(AddressFamily::INET6);
    let mapped = Family::V6.form(SocketAddrV4::new(A, 0));
    socket::bind(socket.as_fd(), mapped).unwrap();
    socket::listen(socket.as_fd(), 5).unwrap();
    let port = socket::local_address(socket.as_fd()).unwrap().port();
    TcpStream::connect((A, port)).unwrap();

    let only = tcp(AddressFamily::INET6);
    rustix::net::sockopt::set_ipv6_v6only(&only, true).unwrap();
    assert_eq!(socket::bind(only.as_fd(), mapped), Err(Errno::EINVAL));
    socket::clear_v6only(only.as_fd()).unwrap();
    socket::bind(only.as_fd(), mapped).unwrap();
    assert_eq!(
        socket::clear_v6only(only.as_fd()),
        Err(Errno::EINVAL),
        "not once it is bound"
    );
}

/// socket(7), SO_COOKIE: the same through dup, and no other socket's.
#[test]
fn a_socket_has_one_cookie_for_life() {
    let (listener, _) = listener();
    let duplicate = listener.try_clone().unwrap();
    let cookie = socket::cookie(listener.as_fd()).unwrap();
    assert_eq!(socket::cookie(duplicate.as_fd()).unwrap(), cookie);
    assert_ne!(socket::cookie(tcp(AddressFamily::INET).as_fd()).unwrap(), cookie);
}

/// socket(7), SO_REUSEPORT: if set after the bind of the first socket, the option still admits a
/// second socket of the same user.
#[test]
fn reuseport_may_be_set_on_a_retained_socket() {
    let (listener, address) = listener();
    rustix::net::sockopt::set_socket_reuseport(&listener, true).unwrap();
    let second = tcp(AddressFamily::INET);
    rustix::net::sockopt::set_socket_reuseport(&second, true).unwrap();
    socket::bind(second.as_fd(), address).unwrap();
    socket::listen(second.as_fd(), 5).unwrap();
}

/// A bound datagram socket keeps its queued datagrams while a duplicate is open, like a listening
/// socket.
#[test]
fn a_datagram_socket_keeps_its_queue_while_a_duplicate_is_open() {
    let server = UdpSocket::bind((A, 0)).unwrap();
    let retained = server.try_clone().unwrap();
    let client = UdpSocket::bind((B, 0)).unwrap();
    client.send_to(b"early", server.local_addr().unwrap()).unwrap();
    drop(server);
    let mut bytes = [0; 16];
    let (count, from) = retained.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..count], from), (&b"early"[..], client.local_addr().unwrap()));
}

/// Accepted connections inherit options that a program sets before bind, so the retained socket
/// must have these options.
#[test]
fn settings_are_copied_to_a_retained_socket() {
    let own = tcp(AddressFamily::INET);
    rustix::net::sockopt::set_tcp_nodelay(&own, true).unwrap();
    rustix::net::sockopt::set_socket_keepalive(&own, true).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&own, 65_536).unwrap();
    nonblocking(&own);
    let (retained, address) = listener();
    settings::copy(own.as_fd(), retained.as_fd()).unwrap();
    assert!(
        socket::status_flags(retained.as_fd())
            .unwrap()
            .contains(OFlags::NONBLOCK)
    );
    let _client = TcpStream::connect(address).unwrap();
    let accepted = loop {
        match retained.accept() {
            Ok((accepted, _)) => break accepted,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    };
    assert!(rustix::net::sockopt::tcp_nodelay(&accepted).unwrap());
    assert!(rustix::net::sockopt::socket_keepalive(&accepted).unwrap());
    let wanted = rustix::net::sockopt::socket_recv_buffer_size(&own).unwrap();
    assert_eq!(
        rustix::net::sockopt::socket_recv_buffer_size(&retained).unwrap(),
        wanted
    );
}
