//! A host in use is never idle, however short the use is: its state in memory is there at the next
//! request.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::watch::Watch;
use common::{Background, LIMIT, Project, client, need, wait_until};
use rustix::net::sockopt;

const IDLE_AFTER: Duration = Duration::from_secs(2);

/// Requests so far apart, and so many: over several times `IDLE_AFTER`.
const APART: Duration = Duration::from_millis(700);
const REQUESTS: u32 = 15;

/// A TCP server that counts, in a single thread without time limits, and closes each connection
/// after the answer.
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

/// A program that counts signals, and bytes over a UNIX socket.
const UNTIMED: &str = "
import os, signal, socket, sys
count = 0
def on_signal(*_):
    global count
    count += 1
    open(sys.argv[2], 'w').write('%d' % count)
signal.signal(signal.SIGUSR1, on_signal)
s = socket.create_server(('', 7000))
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[1])
unix.listen()
while True:
    c, _ = unix.accept()
    on_signal()
    c.sendall(b'%d\\n' % count)
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

/// A script as an argument in a compose file.
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

/// The client sends no byte: `echo` reads none, and socat takes that for an error, natively as
/// well.
fn listen_to(address: SocketAddr) -> String {
    let mut answer = String::new();
    client::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    answer.trim().to_owned()
}

/// The client ends the connection by a reset, which leaves no trace in the kernel.
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

/// A request of one host.
type Ask = Box<dyn FnMut() -> String + Send>;

/// A conversation with a host.
struct Asked {
    answers: Vec<String>,
    /// The second answer came before this, the last question was sent after that.
    first: SystemTime,
    last: SystemTime,
    /// Between no two questions this test was away for as long as lets a host sleep.
    in_time: bool,
}

/// Whether a host was in use all the time, by the times of the questions. The host may have handled
/// a question at any time between question and answer.
struct Use {
    idle_after: Duration,
    before: Instant,
    in_time: bool,
}

impl Use {
    fn begin(idle_after: Duration) -> Self {
        Self {
            idle_after,
            before: Instant::now(),
            in_time: true,
        }
    }

    /// Asks once more.
    fn ask<T>(&mut self, ask: impl FnOnce() -> T) -> T {
        let asked = Instant::now();
        let answer = ask();
        self.in_time &= self.before.elapsed() < self.idle_after;
        self.before = asked;
        answer
    }
}

/// Asks again and again.
fn ask_often(mut ask: impl FnMut() -> String) -> Asked {
    // This boots the host, however long that takes.
    let mut answers = vec![ask()];
    let mut using = Use::begin(IDLE_AFTER);
    answers.push(using.ask(&mut ask));
    let first = SystemTime::now();
    let mut last = first;
    for _ in 2..REQUESTS {
        thread::sleep(APART);
        last = SystemTime::now();
        answers.push(using.ask(&mut ask));
    }
    let in_time = using.in_time;
    Asked {
        answers,
        first,
        last,
        in_time,
    }
}

/// Repeats this until done in time: a machine with other work may delay the test for so long that
/// the host sleeps.
#[track_caller]
fn in_time(mut attempt: impl FnMut() -> bool) {
    const ATTEMPTS: u32 = 6;
    assert!(
        (0..ATTEMPTS).any(|_| attempt()),
        "this machine was too busy to use a host all the time, {ATTEMPTS} times"
    );
}

/// The time of an event, from the event itself.
fn time_of(event: &common::Event) -> SystemTime {
    let time: jiff::Timestamp = event.json["time"].as_str().unwrap().parse().unwrap();
    time.into()
}

/// A host that was in use from `first` to after `last` sleeps once nobody asks any more, and not
/// before `idle_after`.
#[track_caller]
fn expect_sleep_after(watch: &Watch, host: &str, first: SystemTime, last: SystemTime, idle_after: Duration) {
    let suspend = watch.wait_for(&format!("{host} to sleep after its last question"), |events| {
        let suspends = events.iter().filter(|event| event.is(host, "suspend"));
        suspends.map(time_of).find(|time| *time > first)
    });
    let after = suspend.duration_since(last).unwrap_or_default();
    assert!(
        after + Duration::from_millis(50) >= idle_after,
        "{host} slept {after:?} after its last question"
    );
}

