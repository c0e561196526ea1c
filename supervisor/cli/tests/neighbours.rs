//! Other machines of the network do not reach hosts; each test has a neighbour in networks of its
//! own.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use common::client::{ask, ask_datagram};
use common::network::{self, Neighbour};
use common::{Project, wait_until};

/// A question for the address of `web`.
const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";

#[test]
fn a_neighbour_with_a_route_to_another_prefix_reaches_no_host() {
    if network::is_own() {
        nothing_is_reached("10.77.0.0/16", false);
    }
}

#[test]
fn a_neighbour_reaches_no_host_where_127_0_0_0_is_routed() {
    if network::is_own() {
        nothing_is_reached("127.77.0.0/16", true);
    }
}

fn nothing_is_reached(prefix: &str, localnet: bool) {
    let mut neighbour = Neighbour::with_route_to(prefix, localnet);
    let project = Project::up(
        "neighbours",
        &format!(
            r#"
x-imsup: {{ subnet: {prefix} }}
services:
  web: {{ command: ["@guest@", --tcp, "8080", --udp, "8081", --tcp, "9090"], expose: ["8080", "8081/udp"] }}
"#
        ),
    );
    let [web, datagrams, undeclared] = [8080, 8081, 9090].map(|port| project.at("web", port));
    // No host boots.
    assert_eq!(neighbour.try_to_reach(&[web], &[datagrams]), 0, "the host is absent");
    // Nor resolves names.
    let IpAddr::V4(vip) = web.ip() else { panic!("{web}") };
    let [a, b, block, _] = vip.octets();
    let name_server = SocketAddr::from(([a, b, block, 0], 1053));
    assert_eq!(neighbour.try_to_reach(&[name_server], &[name_server]), 0);
    let local = UdpSocket::bind("127.0.0.1:0").unwrap();
    local.send_to(QUESTION, name_server).unwrap();
    // The server answers one after the other.
    let (count, _) = local.recv_from(&mut [0; 512]).unwrap();
    assert!(count > QUESTION.len());
    assert_eq!(neighbour.answered(), 0, "the name server");
    // The machine's own do.
    assert_eq!(ask(web).value("host"), "web");
    let by = project.wait_event("web", "allocate", 1).by;
    assert!(by.as_deref().is_some_and(|by| by.starts_with("127.0.0.1")), "{by:?}");
    assert_eq!(ask_datagram(datagrams).value("host"), "web");
    wait_until("the undeclared port", || {
        std::net::TcpStream::connect(undeclared).is_ok()
    });
    // Nor can it use running hosts: the retained sockets, and the program's own.
    assert_eq!(neighbour.try_to_reach(&[web, undeclared], &[datagrams]), 0, "it runs");
    assert_eq!(ask_datagram(datagrams).value("host"), "web");
    assert_eq!(neighbour.answered(), 0, "a datagram");
    assert_eq!(ask(undeclared).value("host"), "web");
    // A program's own datagram socket, and a socket of another host that talks to hosts.
    let script = "import socket
s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7001))
c = socket.socket(type=socket.SOCK_DGRAM); c.sendto(b'ping', (socket.gethostname(), 7001)); d, p = s.recvfrom(9)
s.sendto(b'pong', p); print(d, c.recvfrom(9)[0])";
    let said = project.run(&["python3", "-c", script]).expect_success("own datagrams");
    assert_eq!(said, "b'ping' b'pong'\n");
}
