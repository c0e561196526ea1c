//! A program that was booted by a connection sees connections of the family that it binds, exactly
//! as natively: addresses, options, flags, and no others.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use common::{Background, Project, client, guest};

const MODES: [&str; 7] = ["block", "pollblock", "poll", "edge", "defer", "threads", "prefork"];
const FAMILIES: [&str; 2] = ["4", "6"];

/// A host for each family and mode, which listens once [`may_listen`] says so.
fn compose() -> String {
    let mut text = "services:\n".to_owned();
    for (family, mode) in all() {
        text += &format!(
            "  {mode}{family}: {{ command: [\"@guests@/families\", \"{family}\", {mode}, \"7000\", \"@dir@/may-listen\"], expose: [\"7000\"] }}\n"
        );
    }
    text
}

/// Whether the programs of [`compose`] may listen.
fn may_listen(project: &Project, may: bool) {
    let file = project.path("may-listen");
    match may {
        true => std::fs::write(file, "").unwrap(),
        false => drop(std::fs::remove_file(file)),
    }
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    FAMILIES
        .into_iter()
        .flat_map(|family| MODES.into_iter().map(move |mode| (family, mode)))
}

/// The guest's native output about a connection.
fn natively(project: &Project, family: &str, mode: &str) -> String {
    let (_running, port) = listening(|port| project.command(guest("families"), &[family, mode, port]));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let facts = ask(&mut connect(address, "ask"));
    assert_eq!(ask(&mut connect(address, "count")), "accepted=2 spurious=0");
    facts
}

/// Runs a program with a free port, and waits until it listens. Another process of the machine may
/// be quicker to take the port.
fn listening(command: impl Fn(&str) -> std::process::Command) -> (Background, u16) {
    let started = (0..10).find_map(|_| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut running = Background::spawn(command(&port.to_string()), Stdio::piped());
        let mut said = String::new();
        let output = running.child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        (said == "listening\n").then_some((running, port))
    });
    started.expect("the program listens")
}

fn connect(address: SocketAddr, line: &str) -> TcpStream {
    let mut stream = client::connect(address).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    stream
}

/// All that is answered.
fn ask(stream: &mut TcpStream) -> String {
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.trim_end().to_owned()
}

/// The facts without the signs that a peer had closed before the accept: the kernel converts no
/// such socket.
fn without_domain(facts: &str) -> String {
    let (before, connection) = facts.split_once(" of the connection:").unwrap();
    let kept = connection.split(' ').filter(|word| {
        !["domain=", "v6only=", "tclass=", "hops=", "set_tclass=", "set_hops="]
            .iter()
            .any(|name| word.starts_with(name))
    });
    format!("{before}{}", kept.collect::<Vec<_>>().join(" "))
}

/// The kernel's facts about a connection that it did not convert.
fn domain(facts: &str) -> &str {
    let connection = facts.split(" of the connection: ").nth(1).unwrap();
    connection.split(' ').next().unwrap()
}

/// Boots a host with several connections at once, and compares each one's facts; then some more,
/// once it runs.
fn boot_and_compare(project: &Project, natively: &str, host: &str) {
    let address = project.at(host, 7000);
    may_listen(project, false);
    let mut waiting: Vec<TcpStream> = (0..5).map(|_| connect(address, "ask")).collect();
    let mut closed = connect(address, "ask");
    closed.shutdown(Shutdown::Write).unwrap();
    // All have arrived by now: the guest changes options of its listener for a moment, which a new
    // connection would inherit.
    may_listen(project, true);
    for stream in &mut waiting {
        assert_eq!(ask(stream), natively, "{host}: one that waited");
    }
    assert_eq!(
        without_domain(&ask(&mut closed)),
        without_domain(natively),
        "{host}: one that had closed its side"
    );
    for _ in 0..3 {
        assert_eq!(
            ask(&mut connect(address, "ask")),
            natively,
            "{host}: one that came later"
        );
    }
    assert_eq!(ask(&mut connect(address, "count")), "accepted=10 spurious=0", "{host}");
}