#[test]
fn who_is_asked_by_short_connections_and_datagrams_never_sleeps() {
    need(&["redis-server", "socat", "python3", "node"]);
    in_time(ask_by_short_connections_and_datagrams);
}

fn ask_by_short_connections_and_datagrams() -> bool {
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
  socat: {{ command: [socat, "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:/bin/echo hello"], expose: ["7000"] }}
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
    let counting: [(&str, Ask); 4] = [
        ("redis", Box::new(move || request(redis, "INCR count"))),
        ("tcp", Box::new(move || request(tcp, "x"))),
        ("reset", Box::new(move || request_and_reset(reset))),
        ("udp", Box::new(move || datagram(udp))),
    ];
    let lasting: [(&str, Ask); 2] = [
        ("socat", Box::new(move || listen_to(socat))),
        ("node", Box::new(move || client::get(node))),
    ];
    let asked: Vec<_> = counting
        .into_iter()
        .chain(lasting)
        .map(|(host, ask)| (host, thread::spawn(move || ask_often(ask))))
        .collect();
    let asked: Vec<_> = asked
        .into_iter()
        .map(|(host, asking)| (host, asking.join().unwrap()))
        .collect();
    if asked.iter().any(|(_, asked)| !asked.in_time) {
        return false;
    }
    for (host, asked) in asked {
        let answers = asked.answers;
        match host {
            "socat" => assert!(answers.iter().all(|answer| answer == "hello"), "{answers:?}"),
            "node" => assert!(answers.iter().all(|answer| answer.contains("host=node")), "{answers:?}"),
            _ => assert_eq!(answers, expected, "{host} has lost its state"),
        }
        expect_sleep_after(&watch, host, asked.first, asked.last, IDLE_AFTER);
        // node has a separate period.
        if host != "node" {
            watch.wait(host, "terminate", 1);
        }
        assert_eq!(watch.count(host, "boot"), 1, "{host}");
    }
    true
}

/// Asked again and again over the same connection, in a process with many descriptors.
const MANY: &str = "
import os, socket, sys
spare = [os.open('/dev/null', os.O_RDONLY) for _ in range(150)]
c = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s = socket.create_server(('', 7000))
while True:
    got = c.recv(100)
    if not got: break
    c.sendall(got)
c.close()
s.accept()
";

/// An address outside is one of the machine's own: natively a listener on 127.0.0.2.
fn outside() -> TcpListener {
    TcpListener::bind("127.0.0.2:0").unwrap()
}

#[test]
fn a_connection_to_an_address_outside_keeps_a_host_with_many_descriptors() {
    need(&["python3"]);
    in_time(use_a_connection_to_an_address_outside);
}

fn use_a_connection_to_an_address_outside() -> bool {
    let listener = outside();
    let port = listener.local_addr().unwrap().port();
    let project = Project::up(
        "outside",
        &format!(
            r#"
x-imsup: {{ idle_after: 1s, terminate_after: 200ms }}
services:
  many:
    expose: ["7000"]
    command:
      - python3
      - -c{MANY}
      - 127.0.0.2
      - "{port}"
  bystander: {{ command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }}
"#,
            MANY = script(MANY),
        ),
    );
    let watch = project.watch();
    project.ok(&["wake", "many"]);
    let mut server = listener.accept().unwrap().0;
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let ask = |server: &mut std::net::TcpStream| {
        server.write_all(b"x").unwrap();
        server.read_exact(&mut [0; 1]).unwrap();
    };
    watch.wait("many", "ready", 1);
    let idle_after = Duration::from_secs(1);
    let mut using = Use::begin(idle_after);
    ask(&mut server);
    let first = SystemTime::now();
    let mut last = first;
    // The bytes count as use.
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(300));
        last = SystemTime::now();
        using.ask(|| ask(&mut server));
    }
    if !using.in_time {
        return false;
    }
    expect_sleep_after(&watch, "many", first, last, idle_after);
    // While the connection is established the host is not terminated, though others of its age are.
    for round in 1..=3 {
        client::ask_line(project.at("bystander", 8080), "hello").unwrap();
        watch.wait("bystander", "terminate", round);
    }
    assert_eq!(watch.count("many", "terminate"), 0);
    project.wait_kept("many", "127.0.0.2");
    // The bytes wake the host, and the end of the connection permits the termination.
    let wakes = watch.asleep(&project, "many");
    ask(&mut server);
    let wake = watch.wait("many", "wake", wakes + 1);
    assert_eq!(wake.cause.as_deref(), Some("data"));
    watch.slept_again("many", wakes + 1);
    drop(server);
    watch.wait("many", "terminate", 1);
    true
}

