//! Sockets that keep another socket from an endpoint, and what sock_diag(7) tells of them:
//! net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict; net/ipv4/inet_diag.c.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use imsup_linux::occupants::{self, Occupant, Occupation};
use imsup_linux::socket::{self, Sharing};
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::B;

fn tcp(family: AddressFamily, shares: bool) -> OwnedFd {
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    Sharing::Address.set(socket.as_fd(), shares).unwrap();
    socket
}

/// An address that no other test uses: the kernel may choose a port twice at one address, for
/// sockets with SO_REUSEADDR.
fn fresh() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    Ipv4Addr::new(127, 77, 253, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A bound socket, with SO_REUSEADDR or without, and its endpoint.
fn bound(shares: bool) -> (OwnedFd, Endpoint) {
    let socket = tcp(AddressFamily::INET, shares);
    socket::bind(socket.as_fd(), SocketAddr::from((fresh(), 0))).unwrap();
    let address = socket::local_address(socket.as_fd()).and_then(socket::as_v4).unwrap();
    (socket, Endpoint::tcp(*address.ip(), address.port()))
}

/// The only occupant.
#[track_caller]
fn only(endpoint: Endpoint) -> Occupant {
    let found = occupants::at(endpoint).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

/// The result of a bind with SO_REUSEADDR.
fn bind_anew(endpoint: Endpoint) -> Result<(), Errno> {
    let socket = tcp(AddressFamily::INET, true);
    socket::bind(socket.as_fd(), SocketAddr::V4(endpoint.address))
}

fn own(socket: impl AsFd) -> (u32, u32) {
    let inode = socket::inode(socket.as_fd()).unwrap();
    (rustix::process::geteuid().as_raw(), inode.try_into().unwrap())
}

/// TCPF_BOUND_INACTIVE (include/net/tcp_states.h), since Linux 6.8.
fn tells_bound() -> bool {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap().split('.').map(str::parse::<u32>);
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (6, 8)
}

#[test]
fn a_socket_that_is_bound_and_does_not_listen_is_told_and_is_in_the_way() {
    let (socket, endpoint) = bound(false);
    assert_eq!(bind_anew(endpoint), Err(Errno::EADDRINUSE));
    if tells_bound() {
        let found = only(endpoint);
        assert_eq!(
            (found.occupation, found.local),
            (Occupation::Bound, IpAddr::V4(*endpoint.address.ip()))
        );
        assert_eq!((found.uid, found.inode), own(&socket));
    } else {
        assert_eq!(occupants::at(endpoint).unwrap(), []);
    }
}

#[test]
fn listeners_are_told_at_their_own_address_and_at_wildcards() {
    let (socket, endpoint) = bound(false);
    socket::listen(socket.as_fd(), 1).unwrap();
    let found = only(endpoint);
    assert_eq!(
        (found.occupation, found.local),
        (Occupation::Open, IpAddr::V4(*endpoint.address.ip()))
    );
    assert_eq!((found.uid, found.inode), own(&socket));
    let elsewhere = Endpoint::tcp(B, endpoint.address.port());
    assert_eq!(occupants::at(elsewhere).unwrap(), []);
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let listener = TcpListener::bind(wildcard).unwrap();
        let at = Endpoint::tcp(fresh(), listener.local_addr().unwrap().port());
        let found = only(at);
        assert_eq!(found.occupation, Occupation::Open);
        assert!(found.local.is_unspecified());
        assert_eq!((found.uid, found.inode), own(&listener));
    }
}

/// INET_DIAG_SKV6ONLY.
#[test]
fn a_listener_of_ipv6_only_is_not_in_the_way() {
    let socket = tcp(AddressFamily::INET6, true);
    rustix::net::sockopt::set_ipv6_v6only(&socket, true).unwrap();
    socket::bind(socket.as_fd(), "[::]:0".parse().unwrap()).unwrap();
    socket::listen(socket.as_fd(), 1).unwrap();
    let port = socket::local_address(socket.as_fd()).unwrap().port();
    let endpoint = Endpoint::tcp(fresh(), port);
    assert_eq!(occupants::at(endpoint).unwrap(), []);
    assert_eq!(bind_anew(endpoint), Ok(()));
}

/// A connection that the server has closed first, in TIME_WAIT.
fn time_wait(shares: bool) -> (Endpoint, SocketAddrV4) {
    let (socket, endpoint) = bound(shares);
    let listener = TcpListener::from(socket);
    socket::listen(listener.as_fd(), 1).unwrap();
    let client = TcpStream::connect(endpoint.address).unwrap();
    let peer = socket::as_v4(client.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    drop(listener);
    // The server's end of file has come, so the server waits for the client's.
    assert_eq!(std::io::Read::read(&mut &client, &mut [0]).unwrap(), 0);
    drop(client);
    (endpoint, peer)
}

/// The state in which the kernel has a closed connection once both ends are told of.
#[track_caller]
fn closed(endpoint: Endpoint) -> Occupant {
    loop {
        let found = only(endpoint);
        match found.occupation {
            Occupation::Closed {
                state: "FIN_WAIT1" | "FIN_WAIT2" | "CLOSING",
                ..
            } => std::thread::yield_now(),
            _ => return found,
        }
    }
}

/// A connection in TIME_WAIT has the options of its socket (net/ipv4/inet_timewait_sock.c,
/// inet_twsk_alloc): without SO_REUSEADDR it refuses a bind that has the option.
#[test]
fn a_connection_in_time_wait_is_in_the_way_unless_it_had_so_reuseaddr() {
    for (shares, expected) in [(true, Ok(())), (false, Err(Errno::EADDRINUSE))] {
        let (endpoint, peer) = time_wait(shares);
        let found = closed(endpoint);
        let state = "TIME_WAIT";
        let peer = SocketAddr::V4(peer);
        assert_eq!(found.occupation, Occupation::Closed { peer, state });
        assert_eq!((found.local, found.inode), (IpAddr::V4(*endpoint.address.ip()), 0));
        assert_eq!(bind_anew(endpoint), expected, "SO_REUSEADDR: {shares}");
    }
}

/// A connection has the options of its listener at its arrival.
#[test]
fn an_accepted_connection_is_in_the_way_unless_it_has_so_reuseaddr() {
    for (shares, expected) in [(true, Ok(())), (false, Err(Errno::EADDRINUSE))] {
        let (socket, endpoint) = bound(shares);
        let listener = TcpListener::from(socket);
        socket::listen(listener.as_fd(), 1).unwrap();
        let client = TcpStream::connect(endpoint.address).unwrap();
        let (server, peer) = listener.accept().unwrap();
        drop(listener);
        let found = only(endpoint);
        assert_eq!(found.occupation, Occupation::Connected { peer });
        assert_eq!((found.uid, found.inode), own(&server));
        assert_eq!(bind_anew(endpoint), expected, "SO_REUSEADDR: {shares}");
        drop(client);
    }
}

/// A connected datagram socket replies to its peer only, and keeps others from its port all the
/// same.
#[test]
fn datagram_sockets_are_told_also_if_they_are_connected() {
    let ip = fresh();
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let transport = Transport::Udp;
    let endpoint = Endpoint {
        transport,
        ..Endpoint::tcp(ip, port)
    };
    let found = only(endpoint);
    assert_eq!(
        (found.occupation, found.local),
        (Occupation::Open, IpAddr::V4(*endpoint.address.ip()))
    );
    assert_eq!((found.uid, found.inode), own(&socket));
    let peer = SocketAddr::from((B, 9));
    socket.connect(peer).unwrap();
    assert_eq!(only(endpoint).occupation, Occupation::Connected { peer });
    assert!(UdpSocket::bind((ip, port)).is_err());
}