#[test]
fn whoever_boots_a_program_is_seen_as_natively() {
    let project = Project::up("families", &compose());
    for (family, mode) in all() {
        let natively = natively(&project, family, mode);
        boot_and_compare(&project, &natively, &format!("{mode}{family}"));
    }
}

#[test]
fn a_connection_that_was_half_closed_before_it_was_accepted_has_options_of_ipv6() {
    let project = Project::up("families", &compose());
    let mut closed = connect(project.at("block4", 7000), "ask");
    closed.shutdown(Shutdown::Write).unwrap();
    may_listen(&project, true);
    let facts = ask(&mut closed);
    assert_eq!(domain(&facts), format!("domain={}", libc::AF_INET6), "{facts}");
    assert_eq!(
        without_domain(&facts),
        without_domain(&natively(&project, "4", "block"))
    );
    let facts = ask(&mut connect(project.at("block4", 7000), "ask"));
    assert_eq!(domain(&facts), format!("domain={}", libc::AF_INET), "{facts}");
}

/// The same without duplicates of descriptors.
#[test]
fn so_it_is_with_copies() {
    let compose = compose().replace(
        "expose:",
        "environment: { IMSUP_WITHOUT: \"pidfd_getfd,process_vm_readv\" }, expose:",
    );
    let project = Project::up("families", &compose);
    for (family, mode) in all() {
        let natively = natively(&project, family, mode);
        boot_and_compare(&project, &natively, &format!("{mode}{family}"));
    }
}

#[test]
fn later_boots_are_as_the_first_and_trap_no_accept() {
    let compose = compose().replace("expose:", "environment: { IMSUP_TRACE: \"1\" }, expose:");
    let project = Project::up("families", &compose);
    let log = |host: &str| project.ok(&["logs", host]);
    for (family, mode) in [("4", "block"), ("6", "edge"), ("4", "prefork"), ("6", "threads")] {
        let natively = natively(&project, family, mode);
        let host = format!("{mode}{family}");
        boot_and_compare(&project, &natively, &host);
        project.ok(&["stop", &host]);
        let trapped = log(&host).matches("accept").count();
        assert!(trapped > 0, "{}", log(&host));
        for _ in 0..2 {
            boot_and_compare(&project, &natively, &host);
            project.ok(&["stop", &host]);
            assert_eq!(log(&host).matches("accept").count(), trapped, "{}", log(&host));
        }
    }
}

/// Learned families are known after `down`, too; but then the broker has made the listener, with
/// options of its own.
#[test]
fn who_waits_for_the_first_boot_after_up_has_options_of_no_listener() {
    let compose = compose().replace("expose:", "environment: { IMSUP_TRACE: \"1\" }, expose:");
    let project = Project::up("families", &compose);
    for (family, mode) in [("4", "block"), ("6", "poll")] {
        let natively = natively(&project, family, mode);
        let host = format!("{mode}{family}");
        boot_and_compare(&project, &natively, &host);
        project.ok(&["down"]);
        project.ok(&["up", "-d"]);
        let said = ask(&mut connect(project.at(&host, 7000), "ask"));
        let (before, after) = natively.rsplit_once(" keepalive=1 nodelay=1 reuseport=0").unwrap();
        assert_eq!(
            said,
            format!("{before} keepalive=0 nodelay=0 reuseport=1{after}"),
            "{host}"
        );
        assert_eq!(ask(&mut connect(project.at(&host, 7000), "ask")), natively, "{host}");
        let log = project.ok(&["logs", &host]);
        assert!(log.contains("listen("), "the calls are traced: {log}");
        assert!(!log.contains("accept"), "{log}");
    }
}

/// A port that is declared and never listened on has no influence, once a start was seen to its
/// end.
#[test]
fn a_port_that_is_not_used_is_nothing_to_learn() {
    const COMPOSE: &str = r#"
services:
  web:
    command: ["@guests@/families", "4", poll, "7000"]
    expose: ["7000", "7001"]
    environment: { IMSUP_TRACE: "1" }
"#;
    let project = Project::up("families", COMPOSE);
    let trapped = || project.ok(&["logs", "web"]).matches("accept").count();
    ask(&mut connect(project.at("web", 7000), "ask"));
    let learned = || std::fs::read_to_string(project.path("state/projects.json")).unwrap();
    // The key of a map. Other numbers may have the same digits: the test's pid in the project's
    // name, the hash of the program.
    common::wait_until("the start to be over", || learned().contains("\"7001\":"));
    project.ok(&["stop", "web"]);
    let before = trapped();
    assert!(before > 0);
    for _ in 0..2 {
        ask(&mut connect(project.at("web", 7000), "ask"));
        project.ok(&["stop", "web"]);
        assert_eq!(trapped(), before);
    }
}

