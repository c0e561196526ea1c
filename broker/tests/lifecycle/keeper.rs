//! Brokers that a keeper follows.

use std::io::{Read, Write};
use std::net::TcpListener;

use imsup_protocol::message::Role;
use imsup_protocol::{Request, Response, ToBroker};
use imsup_wire::{EventKind, HostState};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::closed::{inode, say_closed};
use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, exists, kill, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_next_broker_answers_what_waited_for_the_first", queue),
        trial("the_next_broker_knows_what_runs_and_what_is_retained_for_it", running),
        trial(
            "a_port_that_another_process_has_is_done_without_by_the_next_broker",
            taken,
        ),
        trial("a_project_that_cannot_be_brought_up_leaves_no_keeper", failure),
        trial("a_broker_that_is_told_to_end_ends_its_keeper", sigterm),
    ]
}

pub fn up(hosts: &str) -> World {
    let mut world = World::prepare(hosts);
    world.keeper = true;
    world.start();
    world
}

/// The process of the broker that answers now.
fn broker(world: &World) -> u32 {
    match world.ask(Request::Broker).unwrap()[..] {
        [Response::Broker { pid, .. }] => pid,
        ref other => panic!("no broker: {other:?}"),
    }
}

/// Kills the first broker, and gives the process of the next.
pub fn replace(world: &mut World) -> u32 {
    world.kill_broker();
    let next = broker(world);
    assert!(exists(next));
    next
}

pub fn down(world: &World) {
    world.ask(Request::Down).unwrap();
    until("everything to be gone", || world.processes().is_empty().then_some(()));
    assert!(!world.paths.runtime().exists() && !world.paths.state().exists());
}

fn queue() {
    let mut world = up("web tcp=8080 -- listen:8080 settle serve");
    let endpoint = world.tcp("web", 8080);
    kill(world.broker_pid(), Signal::STOP);
    let mut waiting: Vec<_> = (0..3).map(|_| connect(endpoint).unwrap()).collect();
    replace(&mut world);
    for stream in &mut waiting {
        stream.write_all(b"?").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), "web");
    }
    assert_eq!(world.host("web").boots, 1);
    down(&world);
}

fn running() {
    let mut world = up("web tcp=8080 -- listen:8080 listen:9000 settle serve\ndb tcp=5432 -- listen:5432 settle serve");
    let (web, learned) = (world.tcp("web", 8080), world.tcp("web", 9000));
    assert_eq!(request(web).unwrap(), "web");
    let before = world.host("web");
    replace(&mut world);
    let after = world.wait_for_state("web", HostState::Running);
    assert_eq!((after.pid, after.boots), (before.pid, 1));
    until("its sockets", || (world.host("web").ports.len() == 2).then_some(()));
    assert_eq!(request(learned).unwrap(), "web");
    // The ports that the host listened on boot the host again, and so does its declared port.
    kill(after.pid.unwrap(), Signal::KILL);
    world.wait_for_event("web", EventKind::Exit);
    for endpoint in [learned, web] {
        let answer = until("the next boot", || request(endpoint).ok());
        assert_eq!(answer, "web");
    }
    assert_eq!(world.host("web").boots, 2);
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db");
    down(&world);
}

fn taken() {
    let mut world = up(
        "web tcp=8080 tcp=8081 tcp=8082 -- listen:8081 listen:8082 settle serve\ndb tcp=5432 -- listen:5432 settle serve",
    );
    let endpoint = world.tcp("web", 8080);
    let mut peer = Peer::connect(&world.paths);
    peer.hello(Some("web".parse().unwrap()), Role::Started, None);
    let (_, retained, mut sockets) = peer.welcome();
    let place = retained.iter().position(|retained| *retained == endpoint).unwrap();
    let socket = sockets.swap_remove(place);
    peer.tell(&ToBroker::Listening { endpoint }, vec![socket.try_clone().unwrap()]);
    world.wait_for_state("web", HostState::Running);
    let number = inode(&socket);
    drop(socket);
    say_closed(&mut peer, endpoint, number);
    let other = TcpListener::bind(endpoint.address).expect("the port is free");
    drop((peer, sockets));
    world.wait_for_state("web", HostState::Imaginary);
    replace(&mut world);
    for (host, port) in [("web", 8081), ("web", 8082), ("db", 5432)] {
        assert_eq!(request(world.tcp(host, port)).unwrap(), host);
    }
    drop(other);
    down(&world);
}

fn failure() {
    let ports: String = (1..200).map(|port| format!(" tcp={port}")).collect();
    let mut world = World::prepare(&format!("web{ports} -- serve"));
    world.keeper = true;
    world.descriptors = Some(100);
    let error = world.failure();
    assert!(error.contains("descriptors"), "{error}");
    world.expect_no_processes();
    assert!(!world.paths.runtime().exists());
}

fn sigterm() {
    let mut world = up("web tcp=8080 -- listen:8080 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let processes = world.processes();
    let is_keeper = |arguments: &[String]| arguments.get(1).is_some_and(|verb| verb == "keeper");
    assert!(
        processes.iter().any(|(_, arguments)| is_keeper(arguments)),
        "{processes:?}"
    );
    kill(world.broker_pid(), Signal::TERM);
    assert!(world.broker.take().unwrap().wait().unwrap().success());
    world.expect_no_processes();
    assert!(!world.paths.runtime().exists() && !world.paths.state().exists());
}
