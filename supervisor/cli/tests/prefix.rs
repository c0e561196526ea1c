//! Hosts whose addresses lie outside of 127.0.0.0/8 (`x-imsup.subnet`, `ipam`), each test in a
//! network of its own.

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use common::client::{ask, ask_datagram};
use common::command::run;
use common::{LIMIT, Project, network, wait_until};

const PREFIX: &str = "10.77.0.0/16";

#[test]
fn hosts_of_another_prefix_boot_reach_each_other_and_are_named() {
    if !network::is_own() {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = Project::up(
        "prefix",
        &format!(
            r#"
x-imsup: {{ subnet: {PREFIX} }}
services:
  web: {{ command: ["@guest@", --tcp, "8080", --upstream, "app:8080"], ports: ["127.0.0.1:{port}:8080"] }}
  app: {{ command: ["@guest@", --tcp, "8080", --upstream, "db:9000"], expose: ["8080"] }}
  db: {{ command: ["@guest@", --bind, any6, --tcp, "9000", --udp, "9001"], expose: ["9000", "9001/udp"] }}
"#
        ),
    );
    let hosts = project.ps();
    for host in hosts.values() {
        assert_eq!(host.address.octets()[..2], [10, 77], "{host:?}");
    }
    // A chain of three absent hosts, from an unsupervised client.
    let answer = ask(project.at("web", 8080));
    assert_eq!(
        answer.peer(),
        "127.0.0.1",
        "as on a machine's own addresses: {}",
        answer.0
    );
    assert_eq!(answer.value("own"), project.at("web", 8080).to_string());
    let (_, upstream) = answer.0.split_once("upstream=<").unwrap();
    assert!(upstream.starts_with("host=app "), "{upstream}");
    assert!(
        upstream.contains(&format!("peer={}:", hosts["web"].address)),
        "{upstream}"
    );
    assert!(
        upstream.contains(&format!("peer=[::ffff:{}]:", hosts["app"].address)),
        "db, which is of AF_INET6, sees app: {upstream}"
    );
    let boots = ["web", "app", "db"].map(|name| project.host(name).boots);
    assert_eq!(boots, [1, 1, 1]);
    assert_eq!(project.wait_event("db", "allocate", 1).by.as_deref(), Some("app"));
    assert_eq!(ask_datagram(project.at("db", 9001)).value("host"), "db");
    assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], port))).value("host"), "web");
    // Names, there and back, and for readers of /etc/hosts.
    let db = hosts["db"].address;
    assert_eq!(project.run_guest(&["--lookup", "db"]), format!("lookup db: {db}\n"));
    let back = format!("import socket; print(socket.gethostbyaddr('{db}')[0])");
    let named = project.run(&["python3", "-c", &back]).expect_success("PTR");
    assert_eq!(named.trim(), "db");
    let lines = project.ok(&["config", "--format", "json"]);
    assert!(lines.contains(r#""subnet": "10.77.0.0/16""#), "{lines}");
    let file = std::fs::read_to_string(project.runtime().join("hosts")).unwrap();
    assert!(file.contains(&format!("{db} db")), "{file}");
    assert_eq!(network::local_routes(PREFIX).len(), 1);
    project.down();
    assert_eq!(network::local_routes(PREFIX), [""; 0]);
}

#[test]
fn localhost_is_a_hosts_own_there_too() {
    if !network::is_own() {
        return;
    }
    let project = Project::up(
        "own",
        r#"
x-imsup: { subnet: 10.77.5.0/24 }
services:
  any: { command: ["@guest@", --tcp, "8080", --bind, any6, --tcp, "8081", --bind, lo4, --tcp, "8082"], expose: ["8080"] }
  other: { command: ["@guest@", --tcp, "8080"] }
"#,
    );
    // The host is ready with its first port; a connect to its own localhost never waits for the
    // others.
    project.ok(&["wake", "any"]);
    wait_until("all ports", || project.ok(&["logs", "any"]).contains("listening"));
    for port in ["8080", "8081", "8082"] {
        let said = project.ok(&[
            "exec",
            "any",
            "--",
            common::guest("guest").to_str().unwrap(),
            "--call",
            &format!("127.0.0.1:{port}"),
        ]);
        assert!(said.contains("host=any ") && said.contains("127.0.0.1:"), "{said}");
    }
    // From the program's own supervisor, which knows its listeners.
    let script = "import socket,threading
s = socket.create_server(('', 7000)); c = socket.create_connection(('127.0.0.1', 7000)); a, p = s.accept()
print(p[0], c.getpeername()[0], c.getsockname()[0], a.getsockname()[0])
s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7001))
c = socket.socket(type=socket.SOCK_DGRAM); c.sendto(b'ping', ('127.0.0.1', 7001)); d, p = s.recvfrom(9)
s.sendto(b'pong', p); print(p[0], c.recvfrom(9)[0])";
    let said = project
        .run(&["python3", "-c", script])
        .expect_success("own wildcard listener");
    assert_eq!(said, "127.0.0.1 127.0.0.1 127.0.0.1 127.0.0.1\n127.0.0.1 b'pong'\n");
    let other = project.run(&[common::guest("guest").to_str().unwrap(), "--call", "127.0.0.1:8080"]);
    assert!(
        !other.success(),
        "another host's listener is not on this one's localhost: {other}"
    );
}

