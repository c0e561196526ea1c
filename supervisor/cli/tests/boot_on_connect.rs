//! Every host exists from the first moment, and the first connection of any client boots it.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use common::client::{self, Answer, ask, ask_datagram};
use common::{Background, LIMIT, Project, network, parent, wait_until};
use rustix::process::Signal;

#[test]
fn before_the_first_connection_there_is_a_host_and_no_process() {
    let project = Project::up(
        "imaginary",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "9000"] }
"#,
    );
    let hosts = project.ps();
    assert_eq!(hosts.keys().collect::<Vec<_>>(), ["db", "web"]);
    for (name, host) in &hosts {
        assert_eq!(
            (host.state.as_str(), host.pid, host.boots),
            ("imaginary", None, 0),
            "{name}"
        );
        assert_eq!(host.address.octets()[..2], [127, 77], "{name}");
    }
    assert!(
        hosts["web"].json["ports"].to_string().contains("8080"),
        "{:?}",
        hosts["web"].json
    );
    let guests: Vec<_> = project
        .processes()
        .into_iter()
        .filter(|one| one.command.contains("--tcp"))
        .collect();
    assert!(guests.is_empty(), "{guests:?}");
    assert!(project.events().is_empty());
}

#[test]
fn an_unsupervised_client_boots_a_host_and_is_answered_by_its_program() {
    let project = Project::up(
        "first",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], x-imsup: { idle_after: 1h } }
"#,
    );
    let address = project.at("web", 8080);
    let answer = ask(address);
    assert_eq!(answer.value("host"), "web");
    assert_eq!(answer.value("own"), address.to_string(), "no proxy is in between");
    project.wait_event("web", "ready", 1);
    let host = project.host("web");
    assert_eq!((host.state.as_str(), host.boots), ("running", 1));
    assert_eq!(host.pid, Some(answer.pid()));
    assert_eq!(project.event_names("web"), ["allocate", "boot", "ready"]);
    for event in project.events() {
        assert_eq!(event.cause.as_deref(), Some("connection"), "{:?}", event.json);
    }
    let again = ask(address);
    assert_eq!(again.pid(), answer.pid(), "a second connection meets the same process");
    assert_eq!(project.host("web").boots, 1);
}

#[test]
fn everything_a_client_sends_before_the_program_exists_arrives_in_order() {
    let project = Project::up(
        "bytes",
        r#"
services:
  web: { command: ["@guest@", --start-delay, "300", --tcp, "8080", --reply, echo], expose: ["8080"] }
"#,
    );
    let mut stream = client::connect(project.at("web", 8080)).unwrap();
    let lines: Vec<String> = (0..500)
        .map(|number| format!("line {number} {}", "x".repeat(100)))
        .collect();
    stream.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    let answered: Vec<String> = BufReader::new(stream)
        .lines()
        .take(lines.len())
        .map(Result::unwrap)
        .collect();
    assert_eq!(answered, lines);
}

