//! A host that is in use is never idle, however short the use is: what it keeps in memory is there at the next request.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::watch::Watch;
use common::{LIMIT, Project, client, need, wait_until};
use rustix::net::sockopt;

const IDLE_AFTER: Duration = Duration::from_secs(2);

/// Requests so far apart, and so many: over several times `IDLE_AFTER`.
const APART: Duration = Duration::from_millis(700);
const REQUESTS: u32 = 15;

/// A TCP server that counts, in one thread that knows no time limit, and closes each connection after its answer.
const COUNTER: &str = "
import socket
s = socket.create_server(('', 7000), backlog=100)
count = 0
while True:
    c, _ = s.accept()
    try:
        if c.recv(100):
            count += 1
            c.sendall(b'%d\\n' % count)
    except OSError: pass
    c.close()
";

/// The same over datagrams.
const DATAGRAMS: &str = "
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(('', 7000))
count = 0
while True:
    _, sender = s.recvfrom(100)
    count += 1
    s.sendto(b'%d' % count, sender)
";

/// A child a second time over is of no account to Python: it counts what it has forked, and is told to by a signal of its own.
fn script(source: &str) -> String {
    let lines: Vec<String> = source.trim().lines().map(|line| format!("        {line}")).collect();
    format!("\n      - |\n{}", lines.join("\n"))
}

fn request(address: SocketAddr, line: &str) -> String {
    let mut stream = client::connect(address).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    answer.trim().trim_start_matches(':').to_owned()
}

/// The client ends its connection by a reset, which leaves no trace in the kernel.
fn request_and_reset(address: SocketAddr) -> String {
    let mut stream = client::connect(address).unwrap();
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    stream.write_all(b"x").unwrap();
    let mut answer = [0; 16];
    let count = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..count]).trim().to_owned()
}

fn datagram(address: SocketAddr) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send_to(b"x", address).unwrap();
    let mut answer = [0; 16];
    let count = socket.recv(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

/// Asks again and again; the last answer came at this time.
fn ask_often(mut ask: impl FnMut() -> String) -> (Vec<String>, SystemTime) {
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        if !answers.is_empty() {
            thread::sleep(APART);
        }
        answers.push(ask());
    }
    (answers, SystemTime::now())
}

/// When an event was, as it says itself.
fn time_of(event: &common::Event) -> SystemTime {
    let time: jiff::Timestamp = event.json["time"].as_str().unwrap().parse().unwrap();
    time.into()
}

/// Once nobody asks any more it sleeps, and not before `IDLE_AFTER`.
#[track_caller]
fn expect_sleep_after(watch: &Watch, host: &str, last: SystemTime) {
    let suspend = time_of(&watch.wait(host, "suspend", 1));
    let after = suspend.duration_since(last).unwrap_or_default();
    assert!(
        after + Duration::from_millis(50) >= IDLE_AFTER,
        "{host} slept {after:?} after its last answer"
    );
}

#[test]
fn who_is_asked_by_short_connections_and_datagrams_never_sleeps() {
    need(&["redis-server", "socat", "python3", "node"]);
    let project = Project::up(
        "in-use",
        &format!(
            r#"
x-imsup: {{ idle_after: 2s, terminate_after: 300ms }}
services:
  redis: {{ command: [redis-server, --save, "", --appendonly, "no", --port, "7000"], expose: ["7000"] }}
  tcp:
    expose: ["7000"]
    command:
      - python3
      - -c{COUNTER}
  reset:
    expose: ["7000"]
    command:
      - python3
      - -c{COUNTER}
  udp:
    expose: ["7000/udp"]
    command:
      - python3
      - -c{DATAGRAMS}
  socat: {{ command: [socat, "TCP-LISTEN:7000,fork", "EXEC:/bin/echo hello"], expose: ["7000"] }}
  node: {{ command: [node, "@source@/http_server.js", "7000"], expose: ["7000"] }}
"#,
            COUNTER = script(COUNTER),
            DATAGRAMS = script(DATAGRAMS),
        ),
    );
    let watch = project.watch();
    let at = |host| project.at(host, 7000);
    let (redis, tcp, reset, udp, socat, node) =
        (at("redis"), at("tcp"), at("reset"), at("udp"), at("socat"), at("node"));
    let expected: Vec<String> = (1..=REQUESTS).map(|number| number.to_string()).collect();
    let counting: [(&str, Box<dyn FnMut() -> String + Send>); 4] = [
        ("redis", Box::new(move || request(redis, "INCR count"))),
        ("tcp", Box::new(move || request(tcp, "x"))),
        ("reset", Box::new(move || request_and_reset(reset))),
        ("udp", Box::new(move || datagram(udp))),
    ];
    let lasting: [(&str, Box<dyn FnMut() -> String + Send>); 2] = [
        ("socat", Box::new(move || request(socat, "x"))),
        ("node", Box::new(move || client::get(node))),
    ];
    let asked: Vec<_> = counting
        .into_iter()
        .chain(lasting)
        .map(|(host, ask)| (host, thread::spawn(move || ask_often(ask))))
        .collect();
    for (host, asking) in asked {
        let (answers, last) = asking.join().unwrap();
        match host {
            "socat" => assert!(answers.iter().all(|answer| answer == "hello"), "{answers:?}"),
            "node" => assert!(answers.iter().all(|answer| answer.contains("host=node")), "{answers:?}"),
            _ => assert_eq!(answers, expected, "{host} has lost its state"),
        }
        expect_sleep_after(&watch, host, last);
        if host != "node" {
            watch.wait(host, "terminate", 1);
        }
        assert_eq!(watch.count(host, "boot"), 1, "{host}");
    }
}
