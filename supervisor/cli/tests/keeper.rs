//! Brokers that die: waiting connections are kept, and the next broker comes by itself.

mod common;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::client::{Answer, PersistentConnection, ask, talk};
use common::{LIMIT, Project, client, command, stop, wait_until};
use rustix::process::Signal;

const HOSTS: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "9000"], expose: ["9000"] }
  log: { command: ["@guest@", --udp, "5140"], expose: ["5140/udp"] }
"#;

/// The bytes that wait unread: a connection that the kernel has made, and a line that was sent on
/// it.
fn queue(address: SocketAddr, line: &str) -> PersistentConnection {
    let mut held = PersistentConnection::connect(address);
    held.say(line).unwrap();
    held
}

/// Kills the broker, and waits until another has taken over.
fn replace_broker(project: &Project, before: u32) -> u32 {
    project.kill(before);
    // The next broker answers: the client waits for it.
    project.ps();
    let after = project.broker();
    assert_ne!(before, after);
    after
}

#[test]
fn what_waits_at_absent_hosts_when_the_broker_is_killed_is_answered() {
    let project = Project::up("waiting", HOSTS);
    let (web, db, log) = (project.at("web", 8080), project.at("db", 9000), project.at("log", 5140));
    let broker = project.broker();
    // The broker notices no arrivals.
    stop(&project, broker);
    let mut waiting: Vec<PersistentConnection> = (0..50)
        .map(|number| queue(if number % 2 == 0 { web } else { db }, &format!("waits {number}")))
        .collect();
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    sender.set_read_timeout(Some(LIMIT)).unwrap();
    sender.send_to(b"datagram", log).unwrap();
    project.kill(broker);
    // Refused or reset: never. The first ones come while there is no broker.
    for number in 50..100 {
        waiting.push(queue(
            if number % 2 == 0 { web } else { db },
            &format!("waits {number}"),
        ));
    }
    for (number, held) in waiting.iter_mut().enumerate() {
        let answer = held
            .hear()
            .unwrap_or_else(|error| panic!("connection {number}: {error}"));
        let host = if number % 2 == 0 { "web" } else { "db" };
        assert!(answer.contains(&format!("host={host} ")), "{answer}");
    }
    let mut answer = [0; 512];
    let (length, from) = sender.recv_from(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.contains("host=log "), "{answer}");
    assert_eq!(from, log);
    for host in ["web", "db", "log"] {
        assert_eq!(project.host(host).boots, 1, "{host}");
    }
    project.down();
}

/// At any step of the broker when it is killed: at the first connection, at the start of the
/// supervisor, at its welcome, or at the host's readiness.
#[test]
fn clients_of_booting_hosts_are_answered_while_brokers_die() {
    const ROUNDS: usize = 5;
    const CLIENTS: usize = 8;
    let hosts: String = (0..ROUNDS)
        .map(|round| format!("  host{round}: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n"))
        .collect();
    let project = Project::up("storm", &format!("services:\n{hosts}"));
    let mut random = common::random::Random::new(common::random::Random::seed());
    for round in 0..ROUNDS {
        let address = project.at(&format!("host{round}"), 8080);
        let broker = project.broker();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| scope.spawn(move || client::ask_line(address, "hello")))
                .collect();
            thread::sleep(std::time::Duration::from_micros(random.below(100_000)));
            project.kill(broker);
            for client in clients {
                let answer = client.join().unwrap();
                let answer = answer.unwrap_or_else(|error| panic!("a client of host{round}: {error}"));
                assert!(answer.contains(&format!("host=host{round} ")), "{answer}");
            }
        });
    }
    project.down();
}

#[test]
fn nobody_can_bind_what_the_project_has_while_there_is_no_broker() {
    let project = Project::up("exclusive", HOSTS);
    let web = project.at("web", 8080);
    let SocketAddr::V4(v4) = web else { panic!("{web}") };
    let block = v4.ip().octets()[2];
    let claim = SocketAddr::from(([127, 78, block, 0], 1053));
    let over = AtomicBool::new(false);
    let tries = AtomicBool::new(false);
    thread::scope(|scope| {
        let binds = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(TcpListener::bind(web).is_err(), "a host's port was free");
                assert!(UdpSocket::bind(claim).is_err(), "the project's addresses were free");
                tries.store(true, Ordering::Relaxed);
            }
        });
        let mut broker = project.broker();
        for _ in 0..3 {
            wait_until("a try", || tries.swap(false, Ordering::Relaxed));
            broker = replace_broker(&project, broker);
        }
        over.store(true, Ordering::Relaxed);
        binds.join().unwrap();
    });
    project.down();
    TcpListener::bind(web).expect("free after down");
    UdpSocket::bind(claim).expect("free after down");
}