/// A UNIX connection with the machine, and one of the host with itself.
const UNIX: &str = "
import socket, sys
s = socket.create_server(('', 7000))
own = socket.socketpair()
if sys.argv[1:]:
    c = socket.socket(socket.AF_UNIX)
    c.connect(sys.argv[1])
    c.recv(100)
s.accept()
";

#[test]
fn a_unix_connection_with_the_machine_keeps_a_host() {
    need(&["python3"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let project = Project::up(
        "unix",
        &format!(
            r#"
x-imsup: {{ idle_after: 200ms, terminate_after: 200ms }}
services:
  connected:
    expose: ["7000"]
    command:
      - python3
      - -c{UNIX}
      - {path}
  alone:
    expose: ["7000"]
    command:
      - python3
      - -c{UNIX}
"#,
            UNIX = script(UNIX),
            path = path.display(),
        ),
    );
    let watch = project.watch();
    project.ok(&["wake", "connected"]);
    let server = listener.accept().unwrap().0;
    watch.wait("connected", "suspend", 1);
    for round in 1..=2 {
        project.ok(&["wake", "alone"]);
        watch.wait("alone", "terminate", round);
        watch.wait("alone", "exit", round);
    }
    assert_eq!(watch.count("connected", "terminate"), 0);
    project.wait_kept("connected", "UNIX");
    drop(server);
    watch.wait("connected", "terminate", 1);
}

/// Servers whose own threads ask them again and again, as health checks do: over 127.0.0.1, over
/// the host's name, and by datagrams.
const OWN: &str = "
import socket, sys, threading, time
kind, host = sys.argv[1:]
udp = kind == 'udp'
s = socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
s.bind(('', 7000))
if not udp: s.listen()
def check():
    while True:
        time.sleep(0.3)
        if udp:
            c = socket.socket(type=socket.SOCK_DGRAM)
            c.sendto(b'own', (host, 7000))
        else:
            c = socket.create_connection((host, 7000))
            c.sendall(b'own')
        c.recv(100)
        c.close()
threading.Thread(target=check, daemon=True).start()
while True:
    if udp:
        data, sender = s.recvfrom(100)
        s.sendto(data, sender)
    else:
        c, _ = s.accept()
        c.sendall(c.recv(100))
        c.close()
";

/// A server with a time limit that no file shows, which runs each time that the limit ends.
const LIMITED: &str = "
import socket, struct
s = socket.create_server(('', 7000))
one, other = socket.socketpair()
one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 300000))
while True:
    try: one.recv(1)
    except BlockingIOError: pass
";

#[test]
fn a_time_limit_of_a_socket_does_not_keep_a_host_awake() {
    need(&["python3"]);
    let project = Project::up(
        "limited",
        &format!(
            r#"
x-imsup: {{ idle_after: 1s }}
services:
  limited:
    expose: ["7000"]
    command:
      - python3
      - -c{LIMITED}
"#,
            LIMITED = script(LIMITED),
        ),
    );
    let watch = project.watch();
    project.ok(&["wake"]);
    watch.wait("limited", "suspend", 1);
    wait_until("ticks", || watch.count("limited", "tick") >= 2);
    assert_eq!(watch.causes_after("limited", 0), [""; 0]);
}

