//! Datagrams between real programs: the sender that the receiver sees, the host that is booted, and
//! the way to the outside.

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use common::client::{Answer, ask_datagram};
use common::{LIMIT, Project, guest, need, network, source};

const COMPOSE: &str = r#"
services:
  c: { command: ["@guest@", --udp, "9000"], expose: ["9000/udp"] }
  go: { command: ["@guests@/guest-go", -serve-datagrams, ":9000"], expose: ["9000/udp"] }
  python: { command: [python3, "@source@/datagrams.py", serve, "9000"], expose: ["9000/udp"] }
  pktinfo: { command: [python3, "@source@/datagrams.py", serve-from, "9000"], expose: ["9000/udp"] }
  each: { command: [python3, "@source@/datagrams.py", serve-each, "9000"], expose: ["9000/udp"] }
  undeclared: { command: [python3, "@source@/datagrams.py", serve, "9001"] }
"#;

const WAYS: [&str; 14] = [
    "sendto",
    "sendmsg",
    "sendmmsg",
    "connect",
    "bound-sendto",
    "bound-sendmsg",
    "bound-sendmmsg",
    "bound-connect",
    "six-sendto",
    "six-sendmsg",
    "six-connect",
    "six-bound-sendto",
    "six-bound-sendmsg",
    "six-bound-connect",
];

fn script() -> String {
    source("datagrams.py").to_str().unwrap().to_owned()
}

/// The answer to each kind of question: `WAY: ANSWER`, one a line.
#[track_caller]
fn expect_answers(said: &str, ways: &[&str], host: &str, server: SocketAddr, client: Ipv4Addr) {
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), ways.len(), "{said}");
    for (line, way) in lines.iter().zip(ways) {
        let (name, answer) = line.split_once(": ").unwrap();
        let answer = Answer(answer.replace("::ffff:", "").replace(['[', ']'], ""));
        assert_eq!((name, answer.value("host")), (*way, host), "{said}");
        assert_eq!(
            answer.value("from"),
            server.to_string(),
            "the answer comes from where it was asked: {line}"
        );
        assert_eq!(answer.peer(), client.to_string(), "who is seen to ask: {line}");
    }
}

#[test]
fn every_way_of_asking_comes_from_the_callers_address() {
    need(&["python3", "go", "java", "javac"]);
    let project = Project::up("ways", COMPOSE);
    for host in ["c", "go", "python", "pktinfo"] {
        let script = script();
        let mut command = vec!["python3", &script, "ask", host, "9000"];
        command.extend(WAYS);
        let said = project.run(&command).expect_success(host);
        let own = said.lines().find_map(|line| line.split("client=").nth(1)).unwrap();
        assert!(
            own.starts_with("0.0.0.0:"),
            "an unbound socket stays on the wildcard: {said}"
        );
        // A socket that is connected shows the host's own address.
        let connected = said.lines().find(|line| line.starts_with("connect: ")).unwrap();
        let own: SocketAddr = connected.split("client=").nth(1).unwrap().parse().unwrap();
        let SocketAddr::V4(own) = own else { unreachable!() };
        expect_answers(&said, &WAYS, host, project.at(host, 9000), *own.ip());
        assert_eq!(project.host(host).boots, 1);
    }
    let go = guest("guest-go");
    let said = project
        .run(&[go.to_str().unwrap(), "-ask-datagrams", "c:9000"])
        .expect_success("Go");
    let client = peer_of(&said);
    expect_answers(
        &said,
        &["dial", "write-to", "message"],
        "c",
        project.at("c", 9000),
        client,
    );
    let classes = guest("java/Datagrams.class");
    let classes = classes.parent().unwrap().to_str().unwrap();
    let said = project
        .run(&["java", "-cp", classes, "Datagrams", "go", "9000"])
        .expect_success("Java");
    let (answers, port) = said.trim_end().rsplit_once('\n').unwrap();
    let client = peer_of(answers);
    expect_answers(
        answers,
        &["send", "connect", "disconnect"],
        "go",
        project.at("go", 9000),
        client,
    );
    assert_eq!(port, "same port: true");
}

/// The caller's address in the first answer, which must be in the plane of hosts.
#[track_caller]
fn peer_of(said: &str) -> Ipv4Addr {
    let line = said.lines().next().unwrap();
    let peer: Ipv4Addr = Answer(line.to_owned()).peer().parse().unwrap();
    assert_eq!(peer.octets()[..2], [127, 77], "{said}");
    peer
}

#[test]
fn a_client_outside_is_answered_by_servers_of_every_kind() {
    need(&["python3", "go"]);
    let project = Project::up("outside", COMPOSE);
    for host in ["c", "go", "python", "pktinfo"] {
        let address = project.at(host, 9000);
        assert_eq!(ask_datagram(address).value("host"), host);
        // Connected, from the wildcard, and from many at once.
        let connected = UdpSocket::bind("0.0.0.0:0").unwrap();
        connected.set_read_timeout(Some(LIMIT)).unwrap();
        connected.connect(address).unwrap();
        let mut buffer = [0; 2048];
        connected.send(b"hello\n").unwrap();
        let count = connected.recv(&mut buffer).unwrap();
        let answer = Answer(String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned());
        assert_eq!(answer.value("host"), host);
        assert_eq!(project.host(host).boots, 1);
    }
}