#[test]
fn a_crowd_of_clients_of_a_program_with_a_short_backlog_is_all_served_by_one_boot() {
    let project = Project::up(
        "crowd",
        r#"
services:
  web: { command: ["@guest@", --start-once, "@dir@/all-wait", --backlog, "1", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    let clients: Vec<_> = (0..300)
        .map(|_| client::connect(address).expect("queued by the kernel"))
        .collect();
    std::fs::write(project.path("all-wait"), "").unwrap();
    let mut pids: Vec<u32> = clients
        .into_iter()
        .map(|mut one| Answer(client::talk(&mut one, "hello").unwrap()).pid())
        .collect();
    pids.dedup();
    assert_eq!(pids.len(), 1);
    assert_eq!(project.host("web").boots, 1);
}

#[test]
fn a_client_that_left_before_the_boot_does_no_harm() {
    let project = Project::up(
        "gone",
        r#"
services:
  web: { command: ["@guest@", --start-delay, "100", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    drop(client::connect(address).unwrap());
    project.wait_event("web", "ready", 1);
    assert_eq!(ask(address).value("host"), "web");
}

#[test]
fn a_datagram_boots_a_host_and_is_answered_from_where_it_was_sent() {
    let project = Project::up(
        "datagram",
        r#"
services:
  time: { command: ["@guest@", --udp, "5353"], expose: ["5353/udp"] }
"#,
    );
    let answer = ask_datagram(project.at("time", 5353));
    assert_eq!(answer.value("host"), "time");
    assert_eq!(
        project.wait_event("time", "ready", 1).cause.as_deref(),
        Some("datagram")
    );
}

#[test]
fn a_published_port_leads_from_the_machine_to_the_host() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = Project::up(
        "published",
        &format!(
            r#"
services:
  web: {{ command: ["@guest@", --tcp, "8080"], ports: ["127.0.0.1:{free}:8080"] }}
"#
        ),
    );
    let answer = ask(SocketAddr::from(([127, 0, 0, 1], free)));
    assert_eq!(answer.value("host"), "web");
    assert_eq!(
        project.wait_event("web", "allocate", 1).cause.as_deref(),
        Some("published")
    );
    let direct = ask(project.at("web", 8080));
    assert_eq!(direct.pid(), answer.pid(), "the target of ports is retained as well");
}

#[test]
fn a_published_datagram_port_leads_to_the_host() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = Project::up(
        "published-udp",
        &format!(
            r#"
services:
  time: {{ command: ["@guest@", --udp, "5353"], ports: ["127.0.0.1:{free}:5353/udp"] }}
"#
        ),
    );
    assert_eq!(
        ask_datagram(SocketAddr::from(([127, 0, 0, 1], free))).value("host"),
        "time"
    );
    assert_eq!(project.host("time").boots, 1);
}

#[test]
fn a_port_learned_from_an_earlier_boot_is_remembered_across_down_and_up() {
    // Another project of this machine may take the addresses while this project is down.
    if !network::is_own() {
        return;
    }
    let project = Project::up(
        "learned",
        r#"
services:
  db: { command: ["@guest@", --tcp, "9000"] }
"#,
    );
    let address = project.at("db", 9000);
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody has declared or seen this port"
    );
    project.ok(&["wake", "db"]);
    assert_eq!(ask(address).value("host"), "db");
    project.ok(&["stop", "db"]);
    assert_eq!(ask(address).value("host"), "db", "a port seen since up");
    project.down();
    assert!(TcpStream::connect(address).is_err(), "nothing listens after down");
    project.ok(&["up", "-d"]);
    assert_eq!(
        project.at("db", 9000),
        address,
        "the block of addresses is remembered too"
    );
    assert_eq!(project.host("db").boots, 0);
    assert_eq!(ask(address).value("host"), "db");
    project.ok(&["down", "--forget"]);
    project.ok(&["up", "-d"]);
    assert!(TcpStream::connect(project.at("db", 9000)).is_err(), "forgotten");
}

#[test]
fn hosts_share_port_numbers_and_each_answers_for_itself() {
    let project = Project::up(
        "machines",
        r#"
x-imsup: { idle_after: 1h }
services:
  four: { command: ["@guest@", --bind, any4, --tcp, "8080"], expose: ["8080"] }
  six: { command: ["@guest@", --bind, any6, --tcp, "8080"], expose: ["8080"] }
  both: { command: ["@guest@", --bind, only6, --tcp, "8080", --bind, any4, --tcp, "8080"], expose: ["8080"] }
  local: { command: ["@guest@", --tcp, "8080", --bind, lo4, --tcp, "8081", --bind, lo6, --tcp, "8081"], expose: ["8080"] }
"#,
    );
    for host in ["four", "six", "both", "local"] {
        assert_eq!(ask(project.at(host, 8080)).value("host"), host);
    }
    for (name, host) in project.ps() {
        assert_eq!(host.state, "running", "{name}");
    }
}

#[test]
fn the_peer_a_server_sees_is_the_callers_address() {
    let project = Project::up(
        "peers",
        r#"
services:
  front: { command: ["@guest@", --tcp, "8080", --upstream, "middle:8080"], expose: ["8080"] }
  middle: { command: ["@guest@", --bind, any6, --tcp, "8080", --upstream, "back:8080"], expose: ["8080"] }
  back: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let line = ask(project.at("front", 8080)).0;
    let middle = Answer(line.split_once("upstream=<").unwrap().1.to_owned());
    let back = Answer(middle.0.split_once("upstream=<").unwrap().1.to_owned());
    assert_eq!((middle.value("host"), back.value("host")), ("middle", "back"));
    assert_eq!(middle.peer(), project.host("front").address.to_string());
    assert_eq!(back.peer(), project.host("middle").address.to_string());
}

#[test]
fn localhost_is_private_to_a_host() {
    let project = Project::up(
        "localhost",
        r#"
services:
  one: { command: ["@guest@", --tcp, "8080", --bind, lo4, --tcp, "7000", --bind, lo6, --tcp, "7001"], expose: ["8080"] }
  two: { command: ["@guest@", --tcp, "8080", --bind, lo4, --tcp, "7000"], expose: ["8080"] }
  three: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let guest = common::guest("guest");
    let guest = guest.to_str().unwrap();
    let exec = |host: &str, target: &str| {
        project
            .imsup(&["exec", host, "--", guest, "--call", target])
            .stdout
            .trim_end()
            .to_owned()
    };
    // A host is ready with its first port; a connect to its own localhost never waits for the
    // others.
    for host in ["one", "two", "three"] {
        project.ok(&["wake", host]);
        wait_until("all ports", || project.ok(&["logs", host]).contains("listening"));
    }
    for host in ["one", "two"] {
        let said = exec(host, "127.0.0.1:7000");
        assert!(
            said.contains(&format!("host={host} ")) && said.contains("peer=127.0.0.1:"),
            "{host}: {said}"
        );
        assert!(said.contains("own=127.0.0.1:7000"), "{host}: {said}");
    }
    let said = exec("one", "::1:7001");
    // The peer is a v4-mapped localhost: no address of IPv6 is local without privilege but ::1
    // itself, which all hosts share.
    assert!(
        said.contains("host=one ") && said.contains("peer=[::ffff:127.0.0.1]:"),
        "{said}"
    );
    let said = exec("three", "127.0.0.1:8080");
    assert!(
        said.contains("host=three ") && said.contains("peer=127.0.0.1:"),
        "a wildcard listener: {said}"
    );
    assert_eq!(
        exec("three", "127.0.0.1:7000"),
        "call 127.0.0.1:7000: connect: ECONNREFUSED"
    );
    assert_eq!(
        exec("three", "one:7000"),
        "call one:7000: connect: ECONNREFUSED",
        "localhost is not the VIP"
    );
}

#[test]
fn down_ends_programs_that_ignore_sigterm_and_their_children() {
    let project = Project::up(
        "stubborn",
        r#"
services:
  web:
    command: ["@guest@", --ignore-term, --workers, "3", --busy, --tcp, "8080"]
    expose: ["8080"]
    stop_grace_period: 200ms
"#,
    );
    ask(project.at("web", 8080));
    let address = project.at("web", 8080);
    project.down();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn up_in_the_foreground_streams_events_and_logs_and_ends_with_sigint() {
    let project = Project::new(
        "foreground",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let mut command = project.imsup_command(&["up"]);
    command.env("NO_COLOR", "1");
    let mut up = Background::spawn(command, Stdio::piped());
    let screen = Arc::new(Mutex::new(String::new()));
    let (output, shown) = (up.child.stdout.take().unwrap(), Arc::clone(&screen));
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            *shown.lock().unwrap() += &(line + "\n");
        }
    });
    wait_until("the broker", || project.imsup(&["ps"]).success());
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    wait_until("the event and what the program prints", || {
        let screen = screen.lock().unwrap();
        screen.contains("ready") && screen.contains("listening")
    });
    up.signal(Signal::INT);
    up.finish(LIMIT);
    project.expect_nothing_left();
}

#[test]
fn two_projects_do_not_share_addresses() {
    let compose = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;
    let one = Project::up("one", compose);
    let two = Project::up("two", compose);
    let (first, second) = (one.at("web", 8080), two.at("web", 8080));
    assert_ne!(first, second);
    let (a, b) = (ask(first), ask(second));
    assert_ne!(a.pid(), b.pid());
    drop(one);
    assert_eq!(ask(second).pid(), b.pid());
}

#[test]
fn output_of_programs_goes_to_the_logs() {
    let project = Project::up(
        "logs",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    ask(project.at("web", 8080));
    project.wait_event("web", "ready", 1);
    assert!(project.ok(&["logs", "web"]).contains("listening"));
    let mut follower = Background::spawn(project.imsup_command(&["logs", "-f", "web"]), Stdio::piped());
    let mut lines = BufReader::new(follower.child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("listening"));
    project.ok(&["restart", "web"]);
    assert!(
        lines.any(|line| line.unwrap().contains("listening")),
        "the second boot's line is followed"
    );
}

/// Natively a closed port has no listener; imsup's duplicates keep the socket open, and must not
/// keep it listening. The next boot has it again.
#[test]
fn what_a_program_closes_refuses_until_its_next_boot() {
    let project = Project::new(
        "closed",
        r#"services: { shop: { command: [python3, "@dir@/shop.py"], expose: ["8080", "8081"] } }"#,
    );
    let program = r"
import socket
listener, end = socket.create_server(('', 8080)), socket.create_server(('', 8081))
client = listener.accept()[0]
client.recv(1)
client.sendall(b'served\n')
listener.close()
client.close()
end.accept()
";
    std::fs::write(project.path("shop.py"), program).unwrap();
    project.ok(&["up", "-d"]);
    let address = project.host("shop").address;
    let (listener, end) = (SocketAddr::from((address, 8080)), SocketAddr::from((address, 8081)));
    assert_eq!(client::ask_line(listener, "x").unwrap(), "served");
    wait_until("the closed port to refuse", || {
        TcpStream::connect(listener).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    TcpStream::connect(end).unwrap();
    project.wait_event("shop", "exit", 1);
    assert_eq!(client::ask_line(listener, "x").unwrap(), "served", "by the next boot");
    assert_eq!(project.host("shop").boots, 2);
}

#[test]
fn hosts_boot_with_a_zygote_and_without() {
    let project = Project::up(
        "born",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], environment: { GREETING: "a b=c" }, working_dir: / }
"#,
    );
    let zygote = || {
        let all = project.processes().into_iter();
        all.filter(|one| one.command.contains("zygote"))
            .map(|one| one.pid)
            .next()
    };
    wait_until("a zygote", || zygote().is_some());
    let boot = || {
        let pid = ask(project.at("web", 8080)).pid();
        let of = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
        let environment = of("environ");
        let variable = |text: &[u8]| environment.split(|byte| *byte == 0).any(|entry| entry == text);
        assert!(variable(b"GREETING=a b=c"));
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(cwd, std::path::Path::new("/"));
        let supervisor = parent(pid).unwrap();
        let line = std::fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
        assert_eq!(parent(supervisor), Some(project.broker()), "the broker reaps it");
        assert!(
            line.contains("web") || line.contains("zygote"),
            "ps shows which: {line}"
        );
        assert!(!line.contains("8080"), "everybody can read a command line: {line}");
        project.ok(&["stop", "web"]);
        line.contains("zygote")
    };
    assert!(boot());
    let first = zygote().unwrap();
    project.kill(first);
    assert!(!boot(), "it is executed where there is no zygote");
    assert_ne!(zygote(), Some(first));
    assert!(boot(), "there is another");
}

/// A zygote that was killed before its first boot is replaced later.
#[test]
fn another_zygote_comes_after_one_that_never_answered() {
    let project = Project::up(
        "unborn",
        "services: { web: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] } }",
    );
    let zygote = || {
        project
            .processes()
            .into_iter()
            .find(|one| one.command.contains("zygote"))
    };
    wait_until("a zygote", || zygote().is_some());
    project.kill(zygote().unwrap().pid);
    ask(project.at("web", 8080));
    project.ok(&["stop", "web"]);
    wait_until("another zygote", || zygote().is_some());
}
