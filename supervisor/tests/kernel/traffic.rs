//! What moved on a host's connections: tcp(7), TCP_INFO; sock_diag(7).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use imsup_supervisor::kernel::socket;
use imsup_supervisor::kernel::traffic::{self, Connection};
use rustix::net::{AddressFamily, SocketType};

use crate::script::Script;

const PLANES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(127, 77, 254, 31),
    Ipv4Addr::new(127, 78, 254, 31),
    Ipv4Addr::new(127, 79, 254, 31),
];

/// A Python process that has accepted one connection on a dual-stack socket in each plane.
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

/// Both ways find the same connections, with the same bytes.
#[test]
fn connections_are_found_by_descriptor_and_by_address() {
    let (mut script, mut clients) = server();
    let sorted = |mut found: Vec<Connection>| {
        found.sort_unstable_by_key(|connection| (connection.local, connection.peer));
        found
            .into_iter()
            .map(|c| (c.local, c.peer, c.established, c.bytes))
            .collect::<Vec<_>>()
    };
    let look = || {
        let by_descriptors = sorted(traffic::by_descriptors(&[script.pid()]).unwrap());
        assert_eq!(sorted(traffic::by_addresses(PLANES).unwrap()), by_descriptors);
        assert_eq!(
            sorted(traffic::connections(&[script.pid()], PLANES).unwrap()),
            by_descriptors
        );
        by_descriptors
    };
    let before = look();
    assert_eq!(before.len(), 3, "no listeners, no datagram sockets: {before:?}");
    for (client, (local, peer, established, _)) in clients.iter().zip(&before) {
        assert_eq!(canonical(*local), client.peer_addr().unwrap());
        assert_eq!(canonical(*peer), client.local_addr().unwrap());
        assert!(established);
    }
    clients[1].write_all(&[0; 1000]).unwrap();
    let after = look();
    assert_eq!(after[1].3, before[1].3 + 1000, "received");
    assert_eq!((after[0].3, after[2].3), (before[0].3, before[2].3));
    script.tell("accepted[1].send(b'x' * 10)");
    clients[1].read_exact(&mut [0; 10]).unwrap();
    let look = || traffic::by_descriptors(&[script.pid()]).unwrap();
    crate::script::until("the acknowledgement", || {
        look().iter().any(|c| c.bytes == before[1].3 + 1010)
    });
}

/// One that waits to be accepted is found by its address; one that both have closed is no connection any more.
#[test]
fn what_waits_in_a_queue_is_found_by_address() {
    let vip = Ipv4Addr::new(127, 77, 254, 32);
    let planes = [vip, Ipv4Addr::new(127, 78, 254, 32), Ipv4Addr::new(127, 79, 254, 32)];
    let listener = TcpListener::bind((vip, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let found = traffic::by_addresses(planes).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].peer, client.local_addr().unwrap());
    assert!(found[0].established);
    drop(listener.accept().unwrap());
    drop(client);
    crate::script::until("the end", || traffic::by_addresses(planes).unwrap().is_empty());
}

/// socket(7): what SO_RCVTIMEO and SO_SNDTIMEO say, in microseconds.
#[test]
fn timeouts_of_sockets_are_read() {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(socket::receive_timeout(socket.as_fd()), Ok(None));
    let stream = TcpStream::from(socket);
    let timeout = std::time::Duration::from_millis(2500);
    stream.set_read_timeout(Some(timeout)).unwrap();
    assert_eq!(socket::receive_timeout(stream.as_fd()), Ok(Some(timeout)));
    assert_eq!(socket::send_timeout(stream.as_fd()), Ok(None));
}
