//! Listener takeover, and the connections waiting in both listeners: socket(7),
//! net/core/sock_reuseport.c.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::{socket, takeover};
use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::{A, listener};

/// Connects, and sends the client's name.
fn client(address: SocketAddr, name: &[u8; 5]) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(name).unwrap();
    client
}

/// Accepts a waiting connection, and returns the client's name.
fn accepted(listener: &TcpListener) -> [u8; 5] {
    let mut name = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut name).unwrap();
    name
}

fn waiting(listener: &TcpListener) -> u32 {
    takeover::accept_queue(listener.as_fd()).unwrap().0
}

/// tcp(7), TCP_INFO of a listening socket: tcpi_unacked is the queue and tcpi_sacked the backlog
/// (net/ipv4/tcp.c, tcp_get_info). A second listen changes the backlog and keeps the queue.
#[test]
fn a_listener_says_its_queue_and_backlog() {
    let (listener, address) = listener();
    socket::listen(listener.as_fd(), 5).unwrap();
    assert_eq!(takeover::accept_queue(listener.as_fd()), Ok((0, 5)));
    let _clients = [client(address, b"first"), client(address, b"later")];
    assert_eq!(takeover::accept_queue(listener.as_fd()), Ok((2, 5)));
    socket::listen(listener.as_fd(), 64).unwrap();
    assert_eq!(takeover::accept_queue(listener.as_fd()), Ok((2, 64)));
    assert_eq!([accepted(&listener), accepted(&listener)], [*b"first", *b"later"]);
    assert_eq!(takeover::accept_queue(listener.as_fd()), Ok((0, 64)));
    let connected = TcpStream::connect(address).unwrap();
    assert_eq!(takeover::accept_queue(connected.as_fd()), Err(Errno::EINVAL));
}

/// SO_ATTACH_REUSEPORT_CBPF: after the takeover every new connection goes to the new socket, and
/// earlier connections stay in the old listener. The end of the old listener resets no connection
/// of the new socket, which goes on alone.
#[test]
fn a_successor_takes_every_connection_from_then_on() {
    let (old, address) = listener();
    rustix::net::sockopt::set_tcp_nodelay(&old, true).unwrap();
    let _early = client(address, b"early");
    let successor = takeover::take_over(old.as_fd(), 4096).unwrap();
    assert_eq!(successor.old_queue, 1);
    assert_eq!(takeover::accept_queue(successor.socket.as_fd()), Ok((0, 4096)));
    let new = TcpListener::from(successor.socket);
    let clients: Vec<_> = (0..100).map(|_| client(address, b"after")).collect();
    assert_eq!((waiting(&old), waiting(&new)), (1, 100));
    assert_eq!(accepted(&old), *b"early");
    drop(old);
    let _last = client(address, b"alone");
    for _ in &clients {
        assert_eq!(accepted(&new), *b"after");
    }
    assert_eq!(accepted(&new), *b"alone");
    assert!(rustix::net::sockopt::tcp_nodelay(&new).unwrap(), "options are kept");
}

/// A takeover that is undone: the old listener is chosen again, and connections that came to the
/// new socket meanwhile are still there.
#[test]
fn a_listener_gets_its_place_back() {
    let (old, address) = listener();
    for _ in 0..3 {
        let new = TcpListener::from(takeover::take_over(old.as_fd(), 16).unwrap().socket);
        let _meanwhile = client(address, b"midst");
        takeover::give_back(old.as_fd()).unwrap();
        let clients: Vec<_> = (0..20).map(|_| client(address, b"again")).collect();
        assert_eq!((waiting(&old), waiting(&new)), (20, 1));
        assert_eq!(accepted(&new), *b"midst");
        for _ in &clients {
            assert_eq!(accepted(&old), *b"again");
        }
    }
    let (fresh, _) = listener();
    assert_eq!(takeover::give_back(fresh.as_fd()), Err(Errno::EINVAL));
}

/// A single successor takes over from workers that each have a listener of their own
/// (SO_REUSEPORT).
#[test]
fn a_group_of_listeners_is_succeeded_at_once() {
    let bound = || {
        rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    };
    let mut address = SocketAddr::from((A, 0));
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let worker = bound();
            socket::Sharing::Port.set(worker.as_fd(), true).unwrap();
            socket::bind(worker.as_fd(), address).unwrap();
            address = socket::local_address(worker.as_fd()).unwrap();
            socket::listen(worker.as_fd(), 64).unwrap();
            TcpListener::from(worker)
        })
        .collect();
    let new = TcpListener::from(takeover::take_over(workers[1].as_fd(), 64).unwrap().socket);
    let _clients: Vec<_> = (0..30).map(|_| client(address, b"after")).collect();
    assert_eq!(waiting(&new), 30);
    assert!(workers.iter().all(|worker| waiting(worker) == 0));
}

/// A single successor takes over from a dual-stack listener, for clients of both families.
#[test]
fn a_dual_stack_listener_is_succeeded_by_one() {
    let old = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mapped = SocketAddr::from((A.to_ipv6_mapped(), 0));
    socket::bind(old.as_fd(), mapped).unwrap();
    socket::listen(old.as_fd(), 16).unwrap();
    let port = socket::local_address(old.as_fd()).unwrap().port();
    let new = TcpListener::from(takeover::take_over(old.as_fd(), 16).unwrap().socket);
    let _client = client((A, port).into(), b"mixed");
    assert_eq!((waiting(&TcpListener::from(old)), waiting(&new)), (0, 1));
}

/// net/ipv4/inet_connection_sock.c: SO_REUSEPORT requires one user for all sockets of an address.
/// The user of a socket is the owner of the inode, which only root can change (fchown(2)).
#[test]
fn another_users_listener_is_succeeded_by_root_alone() {
    let (old, address) = listener();
    let theirs = rustix::fs::Uid::from_raw(12_345);
    if !rustix::process::geteuid().is_root() {
        assert_eq!(
            rustix::fs::fchown(&old, Some(theirs), None),
            Err(rustix::io::Errno::PERM)
        );
        return;
    }
    rustix::fs::fchown(&old, Some(theirs), None).unwrap();
    let new: OwnedFd = takeover::take_over(old.as_fd(), 16).unwrap().socket;
    let _client = client(address, b"owner");
    assert_eq!((waiting(&old), waiting(&TcpListener::from(new))), (0, 1));
}
