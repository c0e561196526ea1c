//! The owner of a socket: sock_diag(7) for a single socket (net/ipv4/inet_diag.c,
//! inet_diag_find_one_icsk; net/ipv4/udp_diag.c, udp_dump_one).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use imsup_linux::owner::Owners;
use imsup_linux::socket;
use imsup_wire::{Endpoint, Transport};

use crate::{A, B};

fn v4(address: SocketAddr) -> SocketAddrV4 {
    socket::as_v4(address).unwrap()
}

fn endpoint(transport: Transport, ip: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint {
        transport,
        address: SocketAddrV4::new(ip, port),
    }
}

/// The found socket is the socket that a packet would reach, also at the machine's wildcard, and of
/// either family. ENOENT if there is no socket.
#[test]
fn the_owner_of_whoever_would_be_sent_to_is_told() {
    let own = rustix::process::geteuid().as_raw();
    let mut owners = Owners::open().unwrap();
    let exact = TcpListener::bind((A, 0)).unwrap();
    let wildcard = TcpListener::bind("0.0.0.0:0").unwrap();
    let both = TcpListener::bind("[::]:0").unwrap();
    for listener in [&exact, &wildcard, &both] {
        let port = listener.local_addr().unwrap().port();
        let found = owners.of(endpoint(Transport::Tcp, A, port)).unwrap().unwrap();
        assert_eq!(found.uid, own);
        assert_eq!(found.cookie, socket::cookie(listener.as_fd()).unwrap());
        assert_eq!(u64::from(found.inode), socket::inode(listener.as_fd()).unwrap());
    }
    let exact = UdpSocket::bind((A, 0)).unwrap();
    let both = UdpSocket::bind("[::]:0").unwrap();
    for datagrams in [&exact, &both] {
        let port = datagrams.local_addr().unwrap().port();
        let found = owners.of(endpoint(Transport::Udp, A, port)).unwrap().unwrap();
        assert_eq!(
            (found.uid, found.cookie),
            (own, socket::cookie(datagrams.as_fd()).unwrap())
        );
    }
    let nobody = endpoint(Transport::Udp, B, exact.local_addr().unwrap().port());
    assert_eq!(owners.of(nobody).unwrap(), None);
    assert_eq!(owners.of(endpoint(Transport::Tcp, B, 1)).unwrap(), None);
}

/// inet_sk_bound_dev_eq: a socket bound to the loopback device is found by a request that names the
/// device.
#[test]
fn one_that_is_bound_to_the_loopback_device_does_not_hide() {
    let listener = TcpListener::bind((A, 0)).unwrap();
    let bound = nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::BindToDevice, &"lo".into());
    bound.unwrap();
    let port = listener.local_addr().unwrap().port();
    let found = Owners::open().unwrap().of(endpoint(Transport::Tcp, A, port)).unwrap();
    assert_eq!(found.map(|owner| owner.cookie), socket::cookie(listener.as_fd()).ok());
}

/// An accepted socket has an owner of its own; before the accept, the listener's owner counts.
#[test]
fn the_other_end_of_a_connection_is_the_accepted_socket_and_before_that_the_listener() {
    let mut owners = Owners::open().unwrap();
    let listener = TcpListener::bind((A, 0)).unwrap();
    let at = v4(listener.local_addr().unwrap());
    let client = TcpStream::connect(at).unwrap();
    let from = v4(client.local_addr().unwrap());
    let waiting = owners.of_server(at, from).unwrap().unwrap();
    assert_eq!(waiting.cookie, socket::cookie(listener.as_fd()).unwrap());
    let (server, _) = listener.accept().unwrap();
    let listening = owners.of_server(at, from).unwrap().unwrap();
    assert_eq!(listening.cookie, socket::cookie(listener.as_fd()).unwrap());
    // A server that closes the listener at once still has the connection.
    drop(listener);
    let accepted = owners.of_server(at, from).unwrap().unwrap();
    assert_eq!(accepted.cookie, socket::cookie(server.as_fd()).unwrap());
    assert_eq!(accepted.uid, rustix::process::geteuid().as_raw());
    drop(server);
    drop(client);
    assert_eq!(owners.of(Endpoint::tcp(*at.ip(), at.port())).unwrap(), None);
}