/// For a route without a source the kernel uses the destination as the source; the supervisor binds
/// the source then.
#[test]
fn an_administrators_route_is_used_and_left() {
    if !network::is_own() {
        return;
    }
    network::ip("route add local 10.77.0.0/16 dev lo");
    let project = Project::new(
        "theirs",
        &format!(
            "x-imsup: {{ subnet: {PREFIX} }}\nservices:\n  web: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n"
        ),
    );
    run(without_capability(&project, &["up", "-d"]), LIMIT).expect_success("up without CAP_NET_ADMIN");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let script = "import socket
s = socket.create_server(('', 7000)); c = socket.create_connection(('127.0.0.1', 7000)); print(s.accept()[1][0])";
    let said = project
        .run(&["python3", "-c", script])
        .expect_success("own wildcard listener");
    assert_eq!(said.trim(), "127.0.0.1");
    project.down();
    assert_eq!(network::local_routes(PREFIX).len(), 1);
}

#[test]
fn the_ipam_subnet_of_a_network_is_honoured() {
    if !network::is_own() {
        return;
    }
    let project = Project::up(
        "ipam",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], networks: { back: { ipv4_address: 172.28.5.7 } } }
  db: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], networks: [back] }
networks: { back: { ipam: { config: [ { subnet: 172.28.0.0/16 } ] } } }
"#,
    );
    assert_eq!(project.host("web").address, Ipv4Addr::new(172, 28, 5, 7));
    assert_eq!(ask(project.at("db", 8080)).value("host"), "db");
    assert_eq!(network::local_routes("172.28.0.0/16").len(), 1);
}

#[test]
fn the_route_goes_with_the_last_project_that_has_the_prefix() {
    if !network::is_own() {
        return;
    }
    let compose = format!(
        "x-imsup: {{ subnet: {PREFIX} }}\nservices:\n  web: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n"
    );
    let one = Project::up("one", &compose);
    let two = Project::up("two", &compose);
    assert_ne!(one.host("web").address.octets()[2], two.host("web").address.octets()[2]);
    one.down();
    assert_eq!(ask(two.at("web", 8080)).value("host"), "web");
    two.down();
    assert_eq!(network::local_routes(PREFIX), [""; 0]);
}

/// Own localhosts depend on the index, whatever the prefix of the VIPs.
#[test]
fn projects_of_different_prefixes_share_no_block() {
    if !network::is_own() {
        return;
    }
    let compose =
        |subnet: &str| format!("x-imsup: {{ subnet: {subnet} }}\nservices:\n  web: {{ command: [\"@guest@\"] }}\n");
    let _one = Project::up("one", &compose("10.77.5.0/24"));
    let two = Project::new("two", &compose("127.77.5.0/24"));
    let said = two.fails(1, &["up", "-d"]);
    assert!(said.contains("127.77.5.0") && said.contains("in use"), "{said}");
    two.write_compose(&compose("127.77.6.0/24"));
    two.ok(&["up", "-d"]);
}

