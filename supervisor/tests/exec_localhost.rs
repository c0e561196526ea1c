//! What a command of `imsup exec` reaches at localhost: the host's servers, of which its own supervisor has not seen that they listen.

mod common;

use common::{Project, network};

/// A server of datagrams at the address and the port that are given.
const SERVER: &str = r"
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
door = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
door.bind((address, port))
while True:
    door.sendto(b'%d' % port, door.recvfrom(100)[1])
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
    // Port 53 is for who may have it.
    if !network::is_own() {
        return;
    }
    let project = up("execs", "53");
    expect(&project, "any", "53", &["127.0.0.1"]);
    expect(&project, "local", "53", &["127.0.0.1"]);
}