/// Connections that wait when a program dies are the signal of its next boot, whatever has become
/// of its listener.
#[test]
fn who_waits_for_a_program_that_dies_is_answered_by_the_next() {
    const COMPOSE: &str = r#"
services:
  dies:
    command: [python3, "@dir@/server.py"]
    expose: ["7000"]
"#;
    const SERVER: &str = "
import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', 7000)); s.listen(8)
if not os.path.exists('once'):
    open('once', 'w').close()
    os._exit(1)
while True:
    c, peer = s.accept(); c.recv(9); c.sendall(repr((peer[0], c.family.name, len(peer))).encode()); c.close()
";
    let project = Project::new("families", COMPOSE);
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    project.ok(&["up", "-d"]);
    let address = project.at("dies", 7000);
    let mut waiting: Vec<_> = (0..4).map(|_| connect(address, "ask")).collect();
    for stream in &mut waiting {
        assert_eq!(ask(stream), "('127.0.0.1', 'AF_INET', 2)");
    }
    assert_eq!(project.host("dies").boots, 2);
}

/// A program may bind another family than at its last boot, for invisible reasons.
#[test]
fn a_family_that_changes_is_learned_anew() {
    const COMPOSE: &str = r#"
services:
  changes:
    command: [python3, "@dir@/server.py"]
    expose: ["7000"]
"#;
    const SERVER: &str = "
import os, socket
s = socket.socket(getattr(socket, open('family').read()))
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', 7000)); s.listen(8)
while True:
    c, peer = s.accept(); c.recv(9); c.sendall(('%s %d' % (s.family.name, len(peer))).encode()); c.close()
";
    let project = Project::new("families", COMPOSE);
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    let family = |name: &str| std::fs::write(project.path("family"), name).unwrap();
    family("AF_INET");
    project.ok(&["up", "-d"]);
    let boot = || {
        let said = ask(&mut connect(project.at("changes", 7000), "ask"));
        project.ok(&["stop", "changes"]);
        said
    };
    // The boot with the changed family has connections of the family before; the next boot is
    // exact.
    for (name, at_first, said) in [
        ("AF_INET", "AF_INET 2", "AF_INET 2"),
        ("AF_INET6", "AF_INET6 2", "AF_INET6 4"),
        ("AF_INET", "AF_INET 4", "AF_INET 2"),
        ("AF_INET6", "AF_INET6 2", "AF_INET6 4"),
        ("AF_INET", "AF_INET 4", "AF_INET 2"),
    ] {
        family(name);
        assert_eq!(boot(), at_first);
        for _ in 0..2 {
            assert_eq!(boot(), said);
        }
    }
}

/// Another program may take a host's place, and bind any family.
#[test]
fn another_program_in_a_hosts_part_is_another() {
    const COMPOSE: &str = "services: { web: { command: [\"@guests@/families\", \"6\", poll, \"7000\"], expose: [\"7000\"], x-imsup: { idle_after: 1h } } }\n";
    let project = Project::up("families", COMPOSE);
    let (six, four) = (natively(&project, "6", "poll"), natively(&project, "4", "edge"));
    let program = guest("families");
    for _ in 0..2 {
        // At the second boot the broker has made the listener: the options are the broker's, and
        // the family is the learned one.
        let addresses = |facts: &str| facts.split(" flags").next().unwrap().to_owned();
        let first = ask(&mut connect(project.at("web", 7000), "ask"));
        assert_eq!(addresses(&first), addresses(&six));
        assert_eq!(ask(&mut connect(project.at("web", 7000), "ask")), six);
        project.ok(&["stop", "web"]);
        let started = [
            "run",
            "--host",
            "web",
            "--",
            program.to_str().unwrap(),
            "4",
            "edge",
            "7000",
        ];
        let _running = Background::collecting(project.imsup_command(&started));
        project.wait_state("web", "running");
        for _ in 0..2 {
            assert_eq!(ask(&mut connect(project.at("web", 7000), "ask")), four);
        }
        project.ok(&["stop", "web"]);
    }
}