#[test]
fn what_a_host_sends_to_itself_does_not_keep_it_awake() {
    const IDLE: Duration = Duration::from_millis(1500);
    need(&["python3"]);
    let service = |name: &str, kind: &str, host: &str, port: &str| {
        format!(
            "  {name}:\n    expose: [\"{port}\"]\n    command:\n      - python3\n      - -c{}\n      - {kind}\n      - {host}\n",
            script(OWN)
        )
    };
    let services = service("loopback", "tcp", "127.0.0.1", "7000")
        + &service("named", "tcp", "named", "7000")
        + &service("udp", "udp", "127.0.0.1", "7000/udp");
    let project = Project::up(
        "own",
        &format!("x-imsup: {{ idle_after: 1500ms }}\nservices:\n{services}"),
    );
    let watch = project.watch();
    project.ok(&["wake"]);
    for host in ["loopback", "named", "udp"] {
        watch.wait(host, "suspend", 1);
        // The host goes on asking itself, and sleeps on.
        wait_until("ticks", || watch.count(host, "tick") >= 3);
        assert_eq!(watch.causes_after(host, 0), [""; 0], "{host}");
    }
    let at = |host: &str| project.at(host, 7000);
    let (loopback, named, udp) = (at("loopback"), at("named"), at("udp"));
    assert_eq!(request(loopback, "x"), "x");
    watch.wait("loopback", "wake", 1);
    // Other clients that ask in between keep the host awake.
    in_time(|| {
        let asks: [(&str, Ask); 2] = [
            ("named", Box::new(move || request(named, "x"))),
            ("udp", Box::new(move || datagram(udp))),
        ];
        let mut asking = asks.map(|(host, ask)| (host, Use::begin(IDLE), ask));
        for (_, using, ask) in &mut asking {
            using.ask(ask);
        }
        let first = SystemTime::now();
        let mut last = first;
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(500));
            last = SystemTime::now();
            for (_, using, ask) in &mut asking {
                using.ask(ask);
            }
        }
        let in_time = asking.iter().all(|(_, using, _)| using.in_time);
        if in_time {
            for (host, ..) in &asking {
                watch.wait(host, "wake", 1);
                expect_sleep_after(&watch, host, first, last, IDLE);
            }
        }
        in_time
    });
}

#[test]
fn why_does_not_say_idle_of_who_has_just_answered() {
    need(&["redis-server"]);
    let project = Project::up(
        "why",
        r#"
x-imsup: { idle_after: 1h }
services:
  redis: { command: [redis-server, --save, "", --appendonly, "no", --port, "7000"], expose: ["7000"] }
"#,
    );
    let address = project.at("redis", 7000);
    for number in 1..=17 {
        let asked = Instant::now();
        assert_eq!(request(address, "INCR count"), number.to_string());
        // A question is noticed at the supervisor's next look. A host that was idle all the time
        // would be idle for longer at each look.
        wait_until("the question to be noticed", || {
            let why = project.why("redis");
            let idle = why["idle_s"].as_f64().unwrap_or_else(|| panic!("{why}"));
            idle < asked.elapsed().as_secs_f64()
        });
        thread::sleep(Duration::from_millis(400));
    }
}

/// Use that leaves no trace except that the program ran, which does not run by itself.
#[test]
fn signals_and_unix_connections_keep_a_host_awake_that_waits_for_no_time() {
    need(&["python3"]);
    in_time(use_by_signals_and_unix_connections);
}

