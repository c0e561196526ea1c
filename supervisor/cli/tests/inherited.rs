//! A connection that boots a program inherits the settings of the program's listener, as natively:
//! all of them, and no others.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use common::{Background, Project, client};

const COMPOSE: &str = r#"
services:
  four-plain: { command: [python3, "@dir@/server.py", AF_INET, plain, "7000"], expose: ["7000"] }
  four-set: { command: [python3, "@dir@/server.py", AF_INET, set, "7000"], expose: ["7000"] }
  six-plain: { command: [python3, "@dir@/server.py", AF_INET6, plain, "7000"], expose: ["7000"] }
  six-set: { command: [python3, "@dir@/server.py", AF_INET6, set, "7000"], expose: ["7000"] }
"#;

/// Prints the options of each connection: numbers that libc's headers have and Python's socket has
/// not are from include/uapi/asm-generic/socket.h and linux/tcp.h.
const SERVER: &str = "
import socket, sys
s = socket.socket(getattr(socket, sys.argv[1]))
SOCKET, TCP, IP, IPV6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
options = {
    'priority': (SOCKET, socket.SO_PRIORITY, 5), 'keepalive': (SOCKET, socket.SO_KEEPALIVE, 1), 'timestamping': (SOCKET, 37, 16),
    'pacing': (SOCKET, 47, 100000), 'sndbuf': (SOCKET, socket.SO_SNDBUF, 40000), 'rcvbuf': (SOCKET, socket.SO_RCVBUF, 40000), 'zerocopy': (SOCKET, 60, 1),
    'nodelay': (TCP, socket.TCP_NODELAY, 1), 'defer': (TCP, socket.TCP_DEFER_ACCEPT, 2), 'inq': (TCP, 36, 1), 'save_syn': (TCP, 27, 1),
    'tos': (IP, socket.IP_TOS, 16), 'ttl': (IP, socket.IP_TTL, 33), 'recvopts': (IP, socket.IP_RECVOPTS, 1),
}
if s.family == socket.AF_INET6: options |= {'class': (IPV6, socket.IPV6_TCLASS, 16), 'hops': (IPV6, socket.IPV6_UNICAST_HOPS, 33)}
if sys.argv[2] == 'set':
    for level, name, value in options.values(): s.setsockopt(level, name, value)
s.setsockopt(SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[3])))
s.listen()
print('listening', flush=True)
while True:
    taken, _ = s.accept()
    # The kernel enlarges what nobody has set, by what it has measured.
    said = [f'{which}={min(taken.getsockopt(level, name), 200000)}' for which, (level, name, _) in options.items()]
    taken.recv(1)
    taken.sendall(' '.join(said).encode())
    taken.close()
";

/// A client that waits for a byte (TCP_DEFER_ACCEPT) has one.
fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = client::connect(address).unwrap();
    stream.write_all(b"?").unwrap();
    stream
}

fn ask(address: SocketAddr) -> String {
    let mut said = String::new();
    connect(address).read_to_string(&mut said).unwrap();
    said
}

/// The server's native output, at a free port: another process may be quicker to take the port.
fn natively(project: &Project, family: &str, mode: &str) -> String {
    let said = (0..10).find_map(|_| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = project.command("python3", &["server.py", family, mode, &port.to_string()]);
        let mut running = Background::spawn(command, Stdio::piped());
        let mut line = String::new();
        let output = running.child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        (line == "listening\n").then(|| ask(SocketAddr::from(([127, 0, 0, 1], port))))
    });
    said.expect("the server listens")
}

#[test]
fn who_boots_a_program_has_the_options_of_its_listener() {
    let project = Project::new("inherited", COMPOSE);
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    project.ok(&["up", "-d"]);
    for (name, family) in [("four", "AF_INET"), ("six", "AF_INET6")] {
        for mode in ["plain", "set"] {
            let natively = natively(&project, family, mode);
            let host = format!("{name}-{mode}");
            for which in ["boots it", "comes later"] {
                assert_eq!(ask(project.at(&host, 7000)), natively, "{host}, the one that {which}");
            }
        }
    }
}