#[test]
fn running_hosts_go_on_with_the_next_broker() {
    let project = Project::up("running", HOSTS);
    let web = project.at("web", 8080);
    let mut connection = client::connect(web).unwrap();
    let pid = Answer(talk(&mut connection, "hello").unwrap()).pid();
    project.wait_event("web", "ready", 1);
    let before = project.host("web");
    replace_broker(&project, project.broker());
    let after = project.wait_state("web", "running");
    assert_eq!((after.pid, after.boots), (before.pid, 1));
    assert_eq!(Answer(talk(&mut connection, "hello").unwrap()).pid(), pid);
    assert_eq!(ask(web).pid(), pid);
    // Its own socket is retained, once: the next boot gets it, and no other process has the port.
    project.ok(&["stop", "web"]);
    assert_ne!(ask(web).pid(), pid);
    assert_eq!(project.host("web").boots, 2);
    project.down();
}

#[test]
fn a_program_that_ends_while_there_is_no_broker_leaves_its_queue_to_the_next_boot() {
    let project = Project::up("ended", HOSTS);
    let web = project.at("web", 8080);
    let pid = ask(web).pid();
    project.wait_event("web", "ready", 1);
    let supervisor = common::parent(pid).unwrap();
    let broker = project.broker();
    stop(&project, broker);
    stop(&project, pid);
    let mut waiting: Vec<PersistentConnection> = (0..5).map(|number| queue(web, &format!("waits {number}"))).collect();
    // The keeper starts the next broker once continued.
    let keeper = project.keeper();
    stop(&project, keeper);
    project.kill(broker);
    project.kill(supervisor);
    waiting.push(queue(web, "waits 5"));
    project.signal(keeper, Signal::CONT);
    for (number, held) in waiting.iter_mut().enumerate() {
        let answer = held
            .hear()
            .unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert!(answer.contains("host=web "), "{answer}");
    }
    project.down();
}

#[test]
fn a_keeper_that_is_killed_is_replaced_and_keeps_everything() {
    let project = Project::up("keepers", HOSTS);
    let web = project.at("web", 8080);
    let first = project.keeper();
    project.kill(first);
    let lock = project.runtime().join("keeper.lock");
    wait_until("another keeper", || {
        let holder = std::fs::read_to_string(&lock)
            .unwrap_or_default()
            .trim()
            .parse()
            .unwrap_or(first);
        holder != first
    });
    let keeper = project.keeper();
    wait_until("the keeper to have everything", || sockets_of(keeper) > 6);
    let broker = project.broker();
    stop(&project, broker);
    let mut waiting = queue(web, "waits");
    project.kill(broker);
    waiting.hear().unwrap();
    project.down();
}

