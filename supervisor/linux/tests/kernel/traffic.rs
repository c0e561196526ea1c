//! The traffic on a host's connections: tcp(7), TCP_INFO; sock_diag(7).

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use imsup_linux::duplicates::Duplicates;
use imsup_linux::traffic::{self, Connection, Known};
use imsup_linux::{descriptors, socket};
use rustix::net::{AddressFamily, SocketType};

use crate::script::{Script, until};

const PLANES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(127, 77, 254, 31),
    Ipv4Addr::new(127, 78, 254, 31),
    Ipv4Addr::new(127, 79, 254, 31),
];

/// A Python process that has accepted a connection on a dual-stack socket in each plane.
fn server() -> (Script, Vec<TcpStream>) {
    let mut script = Script::start(
        "
import socket
def listen(address):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(('::ffff:' + address, 0))
    s.listen()
    return s
udp, unix = socket.socket(type=socket.SOCK_DGRAM), socket.socketpair()
listeners, accepted = [], []
",
    );
    let clients = PLANES.map(|ip| {
        script.tell(&format!("listeners.append(listen('{ip}'))"));
        let port: u16 = script.ask("listeners[-1].getsockname()[1]").parse().unwrap();
        let client = TcpStream::connect((ip, port)).unwrap();
        script.tell("accepted.append(listeners[-1].accept()[0])");
        client
    });
    assert_eq!(script.ask("len(accepted)"), "3");
    (script, clients.into())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Connections, sorted by their addresses.
fn sorted(mut found: Vec<Connection>) -> Vec<(SocketAddr, SocketAddr, bool, u64)> {
    found.sort_unstable_by_key(|connection| (connection.local, connection.peer));
    found
        .into_iter()
        .map(|c| (c.local, c.peer, c.established, c.bytes))
        .collect()
}

/// The connection behind a descriptor of a process, by a duplicate.
fn of_held(pid: i32, number: i32) -> Result<Option<Known>, nix::errno::Errno> {
    Known::of_held(Duplicates::Kernel.one(pid, number)?.as_fd())
}

/// The connections of a process, searched for once and compared with the connections read from held
/// duplicates of the descriptors.
fn known(script: &Script) -> Vec<Known> {
    let sockets = traffic::sockets(&[script.pid()]);
    let tcp: HashSet<u64> = sockets
        .iter()
        .filter(|(_, at)| descriptors::is_tcp(at.pid, at.number) == Some(true))
        .map(|(inode, _)| *inode)
        .collect();
    assert!(tcp.len() >= 6 && tcp.len() < sockets.len(), "{tcp:?} of {sockets:?}");
    let by_key = |mut known: Vec<Known>| {
        known.sort_unstable_by_key(|known| known.inode);
        known
    };
    let searched = by_key(traffic::search(&tcp, PLANES, &[]).unwrap());
    let held = tcp
        .iter()
        .filter_map(|inode| of_held(script.pid(), sockets[inode].number).unwrap());
    assert_eq!(searched, by_key(held.collect()));
    searched
}

/// sock_diag(7): a socket is found by addresses and cookie, and shows its traffic; no descriptor is
/// duplicated.
#[test]
fn connections_are_searched_for_once_and_found_by_their_addresses() {
    let (mut script, mut clients) = server();
    let known = known(&script);
    let read = || sorted(traffic::read(&known).unwrap().into_iter().flatten().collect());
    let before = read();
    assert_eq!(before.len(), 3, "no listeners, no datagram sockets: {before:?}");
    for (client, (local, peer, established, _)) in clients.iter().zip(&before) {
        assert_eq!(canonical(*local), client.peer_addr().unwrap());
        assert_eq!(canonical(*peer), client.local_addr().unwrap());
        assert!(established);
    }
    clients[1].write_all(&[0; 1000]).unwrap();
    let after = read();
    assert_eq!(after[1].3, before[1].3 + 1000, "received");
    assert_eq!((after[0].3, after[2].3), (before[0].3, before[2].3));
    script.tell("accepted[1].send(b'x' * 10)");
    clients[1].read_exact(&mut [0; 10]).unwrap();
    until("the acknowledgement", || read()[1].3 == before[1].3 + 1010);
    script.tell("accepted.pop(1).close()");
    drop(clients.remove(1));
    until("its end", || read().len() == 2);
}

/// More connections than fit into one request, some of these of proper IPv6, some at addresses
/// outside of the planes, which only a cgroup, or a walk over all, finds.
#[test]
fn many_connections_are_found_in_their_order() {
    let listeners = [
        TcpListener::bind("127.77.254.31:0").unwrap(),
        TcpListener::bind("[::1]:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    ];
    let pairs: Vec<_> = (0..100)
        .map(|number| {
            let listener = &listeners[number % 3];
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap().0)
        })
        .collect();
    let inodes: HashMap<u64, &TcpStream> = pairs
        .iter()
        .map(|(_, server)| (socket::inode(server.as_fd()).unwrap(), server))
        .collect();
    let known = traffic::search(&inodes.keys().copied().collect(), PLANES, &[]).unwrap();
    assert_eq!(known.len(), 100);
    let read = traffic::read(&known).unwrap();
    for (known, connection) in known.iter().zip(read) {
        let server = inodes[&known.inode];
        let connection = connection.unwrap();
        assert_eq!(connection.local, server.local_addr().unwrap());
        assert_eq!(connection.peer, server.peer_addr().unwrap());
    }
    drop(pairs);
    until("their end", || {
        let read = traffic::read(&known).unwrap();
        read.iter().flatten().all(|one| !one.established)
    });
}

/// socket(7), SO_BINDTODEVICE: a socket bound to an interface is only found by a request that names
/// the interface (net/ipv4/inet_hashtables.c, inet_match).
#[test]
fn a_connection_that_is_bound_to_an_interface_is_found() {
    let (listener, address) = crate::listener();
    let mut script = Script::start("import socket\ns = socket.socket()");
    script.tell("s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo\\0')");
    script.tell(&format!("s.connect({:?})", (address.ip().to_string(), address.port())));
    let _accepted = listener.accept().unwrap();
    let sockets = traffic::sockets(&[script.pid()]);
    let known = traffic::search(&sockets.keys().copied().collect(), PLANES, &[]).unwrap();
    assert_eq!(known.len(), 1);
    let at = sockets[&known[0].inode];
    assert_eq!(of_held(at.pid, at.number), Ok(Some(known[0])));
    let found = traffic::read(&known).unwrap();
    assert_eq!(
        found[0].map(|found| (found.peer, found.established)),
        Some((address, true))
    );
}

/// connect(2): a connection that is being made counts as a connection, but getpeername(2) does not
/// return the peer.
#[test]
fn a_connection_that_is_being_made_is_not_taken_for_none() {
    let (listener, address) = crate::listener();
    rustix::net::listen(&listener, 0).unwrap();
    let mut script = Script::start("import socket\nsockets = []");
    let connect = format!(
        "sockets[-1].connect_ex({:?})",
        (address.ip().to_string(), address.port())
    );
    // The first two have room in the queue.
    for _ in 0..4 {
        script.tell("sockets.append(socket.socket()); sockets[-1].setblocking(False)");
        script.ask(&connect);
    }
    let number: i32 = script.ask("sockets[-1].fileno()").parse().unwrap();
    assert_eq!(of_held(script.pid(), number), Err(nix::errno::Errno::ENOTCONN));
    let number: i32 = script.ask("sockets[0].fileno()").parse().unwrap();
    assert!(of_held(script.pid(), number).unwrap().is_some());
}

/// pidfd_getfd(2) holds a descriptor open. readlink(2) of the link, a read of the link's
/// attributes, and sock_diag(7) do not: FIN goes out with the program's close(2), and later looks
/// find no connection.
#[test]
fn looking_at_a_connection_holds_nothing_of_it() {
    let (mut script, mut clients) = server();
    let known = known(&script);
    assert!(traffic::read(&known).unwrap().iter().all(Option::is_some));
    assert_eq!(script.ask("accepted.pop(0).close()"), "None");
    let mut end = [0; 1];
    clients[0].set_nonblocking(true).unwrap();
    assert_eq!(clients[0].read(&mut end).unwrap(), 0, "its end has come");
}

/// socket(7): the values of SO_RCVTIMEO and SO_SNDTIMEO, in microseconds.
#[test]
fn timeouts_of_sockets_are_read() {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    assert_eq!(socket::receive_timeout(socket.as_fd()), Ok(None));
    let stream = TcpStream::from(socket);
    let timeout = std::time::Duration::from_millis(2500);
    stream.set_read_timeout(Some(timeout)).unwrap();
    assert_eq!(socket::receive_timeout(stream.as_fd()), Ok(Some(timeout)));
    assert_eq!(socket::send_timeout(stream.as_fd()), Ok(None));
}