/// A non-blocking caller has a listener made for it before the program has bound any port.
#[test]
fn undeclared_ports_are_of_the_programs_family_too() {
    const COMPOSE: &str = r#"
services:
  four: { command: ["@guests@/families", "4", poll, "7000", "@dir@/may-listen"] }
  six: { command: ["@guests@/families", "6", poll, "7000", "@dir@/may-listen"] }
"#;
    let project = Project::up("families", COMPOSE);
    for (host, family) in [("four", "4"), ("six", "6")] {
        let natively = natively(&project, family, "poll");
        may_listen(&project, false);
        let client = format!(
            "import socket, select
s = socket.socket(); s.setblocking(False)
try: s.connect(('{host}', 7000))
except BlockingIOError: pass
open('may-listen', 'w').close()
select.select([], [s], []); s.setblocking(True); s.sendall(b'ask\\n')
said = b''
while (part := s.recv(4096)): said += part
print(said.decode().strip().replace(socket.gethostbyname(socket.gethostname()), '127.0.0.1'))"
        );
        let said = project.run(&["python3", "-c", &client]).expect_success("the client");
        assert_eq!(said.trim(), natively.trim(), "{host}");
    }
}

/// Datagrams, too: the first, which boots the program, and later ones, at the first boot and at
/// later ones, with any earlier family.
#[test]
fn datagrams_are_of_the_programs_family() {
    const COMPOSE: &str = r#"
services:
  changes: { command: [python3, "@dir@/server.py", "7000"], expose: ["7000/udp"] }
"#;
    const SERVER: &str = "
import socket, sys
family = getattr(socket, open('family').read())
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
else: s.setsockopt(socket.IPPROTO_IP, 8, 1)
s.bind(('', int(sys.argv[1])))
print('listening', flush=True)
def option(level, name):
    try: return s.getsockopt(level, name)
    except OSError as error: return error.errno
while True:
    data, controls, flags, peer = s.recvmsg(64, 512)
    said = [data, sorted((level, kind, len(value)) for level, kind, value in controls), flags, peer[0], len(peer), len(s.getsockname()), s.getsockname()[0]]
    said += [option(socket.SOL_SOCKET, socket.SO_DOMAIN)]
    said += [option(socket.IPPROTO_IPV6, name) for name in (socket.IPV6_V6ONLY, socket.IPV6_TCLASS, socket.IPV6_RECVPKTINFO, socket.IPV6_UNICAST_HOPS)]
    s.sendto(repr(said).encode(), peer)
    # An address of the form that it was shown: sendmsg, too.
    s.sendmsg([b'again'], [], 0, peer)
";
    let project = Project::new("families", COMPOSE);
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    let family = |name: &str| std::fs::write(project.path("family"), name).unwrap();
    let ask = |address: SocketAddr| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(common::LIMIT)).unwrap();
        socket.send_to(b"ask", address).unwrap();
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).unwrap();
        let said = String::from_utf8_lossy(&answer[..length]).into_owned();
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"again");
        said
    };
    let natively: BTreeMap<&str, String> = ["AF_INET", "AF_INET6"]
        .into_iter()
        .map(|name| {
            family(name);
            let (_running, port) = listening(|port| project.command("python3", &["server.py", port]));
            (name, ask(SocketAddr::from(([127, 0, 0, 1], port))))
        })
        .collect();
    project.ok(&["up", "-d"]);
    for name in ["AF_INET", "AF_INET", "AF_INET6", "AF_INET6", "AF_INET"] {
        family(name);
        for which in ["the first", "the second"] {
            assert_eq!(ask(project.at("changes", 7000)), natively[name], "{which}");
        }
        project.ok(&["stop", "changes"]);
    }
}