fn sockets_of(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let names = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    names
        .filter(|name| name.starts_with(Path::new("socket:")) || name.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn a_broker_that_dies_again_and_again_is_given_up() {
    let project = Project::up("loop", HOSTS);
    let web = project.at("web", 8080);
    let keeper = project.keeper();
    let mut broker = project.broker();
    for _ in 0..5 {
        broker = replace_broker(&project, broker);
    }
    project.kill(broker);
    assert!(common::command::wait_exit(keeper, LIMIT), "the keeper ends");
    let said = project.fails(1, &["ps"]);
    assert!(said.contains("died") && said.contains("imsup up"), "{said}");
    let log = std::fs::read_to_string(project.state().join("broker.log")).unwrap();
    assert!(log.contains("not started again") && log.contains("imsup up"), "{log}");
    let refused = TcpStream::connect(web).unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "nobody waits for ever"
    );
    project.ok(&["up", "-d"]);
    assert_eq!(ask(web).value("host"), "web");
    project.down();
}

#[test]
fn down_ends_a_keeper_whose_next_broker_does_not_come() {
    let project = Project::up("stopped", HOSTS);
    ask(project.at("web", 8080));
    let (keeper, broker) = (project.keeper(), project.broker());
    stop(&project, keeper);
    project.kill(broker);
    project.down();
}

#[test]
fn up_beside_a_keeper_makes_no_second_broker() {
    let project = Project::up("second", HOSTS);
    let keeper = project.keeper();
    stop(&project, keeper);
    project.kill(project.broker());
    let up = command::Background::collecting(project.imsup_command(&["up", "-d"]));
    project.signal(keeper, Signal::CONT);
    let up = up.finish(LIMIT);
    assert!(up.stdout.contains("nothing has changed"), "{up}");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    project.broker();
    project.down();
}

#[test]
fn the_next_broker_has_the_hosts_of_the_first_whatever_became_of_the_file() {
    let project = Project::up("edited", HOSTS);
    let web = project.at("web", 8080);
    project.write_compose("services: { other: { command: [\"@guest@\"] } }");
    replace_broker(&project, project.broker());
    assert_eq!(ask(web).value("host"), "web");
    assert_eq!(project.ps().len(), 3);
    project.down();
}

#[test]
fn published_ports_and_names_are_served_by_the_next_broker() {
    let project = Project::up(
        "published",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], ports: ["127.0.0.1::8080"] }
"#,
    );
    let published = || -> SocketAddr {
        let host = project.host("web");
        let machine = host.json["published"][0]["machine"].as_str().map(str::parse);
        machine.expect("a published port").expect("an address")
    };
    let before = published();
    let broker = project.broker();
    stop(&project, broker);
    let mut waiting = queue(before, "waits");
    project.kill(broker);
    assert!(waiting.hear().unwrap().contains("host=web "));
    assert_eq!(published(), before, "the port that the kernel chose stays");
    assert!(project.run_guest(&["--call", "web:8080"]).contains("host=web"));
    project.down();
}

#[test]
fn a_socket_that_a_program_closes_is_free_at_once() {
    let project = Project::new(
        "closed",
        r#"services: { web: { command: [python3, -u, "@dir@/rebind.py"], expose: ["8080"] } }"#,
    );
    common::need(&["python3"]);
    let program = r#"
import socket
for round in range(200):
    s = socket.socket()
    # The first connection may be gone a moment later (LAST_ACK). It excludes all that listens all the same.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", 8080))
    s.listen()
    if round == 0:
        c, _ = s.accept()
        c.close()
    s.close()
    p = socket.socket()
    try:
        p.connect(("127.0.0.1", 8080))
        print("connected to a closed port")
    except ConnectionRefusedError:
        pass
    p.close()
print("done")
while True:
    socket.socket().close()
    import time; time.sleep(1)
"#;
    std::fs::write(project.path("rebind.py"), program).unwrap();
    project.ok(&["up", "-d"]);
    drop(client::connect(project.at("web", 8080)).unwrap());
    let said = || project.ok(&["logs", "web"]);
    wait_until("the program to have bound its port 200 times", || {
        let said = said();
        assert!(!said.contains("Traceback") && !said.contains("connected"), "{said}");
        said.contains("done")
    });
    project.down();
}