#[test]
fn datagrams_that_wait_are_handed_over_in_order() {
    need(&["python3", "go"]);
    let project = Project::up("waiting", COMPOSE);
    for host in ["go", "python"] {
        let clients: Vec<_> = (0..20).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for client in &clients {
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.send_to(b"hello\n", project.at(host, 9000)).unwrap();
        }
        let mut buffer = [0; 2048];
        for client in &clients {
            let (count, from) = client.recv_from(&mut buffer).expect("every datagram is answered");
            assert_eq!(from, project.at(host, 9000));
            let answer = Answer(String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned());
            assert_eq!(answer.value("peer"), client.local_addr().unwrap().to_string());
        }
        assert_eq!(project.host(host).boots, 1);
    }
}

#[test]
fn a_host_that_ended_is_booted_again_by_a_datagram() {
    need(&["python3", "go"]);
    let project = Project::up("again", COMPOSE);
    for host in ["go", "pktinfo"] {
        let first = ask_datagram(project.at(host, 9000));
        project.kill(first.pid());
        project.wait_event(host, "exit", 1);
        let script = script();
        let said = project
            .run(&["python3", &script, "ask", host, "9000", "sendmsg", "bound-connect"])
            .expect_success("ask");
        let second = Answer(said.lines().next().unwrap().to_owned());
        assert_ne!(second.pid(), first.pid());
        assert_eq!(project.host(host).boots, 2, "{said}");
        assert_ne!(ask_datagram(project.at(host, 9000)).pid(), first.pid());
    }
}

/// Its sockets are connected when it ends, each to a client that has gone.
#[test]
fn a_server_that_connects_to_its_clients_is_booted_again() {
    need(&["python3"]);
    let project = Project::up("each", COMPOSE);
    let address = project.at("each", 9000);
    for boot in 1..=2 {
        let first = ask_datagram(address);
        for _ in 0..5 {
            assert_eq!(ask_datagram(address).pid(), first.pid());
        }
        let script = script();
        let said = project
            .run(&[
                "python3",
                &script,
                "ask",
                "each",
                "9000",
                "sendto",
                "connect",
                "bound-sendmsg",
            ])
            .expect_success("ask");
        assert_eq!(
            said.lines().filter(|line| line.contains("host=each ")).count(),
            3,
            "{said}"
        );
        assert_eq!(project.host("each").boots, boot);
        project.kill(first.pid());
        project.wait_event("each", "exit", usize::try_from(boot).unwrap());
    }
}

#[test]
fn an_undeclared_port_is_reached_with_every_call() {
    need(&["python3"]);
    for way in ["sendto", "sendmsg", "sendmmsg", "connect", "bound-sendto"] {
        let project = Project::up("undeclared", COMPOSE);
        let script = script();
        let said = project
            .run(&["python3", &script, "ask", "undeclared", "9001", way])
            .expect_success(way);
        assert_eq!(Answer(said.trim_end().to_owned()).value("host"), "undeclared", "{said}");
        assert_eq!(project.host("undeclared").boots, 1);
        let allocate = project.wait_event("undeclared", "allocate", 1);
        assert_eq!(allocate.cause.as_deref(), Some("datagram"));
    }
}

/// Sockets bound to a loopback address do not reach another device, so this socket must not be.
#[test]
fn one_socket_reaches_hosts_and_the_outside() {
    if !network::is_own() {
        return;
    }
    need(&["python3"]);
    network::ip("link add outside type veth peer name far");
    network::ip("link set far up");
    network::ip("addr add 192.0.2.2/24 dev outside");
    network::ip("link set outside up");
    let project = Project::up("both", COMPOSE);
    let script = script();
    let said = project
        .run(&["python3", &script, "both", "python", "9000", "192.0.2.1"])
        .expect_success("both");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    for (line, way) in lines.iter().zip(["unbound", "bound", "reconnected"]) {
        let (name, answer) = line.split_once(": ").unwrap();
        assert_eq!(name, way);
        let answer = Answer(answer.to_owned());
        assert_eq!(answer.value("host"), "python");
        assert!(answer.peer().starts_with("127.77."), "{said}");
    }
}

#[test]
fn dnsmasq_answers_dig_from_inside_and_outside() {
    need(&["dnsmasq", "dig"]);
    let project = Project::up(
        "dns",
        r#"
services:
  dns:
    command: [/usr/sbin/dnsmasq, --keep-in-foreground, --conf-file=/dev/null, --port=5354, --no-resolv, --no-hosts, --user=, --group=, --pid-file=,
              --address=/machine.example/192.0.2.7]
    expose: ["5354/udp"]
"#,
    );
    let server = format!("@{}", project.host("dns").address);
    let question = [
        server.as_str(),
        "-p",
        "5354",
        "+short",
        "+tries=1",
        "+time=60",
        "machine.example",
    ];
    assert_eq!(project.outside("dig", &question).trim(), "192.0.2.7");
    let mut inside = vec!["dig", "@dns"];
    inside.extend(&question[1..]);
    assert_eq!(project.run(&inside).expect_success("dig").trim(), "192.0.2.7");
    assert_eq!(project.host("dns").boots, 1);
}