/// Programs with unusual listeners, at their first boot: workers with a listener each; few
/// descriptors; a program so slow over each connection that it sleeps meanwhile; a program that
/// listens again.
#[test]
fn whoever_waits_is_served_by_peculiar_programs() {
    const COMPOSE: &str = r#"
services:
  workers: { command: [python3, "@dir@/server.py", workers], expose: ["7000"] }
  poor: { command: [python3, "@dir@/server.py", poor], expose: ["7000"] }
  slow: { command: [python3, "@dir@/server.py", slow], expose: ["7000"], x-imsup: { idle_after: 50ms } }
  again: { command: [python3, "@dir@/server.py", again], expose: ["7000"] }
"#;
    const SERVER: &str = "
import errno, os, resource, select, socket, sys, time
kind = sys.argv[1]
while not os.path.exists('all-wait-for-' + kind): time.sleep(0.01)
def listen(reuse_port=False):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('', 7000))
    return s
def serve(s):
    c, peer = s.accept()
    assert (c.family, len(peer), peer[0]) == (socket.AF_INET, 2, '127.0.0.1'), (c, peer)
    c.recv(9); c.sendall(kind.encode()); c.close()
if kind == 'workers':
    # As gunicorn and HAProxy have it: all bind, then all listen.
    listeners = [listen(True) for _ in range(4)]
    for s in listeners: s.listen(64)
    for s in listeners[1:]:
        if os.fork() == 0:
            while True:
                select.select([s], [], []); s.setblocking(False)
                try: serve(s)
                except BlockingIOError: pass
    while True: serve(listeners[0])
s = listen()
s.listen(64)
if kind == 'poor':
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (s.fileno() + 1, hard))
    for _ in range(3):
        select.select([s], [], [])
        try: s.accept()
        except OSError as error: assert error.errno == errno.EMFILE, error
        else: sys.exit('accepted')
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
if kind == 'again':
    # Natively those that wait are reset; here the first of them is served, so that it is known when it has happened.
    serve(s)
    s.close()
    s = listen()
    s.listen(64)
while True:
    select.select([s], [], [])
    serve(s)
";
    let project = Project::new("families", COMPOSE);
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let all_wait = |host: &str| std::fs::write(project.path(&format!("all-wait-for-{host}")), "").unwrap();
    for host in ["workers", "poor", "slow"] {
        let address = project.at(host, 7000);
        let mut waiting: Vec<_> = (0..6).map(|_| client::connect(address).unwrap()).collect();
        all_wait(host);
        for (before, stream) in waiting.iter_mut().enumerate() {
            if host == "slow" {
                // The program has accepted this connection, and waits for its input; the others
                // wait meanwhile.
                watch.slept_again("slow", before);
            }
            stream.write_all(b"ask\n").unwrap();
            assert_eq!(ask(stream), host);
        }
        assert_eq!(ask(&mut connect(project.at(host, 7000), "ask")), host);
        assert_eq!(project.host(host).boots, 1);
    }
    // The first has sent no byte until the others wait as well.
    let mut first = client::connect(project.at("again", 7000)).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| connect(project.at("again", 7000), "ask")).collect();
    all_wait("again");
    first.write_all(b"ask\n").unwrap();
    assert_eq!(ask(&mut first), "again");
    for stream in &mut waiting {
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    // Until the program listens anew, connects are refused as natively.
    let mut later = None;
    common::wait_until("the second listener", || {
        later = client::connect(project.at("again", 7000)).ok();
        later.is_some()
    });
    let mut later = later.unwrap();
    later.write_all(b"ask\n").unwrap();
    assert_eq!(ask(&mut later), "again");
}

