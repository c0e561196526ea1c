//! Prefixes that a route makes local: net/ipv4/fib_trie.c, net/ipv4/route.c.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use imsup_linux::socket::{self, Family};
use imsup_linux::source;
use rustix::net::{AddressFamily, SocketType};

use crate::network::{ip, is_own};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 5, 7);

/// The address that a client which binds none is seen to come from; bytes go both ways.
fn source(client: impl FnOnce(std::net::SocketAddr) -> TcpStream) -> IpAddr {
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let mut client = client(listener.local_addr().unwrap());
    let (mut server, peer) = listener.accept().unwrap();
    let mut byte = [0];
    client.write_all(b"a").unwrap();
    server.read_exact(&mut byte).unwrap();
    server.write_all(b"b").unwrap();
    client.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"b");
    peer.ip()
}

/// ip-route(8), type local: every address of the prefix can be bound, with no address on any
/// interface.
#[test]
fn a_local_route_makes_every_address_of_a_prefix_the_machines() {
    if !is_own() {
        return;
    }
    assert!(TcpListener::bind((HOST, 0)).is_err());
    ip("route add local 10.77.0.0/16 dev lo");
    TcpListener::bind((HOST, 0)).unwrap();
    TcpListener::bind((Ipv4Addr::new(10, 77, 255, 255), 0)).unwrap();
}

/// fib_table_insert and fib_table_delete tell routes of the same prefix apart by metric
/// (fib_find_alias); after a removal, the look-up uses the next route.
#[test]
fn a_prefix_is_local_until_the_last_of_its_routes_is_gone() {
    if !is_own() {
        return;
    }
    ip("route add local 10.77.0.0/16 dev lo metric 5");
    ip("route add local 10.77.0.0/16 dev lo metric 4000000000");
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    ip("route delete local 10.77.0.0/16 dev lo metric 5");
    client.write_all(b"x").unwrap();
    listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    TcpStream::connect(address).unwrap();
    ip("route delete local 10.77.0.0/16 dev lo metric 4000000000");
    assert!(TcpStream::connect(address).is_err());
}

/// ip_route_output_key_hash_rcu, RTN_LOCAL: the source is the preferred source of the route,
/// otherwise the destination itself.
#[test]
fn the_default_source_is_the_routes_or_the_destination_itself() {
    if !is_own() {
        return;
    }
    let unbound = |address| TcpStream::connect(address).unwrap();
    ip("route add local 10.77.0.0/16 dev lo metric 9");
    assert_eq!(source(unbound), HOST);
    ip("route add local 10.77.0.0/16 dev lo src 127.0.0.1 metric 8");
    assert_eq!(source(unbound), Ipv4Addr::LOCALHOST);
}

/// A packet to a local destination keeps the route of the sender, so that the kernel does not check
/// for a martian source at arrival (drivers/net/loopback.c, loopback_xmit; net/ipv4/ip_input.c,
/// ip_rcv_finish_core).
#[test]
fn a_connection_from_127_0_0_1_to_any_local_address_works() {
    if !is_own() {
        return;
    }
    ip("route add local 10.77.0.0/16 dev lo");
    let bound = |address| {
        let client = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        source::bind_source(client.as_fd(), Family::V4, Ipv4Addr::LOCALHOST).unwrap();
        socket::connect(client.as_fd(), address).unwrap();
        TcpStream::from(client)
    };
    assert_eq!(source(bound), Ipv4Addr::LOCALHOST);
}
