//! Listeners of two address families at one address, and connections that change the family:
//! ipv6(7), net/ipv4/inet_hashtables.c, net/ipv6/ipv6_sockglue.c.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::socket::{self, Family, InetSocket};
use imsup_linux::{family, takeover};
use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::script::until;

/// A listener of AF_INET6 on a v4-mapped address, which others may share.
fn dual(ip: Ipv4Addr) -> (OwnedFd, SocketAddrV4) {
    let listener = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    socket::clear_v6only(listener.as_fd()).unwrap();
    socket::bind(listener.as_fd(), Family::V6.form(SocketAddrV4::new(ip, 0))).unwrap();
    socket::listen(listener.as_fd(), 16).unwrap();
    socket::Sharing::Port.set(listener.as_fd(), true).unwrap();
    let local = InetSocket::inspect(listener.as_fd()).unwrap().local_v4().unwrap();
    (listener, local)
}

fn client(address: SocketAddrV4) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    client
}

fn is_v4(socket: &OwnedFd) -> bool {
    let domain = rustix::net::sockopt::socket_domain(socket).unwrap();
    domain == AddressFamily::INET && InetSocket::inspect(socket.as_fd()).unwrap().family == Family::V4
}

/// compute_score: of two listeners at one address, an AF_INET listener gets all connections of
/// IPv4. Connections waiting in the other listener stay there.
#[test]
fn a_listener_of_ipv4_is_preferred_to_one_of_both_families() {
    let (old, address) = dual(Ipv4Addr::new(127, 77, 254, 3));
    let _early = client(address);
    let own = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    assert_eq!(
        socket::bind(own.as_fd(), SocketAddr::V4(address)),
        Err(Errno::EADDRINUSE)
    );
    takeover::adopt_owner(own.as_fd(), old.as_fd()).unwrap();
    socket::Sharing::Port.set(own.as_fd(), true).unwrap();
    socket::bind(own.as_fd(), SocketAddr::V4(address)).unwrap();
    // A bound socket is no listener yet.
    let _still = client(address);
    socket::listen(own.as_fd(), 200).unwrap();
    socket::Sharing::Port.set(own.as_fd(), false).unwrap();
    let _later: Vec<_> = (0..100).map(|_| client(address)).collect();
    let waiting = |listener: &OwnedFd| takeover::accept_queue(listener.as_fd()).unwrap().0;
    assert_eq!((waiting(&old), waiting(&own)), (2, 100));
    // After its shutdown, the other listener is not in the way.
    socket::stop_listening(old.as_fd()).unwrap();
    let _last = client(address);
    assert_eq!(waiting(&own), 101);
}

/// IPV6_ADDRFORM: an established connection of IPv4 becomes AF_INET, and keeps the received data.
#[test]
fn an_accepted_connection_can_become_ipv4() {
    let (listener, address) = dual(Ipv4Addr::new(127, 77, 254, 4));
    let mut client = client(address);
    let (accepted, peer) = family::accept(listener.as_fd()).unwrap();
    assert!(peer.is_ipv6() && !is_v4(&accepted));
    family::become_v4(accepted.as_fd()).unwrap();
    assert!(is_v4(&accepted));
    let local = client.local_addr().unwrap();
    assert_eq!(socket::peer_address(accepted.as_fd()), Ok(Some(local)));
    let mut stream = TcpStream::from(accepted);
    let mut said = [0; 5];
    stream.read_exact(&mut said).unwrap();
    stream.write_all(&said).unwrap();
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
}

/// The same for a connection whose peer has ended its side: only established connections are
/// converted.
#[test]
fn a_connection_that_was_half_closed_stays_ipv6() {
    let (listener, address) = dual(Ipv4Addr::new(127, 77, 254, 5));
    let client = client(address);
    client.shutdown(Shutdown::Write).unwrap();
    let (accepted, _) = family::accept(listener.as_fd()).unwrap();
    assert_eq!(family::become_v4(accepted.as_fd()), Err(Errno::ENOTCONN));
    assert!(!is_v4(&accepted));
}

/// A connection from this process makes a listener readable, and is known by its address.
#[test]
fn a_doorbell_makes_a_listener_readable() {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 77, 254, 6), 0)).unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
        unreachable!("an IPv4 address")
    };
    assert_eq!(family::accept(listener.as_fd()).unwrap_err(), Errno::EAGAIN);
    let (bell, from) = family::ring(address).unwrap();
    assert!(socket::is_readable(listener.as_fd()));
    let flags = socket::status_flags(listener.as_fd());
    let (_accepted, peer) = family::accept(listener.as_fd()).unwrap();
    assert_eq!(peer, from);
    assert_eq!(socket::status_flags(listener.as_fd()), flags);
    assert_eq!(socket::progress(bell.as_fd()), socket::Progress::Established);
    // A connection that waits in a closed listener is reset, as seen here.
    let (bell, _) = family::ring(address).unwrap();
    drop(listener);
    until("its reset", || {
        socket::progress(bell.as_fd()) == socket::Progress::Failed
    });
}

/// The kernel remembers for a port that it is shared (`fastreuseport`), also after the sockets have
/// stopped sharing, and admits the next socket without a check of the others. This lasts until a
/// socket without sharing is bound to the port, at any address (net/ipv4/inet_connection_sock.c,
/// inet_csk_update_fastreuse).
#[test]
fn that_a_port_is_shared_outlives_the_option() {
    let ip = Ipv4Addr::new(127, 77, 254, 7);
    let bound = |at: SocketAddrV4| {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        socket::Sharing::Port.set(socket.as_fd(), true).unwrap();
        socket::bind(socket.as_fd(), at.into()).map(|()| socket)
    };
    let first = bound(SocketAddrV4::new(ip, 0)).unwrap();
    let Some(SocketAddr::V4(at)) = socket::local_address(first.as_fd()) else {
        unreachable!("an IPv4 address")
    };
    socket::Sharing::Port.set(first.as_fd(), false).unwrap();
    assert!(bound(at).is_ok(), "the kernel looks at what it remembers");
    family::forget_sharing(at.port());
    assert_eq!(bound(at).unwrap_err(), Errno::EADDRINUSE);
}