/// An upgrade replaces the file; the next broker is the program that runs, and boots hosts.
#[test]
fn the_next_broker_needs_no_file_of_the_executable() {
    let project = Project::new("replaced", HOSTS);
    let copy = project.path("imsup");
    std::fs::copy(common::imsup(), &copy).unwrap();
    let up = project.command(&copy, &["up", "-d", "-p", &project.name]);
    common::command::run(up, LIMIT).expect_success("up");
    std::fs::remove_file(&copy).unwrap();
    let web = project.at("web", 8080);
    let pid = || -> u32 {
        let lock = std::fs::read_to_string(project.runtime().join("broker.lock"));
        lock.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    let broker = pid();
    stop(&project, broker);
    let mut waiting = queue(web, "waits");
    project.kill(broker);
    assert!(waiting.hear().unwrap().contains("host=web "));
    assert_ne!(pid(), broker);
    project.down();
}

/// A port that a program closes is free for itself even without a broker.
#[test]
fn a_program_binds_its_port_again_while_there_is_no_broker() {
    // A port of this test alone: a connection of another project that has just ended (TIME_WAIT) at the
    // same address would refuse a bind without SO_REUSEADDR.
    let project = Project::new(
        "rebind",
        r#"services: { web: { command: [python3, -u, "@dir@/rebind.py"], expose: ["8173"] } }"#,
    );
    common::need(&["python3"]);
    let program = r#"
import os, socket, time
s = socket.socket()
s.bind(("0.0.0.0", 8173))
s.listen()
print("listening")
while not os.path.exists("@dir@/go"):
    time.sleep(0.01)
s.close()
s = socket.socket()
s.bind(("0.0.0.0", 8173))
s.listen()
print("again")
c, _ = s.accept()
c.sendall(b"second\n")
time.sleep(1000)
"#;
    std::fs::write(project.path("rebind.py"), project.expand(program)).unwrap();
    project.ok(&["up", "-d"]);
    project.ok(&["wake", "web"]);
    let web = project.at("web", 8173);
    let (keeper, broker) = (project.keeper(), project.broker());
    stop(&project, keeper);
    project.kill(broker);
    std::fs::write(project.path("go"), "").unwrap();
    // The bind is pending until the next broker has closed the first one's duplicate.
    project.signal(keeper, Signal::CONT);
    wait_until("the port to be bound again", || {
        let said = project.ok(&["logs", "web"]);
        assert!(!said.contains("Traceback"), "{said}");
        said.contains("again")
    });
    let mut client = client::connect(web).unwrap();
    assert_eq!(talk(&mut client, "hello").unwrap(), "second");
    project.down();
}

/// The supervisor learns of the broker's death by the bind: the bind is handled before the end of
/// the connection to the broker. The sockets are AF_INET6, of the family of the broker's own
/// listener, which then is the only socket at the port.
#[test]
fn a_bind_that_finds_the_broker_dead_waits_for_the_next() {
    // A port of this test alone, as above.
    let project = Project::new(
        "rebind",
        r#"services: { web: { command: [python3, -u, "@dir@/rebind.py"], expose: ["8174"] } }"#,
    );
    common::need(&["python3"]);
    let program = r#"
import errno, os, socket, time
first, second = socket.socket(socket.AF_INET6), socket.socket(socket.AF_INET6)
first.bind(("::", 8174))
first.listen()
while not os.path.exists("@dir@/go"):
    time.sleep(0.01)
first.close()
try:
    second.bind(("::", 8174))
except OSError as error:
    print("refused with", errno.errorcode[error.errno])
else:
    print("bound again")
time.sleep(1000)
"#;
    std::fs::write(project.path("rebind.py"), project.expand(program)).unwrap();
    project.ok(&["up", "-d"]);
    project.ok(&["wake", "web"]);
    let pid = project.host("web").pid.expect("it runs");
    let supervisor = common::parent(pid).expect("it has a supervisor");
    let (keeper, broker) = (project.keeper(), project.broker());
    stop(&project, keeper);
    stop(&project, supervisor);
    project.kill(broker);
    std::fs::write(project.path("go"), "").unwrap();
    wait_until("the bind", || {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        call.split(' ').next() == Some(&libc::SYS_bind.to_string())
    });
    project.signal(supervisor, Signal::CONT);
    project.signal(keeper, Signal::CONT);
    wait_until("the end of the bind", || {
        let said = project.ok(&["logs", "web"]);
        assert!(!said.contains("refused"), "{said}");
        said.contains("bound again")
    });
    project.down();
}

#[test]
fn a_connect_that_does_not_block_is_not_refused_while_the_next_broker_comes() {
    let project = Project::up("unblocked", HOSTS);
    // A port that is not declared: with a socket that is retained the kernel answers alone.
    let to = project.at("web", 9090);
    let script = format!(
        "
import os, socket, sys
s = socket.socket(); s.setblocking(False)
print(os.getpid(), flush=True); sys.stdin.readline()
print(s.connect_ex(('{}', {})), flush=True)
",
        to.ip(),
        to.port()
    );
    let mut program = project
        .imsup_command(&["run", "--", "python3", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let pid = lines.next().unwrap();
    let (keeper, broker) = (project.keeper(), project.broker());
    stop(&project, keeper);
    project.kill(broker);
    drop(program.stdin.take());
    wait_until("the call to be held", || {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        call.split(' ').next() == Some(&libc::SYS_connect.to_string())
    });
    project.signal(keeper, Signal::CONT);
    assert_eq!(lines.next().as_deref(), Some("115"), "EINPROGRESS");
    program.wait().unwrap();
}
