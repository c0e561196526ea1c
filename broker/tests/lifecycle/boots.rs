//! The signals that boot a host, and the resulting events.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use imsup_protocol::Request;
use imsup_wire::{CauseKind, EventKind, HostState};
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, request, socket_address, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_first_connection_boots_and_is_answered", first_connection),
        trial("a_datagram_boots", datagram),
        trial("a_published_port_boots", published),
        trial("a_crowd_at_a_published_port_starves_nobody", published_crowd),
        trial("a_kept_awake_host_boots_at_up", kept_awake),
        trial("several_sockets_share_an_endpoint", reuse_port),
        trial("a_caller_that_is_a_host_is_named", named_caller),
        trial("many_hosts_exist_at_once", many_hosts),
        trial("what_a_host_depends_on_boots_with_it", dependencies),
    ]
}

fn first_connection() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve\ndb tcp=5432 -- listen:5432 settle serve");
    let before = world.host("web");
    assert_eq!(
        (before.state, before.pid, before.boots),
        (HostState::Imaginary, None, 0)
    );
    assert_eq!(before.ports, [world.tcp("web", 8080)]);

    let mut client = connect(world.tcp("web", 8080)).unwrap();
    let own = client.local_addr().unwrap().to_string();
    client.write_all(b"?").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "web\n");

    let web = world.wait_for_state("web", HostState::Running);
    assert_eq!(web.boots, 1);
    assert!(web.pid.is_some() && web.since_us >= before.since_us);
    assert_eq!(world.host("db").state, HostState::Imaginary);
    let events = world.events();
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Allocate, EventKind::Boot, EventKind::Ready]);
    for event in &events {
        let cause = event.cause.as_ref().unwrap();
        assert_eq!((cause.kind, cause.port), (CauseKind::Connection, Some(8080)));
        assert_eq!(cause.by.as_deref(), Some(own.as_str()));
    }
    assert!(events[1].duration.is_some() && events[2].duration >= events[1].duration);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    assert_eq!(world.host("web").boots, 1, "a running host is not booted");
}

fn dependencies() {
    let world = World::up(
        "master tcp=7077 needs=one needs=two -- listen:7077 settle serve\none -- settle serve\ntwo -- settle serve\nother -- settle serve",
    );
    assert_eq!(request(world.tcp("master", 7077)).unwrap(), "master");
    for host in ["one", "two"] {
        world.wait_for_state(host, HostState::Running);
    }
    let events = world.events();
    let causes = events
        .iter()
        .filter(|event| event.kind == EventKind::Allocate)
        .map(|event| {
            let cause = event.cause.clone().unwrap();
            (event.host.to_string(), cause.kind, cause.by)
        });
    let mut causes: Vec<_> = causes.filter(|(host, ..)| host != "master").collect();
    causes.sort_by(|a, b| a.0.cmp(&b.0));
    let by_master = |host: &str| (host.to_owned(), CauseKind::Dependency, Some("master".to_owned()));
    assert_eq!(causes, [by_master("one"), by_master("two")]);
}

fn datagram() {
    let world = World::up("dns udp=5353 -- udp:5353 settle serve");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"?", socket_address(world.vip("dns"), 5353)).unwrap();
    let mut buffer = [0; 16];
    let (count, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"dns\n");
    let cause = world.events()[0].cause.clone().unwrap();
    assert_eq!((cause.kind, cause.port), (CauseKind::Datagram, Some(5353)));
    assert_eq!(cause.by, Some(client.local_addr().unwrap().to_string()));
}

fn published() {
    let world = World::up("web publish=8080 -- listen:8080 settle serve");
    let port = world.host("web").published[0].machine.port();
    for boots in [1, 1] {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"?").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "web\n");
        assert_eq!(world.host("web").boots, boots);
    }
    assert_eq!(world.events()[0].cause.as_ref().unwrap().kind, CauseKind::Published);
}

fn published_crowd() {
    let mut world =
        World::prepare("web publish=8080 -- listen:8080 settle serve\ndb tcp=5432 -- listen:5432 settle serve");
    world.descriptors = Some(256);
    world.start();
    let port = world.host("web").published[0].machine.port();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut crowd: Vec<TcpStream> = (0..60).map(|_| connect()).collect();
    assert_eq!(
        request(world.tcp("db", 5432)).unwrap(),
        "db",
        "there are descriptors left"
    );
    crowd.iter_mut().for_each(|client| client.write_all(b"?").unwrap());
    for mut client in crowd {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "web\n");
    }
}

fn kept_awake() {
    let world = World::up("cron keep=1 -- settle serve");
    world.wait_for_state("cron", HostState::Running);
    assert_eq!(world.events()[0].cause.as_ref().unwrap().kind, CauseKind::Wake);
    let hosts = vec!["cron".parse().unwrap()];
    world.ask(Request::Stop { hosts }).unwrap();
    assert_eq!(
        world.host("cron").state,
        HostState::Imaginary,
        "a stopped host stays so"
    );
}

fn reuse_port() {
    let world = World::up("web tcp=8080 -- twice:8080 settle serve");
    for _ in 0..3 {
        assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
        let hosts = vec!["web".parse().unwrap()];
        world.ask(Request::Stop { hosts }).unwrap();
        // There may be fewer workers next time, and connections to a socket without an owner would
        // wait in vain.
        let address = u32::from_ne_bytes(world.vip("web").octets());
        // Of either family: v4-mapped addresses end alike.
        let local = format!("{address:08X}:1F90 ");
        let listening = |line: &&str| line.contains(&local) && line.contains(":0000 0A ");
        // The supervisor that has reported the end has duplicates for a moment longer.
        until("one of them to be left", || {
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap());
            let rows = tables.iter().flat_map(|table| table.lines()).filter(listening);
            (rows.count() == 1).then_some(())
        });
    }
    for _ in 0..20 {
        assert_eq!(
            request(world.tcp("web", 8080)).unwrap(),
            "web",
            "whichever of the two it is"
        );
    }
    assert_eq!(world.host("web").ports.len(), 1);
}

fn named_caller() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (_peer, index) = Peer::transient(&world.paths, Some("caller"));
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let vip = imsup_wire::Planes::default().vip(index);
    rustix::net::bind(&socket, &socket_address(vip, 0)).unwrap();
    rustix::net::connect(&socket, &socket_address(world.vip("web"), 8080)).unwrap();
    let event = until("an event", || {
        world.events().into_iter().find(|event| event.host.as_str() == "web")
    });
    assert_eq!(event.cause.unwrap().by.as_deref(), Some("caller"));
}

fn many_hosts() {
    let lines: Vec<String> = (0..600)
        .map(|number| format!("h{number} tcp=8080 -- listen:8080 settle serve"))
        .collect();
    let world = World::up(&lines.join("\n"));
    let names = world.ask(Request::Hosts).unwrap();
    assert_eq!(names.len(), 600);
    for name in ["h0", "h254", "h255", "h599"] {
        let mut client = connect(world.tcp(name, 8080)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(b"?").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), name);
    }
}