/// The view of runtimes, which read addresses in their own ways.
#[test]
fn runtimes_see_whoever_boots_them_as_natively() {
    common::need(&["python3", "node", "perl"]);
    const PYTHON: &str = "
import socket, socketserver, sys
class Server(socketserver.ThreadingTCPServer):
    address_family = getattr(socket, sys.argv[1]); allow_reuse_address = True
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        if Server.address_family == socket.AF_INET6: ip, port, flow, scope = self.client_address
        else: ip, port = self.client_address
        self.wfile.write(repr((ip, self.request.family, self.request.getpeername()[0], len(self.request.getsockname()))).encode())
server = Server(('', int(sys.argv[2])), Handler)
print('listening', flush=True)
server.serve_forever()
";
    const NODE: &str = "
const server = require('net').createServer(c => c.once('data', () => c.end([c.remoteAddress, c.remoteFamily, c.localFamily, server.address().family].join(' '))))
server.listen(Number(process.argv[3]), process.argv[2] == 'AF_INET' ? '0.0.0.0' : '::', () => console.log('listening'))
";
    const PERL: &str = "
use Socket qw(:all);
my ($name, $port) = @ARGV;
my $six = $name eq 'AF_INET6';
socket(my $s, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die; setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
bind($s, $six ? pack_sockaddr_in6($port, Socket::IN6ADDR_ANY) : pack_sockaddr_in($port, INADDR_ANY)) or die; listen($s, 8) or die;
$| = 1; print qq(listening\\n);
while (my $peer = accept(my $c, $s)) {
    my ($p, $ip) = $six ? unpack_sockaddr_in6($peer) : unpack_sockaddr_in($peer);
    sysread $c, my $line, 9;
    syswrite $c, join ' ', inet_ntop($six ? AF_INET6 : AF_INET, $ip), length $peer, length(getsockname $c);
}
";
    let programs = [
        ("python3", "server.py", PYTHON),
        ("node", "server.js", NODE),
        ("perl", "server.pl", PERL),
    ];
    let mut compose = "services:\n".to_owned();
    for (program, file, _) in programs {
        for family in ["AF_INET", "AF_INET6"] {
            let host = format!("{program}-{}", family.to_lowercase().replace('_', "-"));
            compose += &format!(
                "  {host}: {{ command: [{program}, \"@dir@/{file}\", {family}, \"7000\"], expose: [\"7000\"] }}\n"
            );
        }
    }
    let project = Project::new("families", &compose);
    for (_, file, source) in programs {
        std::fs::write(project.path(file), source).unwrap();
    }
    project.ok(&["up", "-d"]);
    for (program, file, _) in programs {
        for family in ["AF_INET", "AF_INET6"] {
            let (_running, port) = listening(|port| project.command(program, &[file, family, port]));
            let natively = ask(&mut connect(SocketAddr::from(([127, 0, 0, 1], port)), "ask"));
            let host = format!("{program}-{}", family.to_lowercase().replace('_', "-"));
            let mut waiting: Vec<_> = (0..3).map(|_| connect(project.at(&host, 7000), "ask")).collect();
            for stream in &mut waiting {
                assert_eq!(ask(stream), natively, "{host}");
            }
            assert_eq!(ask(&mut connect(project.at(&host, 7000), "ask")), natively, "{host}");
        }
    }
}

/// Connections that arrive at the very moment of the program's listen are in one queue or the
/// other.
#[test]
fn nobody_is_lost_while_a_program_begins_to_listen() {
    const HOSTS: usize = 4;
    const CLIENTS: usize = 6;
    const CALLS: usize = 40;
    let mut compose = "services:\n".to_owned();
    let modes = ["block", "edge", "threads", "prefork"];
    for mode in modes {
        for number in 0..HOSTS {
            compose += &format!(
                "  {mode}{number}: {{ command: [\"@guests@/families\", \"4\", {mode}, \"7000\"], expose: [\"7000\"] }}\n"
            );
        }
    }
    let project = Project::up("families", &compose);
    for mode in modes {
        let natively = natively(&project, "4", mode);
        for number in 0..HOSTS {
            let host = format!("{mode}{number}");
            let address = project.at(&host, 7000);
            std::thread::scope(|scope| {
                for _ in 0..CLIENTS {
                    scope.spawn(|| {
                        for _ in 0..CALLS {
                            assert_eq!(ask(&mut connect(address, "ask")), natively, "{host}");
                        }
                    });
                }
            });
            let said = ask(&mut connect(address, "count"));
            assert!(
                said.starts_with(&format!("accepted={} ", CLIENTS * CALLS + 1)),
                "{host}: {said}"
            );
        }
    }
}