/// Another project's host has the number on its own address, as one of the same prefix would.
#[test]
fn a_published_port_may_have_the_number_of_a_host_of_another_prefix() {
    if !network::is_own() {
        return;
    }
    let _one = Project::up(
        "one",
        &format!(
            "x-imsup: {{ subnet: {PREFIX} }}\nservices:\n  web: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n"
        ),
    );
    let _two = Project::up(
        "two",
        "services:\n  published: { command: [\"@guest@\", --tcp, \"9000\"], ports: [\"8080:9000\"] }\n",
    );
    assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], 8080))).value("host"), "published");
}

#[test]
fn what_a_killed_broker_left_is_taken_over_or_away() {
    if !network::is_own() {
        return;
    }
    let compose = |subnet: &str| {
        format!(
            "x-imsup: {{ subnet: {subnet} }}\nservices:\n  web: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n"
        )
    };
    let project = Project::up("killed", &compose(PREFIX));
    let pid = ask(project.at("web", 8080)).pid();
    project.kill_broker();
    assert_eq!(network::local_routes(PREFIX).len(), 1, "what runs goes on");
    // The next broker has the same route, and the host that runs.
    project.ok(&["up", "-d"]);
    assert_eq!(network::local_routes(PREFIX).len(), 1);
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
    // Another prefix is not for hosts that run.
    project.kill_broker();
    project.write_compose(&compose("10.78.0.0/16"));
    let said = project.fails(1, &["up", "-d"]);
    assert!(said.contains("imsup down"), "{said}");
    // Without a broker.
    project.down();
    assert_eq!(network::local_routes(PREFIX), [""; 0]);
    // A broker that dies without live hosts, and a next one with another prefix.
    project.ok(&["up", "-d"]);
    project.kill_broker();
    project.write_compose(&compose(PREFIX));
    project.ok(&["up", "-d"]);
    assert_eq!(network::local_routes("10.78.0.0/16"), [""; 0]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
}

#[test]
fn a_network_that_the_machine_needs_is_refused() {
    if !network::is_own() {
        return;
    }
    network::ip("link add eth7 type veth peer name eth8");
    network::ip("address add 10.77.3.2/24 dev eth7");
    network::ip("link set eth7 up");
    network::ip("address add 192.0.2.1/32 dev eth8");
    network::ip("link set eth8 up");
    network::ip("route add default via 10.79.0.1 dev eth8 onlink");
    network::ip("route add 10.128.0.0/12 via 10.77.3.1");
    // A device's carrier comes when the kernel has time for it.
    let routes = || network::ip("-4 route show table all").replace(" linkdown", "");
    let before = routes();
    for (subnet, expected) in [
        (PREFIX, "network of interface eth7 (10.77.3.2/24)"),
        ("10.79.0.0/16", "gateway 10.79.0.1"),
        ("10.130.0.0/16", "route to 10.128.0.0/12"),
    ] {
        let project = Project::new(
            "needed",
            &format!("x-imsup: {{ subnet: {subnet} }}\nservices:\n  web: {{ command: [\"@guest@\"] }}\n"),
        );
        let said = project.fails(1, &["up", "-d"]);
        assert!(said.contains(expected), "{subnet}: {said}");
    }
    assert_eq!(routes(), before);
}

#[test]
fn without_the_capability_it_is_said_what_to_do() {
    if !network::is_own() {
        return;
    }
    let project = Project::new(
        "unable",
        &format!("x-imsup: {{ subnet: {PREFIX} }}\nservices:\n  web: {{ command: [\"@guest@\"] }}\n"),
    );
    let finished = run(without_capability(&project, &["up", "-d"]), LIMIT);
    assert_eq!(finished.code(), Some(1), "{finished}");
    for part in [
        "CAP_NET_ADMIN",
        "root",
        "ip route add local 10.77.0.0/16 dev lo",
        "127.77.0.0/16",
    ] {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
    project.expect_nothing_left();
    assert_eq!(network::local_routes(PREFIX), [""; 0]);
    assert!(TcpStream::connect((Ipv4Addr::new(10, 77, 5, 1), 1053)).is_err());
}

/// `imsup VERB`, by a root without CAP_NET_ADMIN.
fn without_capability(project: &Project, arguments: &[&str]) -> std::process::Command {
    let (verb, rest) = arguments.split_first().unwrap();
    let imsup = common::imsup();
    let mut all = vec![
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        imsup.to_str().unwrap(),
        verb,
        "-p",
        &project.name,
    ];
    all.extend(rest);
    project.command("setpriv", &all)
}
