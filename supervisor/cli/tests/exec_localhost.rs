//! Localhost for a command of `imsup exec`: the host's servers, whose listens its own supervisor
//! has not seen, and not the machine's.

mod common;

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use common::{Project, network};

/// A server of datagrams at the address and the port that are given.
const SERVER: &str = r"
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
server = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
server.bind((address, port))
while True:
    server.sendto(b'%d' % port, server.recvfrom(100)[1])
";

/// Asks at each address, by sendto(2) and by connect(2).
const CLIENT: &str = r"
import socket, sys
for address in sys.argv[2:]:
    for connects in (False, True):
        client = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(60)
        there = (address, int(sys.argv[1]))
        if connects:
            client.connect(there)
            client.send(b'?')
        else:
            client.sendto(b'?', there)
        print(address, client.recv(100).decode())
";

/// Asks 127.0.0.1 for the address of the host `any`, which ends the answer.
const QUESTION: &str = r"
import socket, sys
question = b'\0\7\1\0\0\1\0\0\0\0\0\0\3any\0\0\1\0\1'
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM if sys.argv[1] == 'tcp' else socket.SOCK_DGRAM)
client.settimeout(60)
server = ('127.0.0.1', 53)
if sys.argv[1] == 'sendto': client.sendto(question, server)
else: client.connect(server)
if sys.argv[1] == 'connect': client.send(question)
if sys.argv[1] == 'tcp': client.sendall(len(question).to_bytes(2, 'big') + question)
# Over TCP the length may come by itself.
length = int.from_bytes(client.recv(2, socket.MSG_WAITALL), 'big') if sys.argv[1] == 'tcp' else 512
print(socket.inet_ntoa(client.recv(length, socket.MSG_WAITALL if sys.argv[1] == 'tcp' else 0)[-4:]))
";

fn up(label: &str, port: &str) -> Project {
    let service = |name: &str, address: &str| {
        format!("  {name}: {{ command: [python3, \"@dir@/server.py\", \"{address}\", \"{port}\"] }}\n")
    };
    let services: String = [
        ("any", "0.0.0.0"),
        ("both", "::"),
        ("local", "127.0.0.1"),
        ("six", "::1"),
    ]
    .map(|(name, address)| service(name, address))
    .concat();
    let project = Project::new(label, &format!("services:\n{services}"));
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    project.ok(&["up", "-d"]);
    project
}

#[track_caller]
fn expect(project: &Project, host: &str, port: &str, addresses: &[&str]) {
    let command = [&["exec", host, "--", "python3", "-c", CLIENT, port], addresses].concat();
    let expected: String = addresses
        .iter()
        .map(|address| format!("{address} {port}\n").repeat(2))
        .collect();
    assert_eq!(project.ok(&command), expected, "{host}");
}

#[test]
fn a_command_reaches_the_hosts_datagram_servers_at_localhost() {
    let project = up("execs", "5353");
    expect(&project, "any", "5353", &["127.0.0.1"]);
    expect(&project, "both", "5353", &["127.0.0.1", "::1"]);
    expect(&project, "local", "5353", &["127.0.0.1"]);
    expect(&project, "six", "5353", &["::1"]);
}

#[test]
fn a_command_reaches_the_hosts_name_server_at_localhost() {
    // Port 53 needs a privilege.
    if !network::is_own() {
        return;
    }
    let project = up("execs", "53");
    expect(&project, "any", "53", &["127.0.0.1"]);
    expect(&project, "local", "53", &["127.0.0.1"]);
}

/// A name server of the machine's, at its wildcard, is not the host's, although it conflicts with
/// binds at the host's addresses.
#[test]
fn a_command_is_not_redirected_to_the_machines_name_server() {
    if !network::is_own() {
        return;
    }
    let datagrams = UdpSocket::bind("0.0.0.0:53").unwrap();
    let listener = TcpListener::bind("0.0.0.0:53").unwrap();
    let project = up("execs", "5353");
    let address = project.host("any").address.to_string();
    for way in ["sendto", "connect", "tcp"] {
        assert_eq!(
            project.ok(&["exec", "any", "--", "python3", "-c", QUESTION, way]),
            format!("{address}\n"),
            "{way}"
        );
    }
    datagrams.set_nonblocking(true).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(datagrams.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