fn use_by_signals_and_unix_connections() -> bool {
    let project = Project::new(
        "untimed",
        &format!(
            r#"
x-imsup: {{ idle_after: 2s, terminate_after: 300ms }}
services:
  untimed:
    expose: ["7000"]
    command:
      - python3
      - -c{UNTIMED}
      - "@dir@/socket"
      - "@dir@/count"
"#,
            UNTIMED = script(UNTIMED),
        ),
    );
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    project.ok(&["wake", "untimed"]);
    watch.wait("untimed", "ready", 1);
    let pid = project.host("untimed").pid.unwrap();
    let counted = || std::fs::read_to_string(project.path("count")).unwrap_or_default();
    let ask = || {
        let mut answer = String::new();
        let mut stream = UnixStream::connect(project.path("socket"))?;
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.trim().to_owned())
    };
    let mut using = Use::begin(IDLE_AFTER);
    wait_until("its UNIX socket", || {
        using.before = Instant::now();
        ask().is_ok_and(|answer| answer == "1")
    });
    let first = SystemTime::now();
    let mut last = first;
    for number in 2..=REQUESTS {
        // A host that was not asked in time may be gone.
        if using.before.elapsed() >= IDLE_AFTER {
            return false;
        }
        last = SystemTime::now();
        let answer = using.ask(|| {
            if number % 2 == 0 {
                project.signal(pid, rustix::process::Signal::USR1);
                wait_until("its count", || counted() == number.to_string());
                return Ok(counted());
            }
            ask()
        });
        if !using.in_time {
            return false;
        }
        assert_eq!(answer.unwrap(), number.to_string());
        thread::sleep(APART);
    }
    expect_sleep_after(&watch, "untimed", first, last, IDLE_AFTER);
    true
}

/// Answers each line, and counts events of descriptors that it has closed.
const EVENTS: &str = "
import select, socket
s = socket.create_server(('', 7000))
e = select.epoll()
e.register(s, select.EPOLLIN)
open, stale = {}, 0
while True:
    for fd, _ in e.poll():
        if fd == s.fileno():
            c, _ = s.accept()
            open[c.fileno()] = c
            e.register(c, select.EPOLLIN)
        elif fd not in open:
            stale += 1
        else:
            got = open[fd].recv(100)
            if got: open[fd].sendall(b'%d\\n' % stale)
            else: open.pop(fd).close()
";

/// strace, delaying the return of calls of a process for as long as this lives.
struct Delayed(Background);

impl Delayed {
    fn calls(project: &Project, pid: u32, call: &str) -> Self {
        let inject = format!("inject={call}:delay_exit=60000");
        let pid = pid.to_string();
        let trace = format!("trace={call}");
        let arguments = ["-p", &pid, "-e", &trace, "-e", &inject, "-o", "/dev/null"];
        let command = project.command("strace", &arguments);
        let strace = Background::spawn(command, Stdio::piped());
        wait_until("strace to be attached", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            !status.contains("TracerPid:\t0\n")
        });
        Self(strace)
    }

    fn end(self) {
        self.0.signal(rustix::process::Signal::INT);
        self.0.finish(LIMIT);
    }
}

/// A look at a connection must not hold it open: a program that closes it would get events of a
/// closed descriptor. Here each call by which a duplicate could be inspected takes 60 ms, and the
/// connection ends 100 ms after its host was woken.
#[test]
fn looks_at_connections_tell_a_program_of_nothing_that_it_has_closed() {
    need(&["python3", "strace"]);
    let project = Project::up(
        "stale",
        &format!(
            r#"
x-imsup: {{ idle_after: 30ms }}
services:
  web:
    expose: ["7000"]
    command:
      - python3
      - -c{EVENTS}
"#,
            EVENTS = script(EVENTS),
        ),
    );
    let watch = project.watch();
    let address = project.at("web", 7000);
    assert_eq!(request(address, "first"), "0");
    watch.wait("web", "suspend", 1);
    let supervisor = common::parent(project.host("web").pid.unwrap()).unwrap();
    for call in ["getsockopt", "pidfd_getfd", "getpeername", "sendto"] {
        let delayed = Delayed::calls(&project, supervisor, call);
        for _ in 0..4 {
            let suspends = watch.count("web", "suspend");
            let mut held = client::PersistentConnection::connect(address);
            for _ in 0..2 {
                held.say("x").unwrap();
                assert_eq!(held.hear().unwrap(), "0", "with {call} delayed");
                thread::sleep(Duration::from_millis(100));
            }
            drop(held);
            watch.wait("web", "suspend", suspends + 1);
        }
        delayed.end();
        assert_eq!(request(address, "last"), "0", "with {call} delayed");
    }
}
