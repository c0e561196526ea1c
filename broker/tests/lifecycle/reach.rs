//! Supervised clients that find no listener.

use std::io::{ErrorKind, Read, Write};

use imsup_protocol::{Outcome, Request, ToBroker};
use imsup_wire::{CauseKind, Endpoint, ExitStatus, HostState, Planes, Usage};
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, request};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_caller_that_can_wait_waits_until_the_host_listens", waits),
        trial("a_caller_that_cannot_wait_gets_a_tentative_listener", tentative),
        trial("a_tentative_listener_that_is_not_taken_up_resets", tentative_unused),
        trial("a_transient_host_gets_tentative_listeners_too", tentative_transient),
        trial(
            "a_caller_that_cannot_wait_is_refused_where_no_listener_can_be_made",
            no_tentative,
        ),
        trial("a_settled_host_refuses_what_it_does_not_listen_on", settled),
        trial("a_wait_ends_at_hold_timeout", timed_out),
        trial("a_host_that_cannot_start_refuses", cannot_start),
        trial("addresses_of_nobody_are_unknown", unknown),
        trial("a_cancelled_question_is_not_answered", cancelled),
        trial("datagrams_to_undeclared_ports_are_kept", datagram),
        trial("a_port_learned_is_retained_after_down_and_up", learned),
    ]
}

fn waits() {
    let mut world = World::prepare("");
    world.hosts = format!("db -- wait:{} listen:5432 settle serve", world.path("go"));
    world.start();
    let (mut caller, _) = Peer::transient(&world.paths, Some("caller"));
    let endpoint = world.tcp("db", 5432);
    let question = caller.ask(endpoint, true);
    world.wait_for_state("db", HostState::Booting);
    world.touch("go");
    assert_eq!(caller.outcome(question), Outcome::Connect);
    assert_eq!(request(endpoint).unwrap(), "db");
    let events = world.events();
    let event = events.iter().find(|event| event.host.as_str() == "db").unwrap();
    let cause = event.cause.as_ref().unwrap();
    assert_eq!((cause.kind, cause.port), (CauseKind::Connect, Some(5432)));
    assert_eq!(cause.by.as_deref(), Some("caller"));
}

fn tentative() {
    let mut world = World::prepare("");
    world.hosts = format!("db -- wait:{} listen:5432 settle serve", world.path("go"));
    world.start();
    let (mut caller, _) = Peer::transient(&world.paths, None);
    let endpoint = world.tcp("db", 5432);
    assert_eq!(caller.reach(endpoint, false), Outcome::Connect);
    let client = std::thread::spawn(move || request(endpoint));
    world.touch("go");
    assert_eq!(
        client.join().unwrap().unwrap(),
        "db",
        "the connection made before is served"
    );
    assert_eq!(world.host("db").boots, 1);
}

fn tentative_unused() {
    let mut world = World::prepare("");
    world.hosts = format!("db -- wait:{} settle serve", world.path("go"));
    world.start();
    let (mut caller, _) = Peer::transient(&world.paths, None);
    let endpoint = world.tcp("db", 5432);
    assert_eq!(caller.reach(endpoint, false), Outcome::Connect);
    let mut client = connect(endpoint).unwrap();
    world.touch("go");
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(connect(endpoint).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(world.host("db").ports.is_empty());
}

fn tentative_transient() {
    let world = World::up("db -- serve");
    let (mut caller, _) = Peer::transient(&world.paths, None);
    let (mut tool, index) = Peer::transient(&world.paths, None);
    let vip = Planes::default().vip(index);
    let (taken, unused) = (Endpoint::tcp(vip, 18_301), Endpoint::tcp(vip, 18_302));
    assert_eq!(caller.reach(taken, false), Outcome::Connect);
    assert_eq!(caller.reach(unused, false), Outcome::Connect);
    let (mut early, mut late) = (connect(taken).unwrap(), connect(unused).unwrap());
    let socket = tool.claim(taken).expect("the tentative listener");
    let copy = socket.try_clone().unwrap();
    tool.tell(&ToBroker::Listening { endpoint: taken }, vec![copy]);
    let (mut served, _) = std::net::TcpListener::from(socket).accept().unwrap();
    served.write_all(b"!").unwrap();
    early.read_exact(&mut [0]).unwrap();
    let own = Planes::default().address(imsup_wire::Plane::Localhost, index);
    tool.tell(&ToBroker::Settled, Vec::new());
    assert_eq!(tool.reach(Endpoint::tcp(own, 1), false), Outcome::Refused);
    // A caller that waits for a port waits for as long as the program lives.
    tool.say(ToBroker::Exited {
        status: ExitStatus::Code(0),
        usage: Usage::default(),
    });
    drop(tool);
    assert_eq!(late.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn no_tentative() {
    let ports: Vec<String> = (1..=50).map(|port| format!("tcp={}", 5000 + port)).collect();
    let mut world = World::prepare(&format!("db hold=2000 {} -- serve", ports.join(" ")));
    // Of which half may be retained.
    world.descriptors = Some(100);
    world.start();
    let (mut caller, _) = Peer::transient(&world.paths, None);
    assert_eq!(caller.reach(world.tcp("db", 5432), false), Outcome::Refused);
    assert_eq!(world.host("db").state, HostState::Booting, "it is needed all the same");
}

fn settled() {
    let world = World::up("db -- settle serve");
    let (mut caller, index) = Peer::transient(&world.paths, None);
    let endpoint = world.tcp("db", 5432);
    assert_eq!(caller.reach(endpoint, true), Outcome::Refused);
    assert_eq!(world.host("db").state, HostState::Running);
    assert_eq!(caller.reach(endpoint, true), Outcome::Refused);
    let planes = imsup_wire::Planes::default();
    let db = planes.place(*endpoint.address.ip()).unwrap().index;
    let other = planes.address(imsup_wire::Plane::Localhost, db);
    assert_eq!(
        caller.reach(Endpoint::tcp(other, 1), true),
        Outcome::Refused,
        "another's localhost"
    );
    assert_ne!(db, index);
}

fn timed_out() {
    let world = World::up("db hold=200 -- serve");
    let (mut caller, _) = Peer::transient(&world.paths, None);
    assert_eq!(caller.reach(world.tcp("db", 5432), true), Outcome::TimedOut);
}

fn cannot_start() {
    let world = World::up("db -- fail:1\nmissing -- noexec");
    let (mut caller, _) = Peer::transient(&world.paths, None);
    assert_eq!(caller.reach(world.tcp("db", 5432), true), Outcome::Refused);
    assert_eq!(world.host("db").boots, 3);
    assert_eq!(caller.reach(world.tcp("missing", 5432), true), Outcome::Refused);
    assert_eq!(world.host("missing").boots, 0);
}

fn unknown() {
    let world = World::up("db -- serve");
    let (mut caller, _) = Peer::transient(&world.paths, None);
    let [a, b, c, _] = world.vip("db").octets();
    for address in [[a, b, c, 200], [a, b, c, 0], [10, 0, 0, 1]] {
        let endpoint = Endpoint::tcp(address.into(), 80);
        assert_eq!(caller.reach(endpoint, true), Outcome::Unknown);
    }
}

fn cancelled() {
    let mut world = World::prepare("");
    world.hosts = format!("db -- wait:{} settle serve", world.path("go"));
    world.start();
    let (mut caller, _) = Peer::transient(&world.paths, None);
    let endpoint = world.tcp("db", 5432);
    let id = caller.ask(endpoint, true);
    caller.tell(&ToBroker::CancelReach { id }, Vec::new());
    let kept = caller.ask(endpoint, true);
    // A connection is served in order, so all of this has been heard once the last question is
    // answered.
    let unknown = caller.ask(Endpoint::tcp([10, 0, 0, 1].into(), 80), true);
    assert_eq!(caller.outcome(unknown), Outcome::Unknown);
    world.touch("go");
    assert_eq!(
        caller.outcome(kept),
        Outcome::Refused,
        "only the question that was kept is answered"
    );
}

fn datagram() {
    let world = World::up("dns -- udp:5353 settle serve");
    let (mut caller, _) = Peer::transient(&world.paths, None);
    let address = world.vip("dns");
    let endpoint = Endpoint::udp(address, 5353);
    assert_eq!(caller.reach(endpoint, true), Outcome::Connect);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"?", endpoint.address).unwrap();
    let mut buffer = [0; 16];
    let (count, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"dns\n");
    assert_eq!(
        world.events()[1..]
            .iter()
            .find_map(|event| event.cause.clone())
            .unwrap()
            .kind,
        CauseKind::Datagram
    );
}

fn learned() {
    let mut world = World::up("db -- listen:5432 settle serve");
    let endpoint = world.tcp("db", 5432);
    assert_eq!(
        connect(endpoint).unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "not declared"
    );
    let hosts = vec!["db".parse().unwrap()];
    let wake = Request::Wake {
        hosts,
        by: "tester".to_owned(),
        exec: false,
    };
    world.ask(wake).unwrap();
    assert_eq!(request(endpoint).unwrap(), "db");
    world.down();
    world.start();
    assert_eq!(world.tcp("db", 5432), endpoint, "the address is the same");
    assert_eq!(world.host("db").state, HostState::Imaginary);
    assert_eq!(request(endpoint).unwrap(), "db");
}
