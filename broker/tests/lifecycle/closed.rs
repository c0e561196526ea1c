//! Sockets that a program closes while it runs on.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use imsup_protocol::message::Role;
use imsup_protocol::{Outcome, Request, ToBroker, ToSupervisor};
use imsup_wire::{Endpoint, HostState};
use libtest_mimic::Trial;
use rustix::fs::fstat;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, no_starts, request};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("what_a_program_has_closed_refuses_until_it_listens_again", refuses),
        trial("another_socket_than_the_closed_one_stays", another),
        trial("what_a_program_had_closed_boots_it_after_its_end", after_the_end),
        trial(
            "what_a_program_closes_that_is_being_stopped_waits_for_the_next_boot",
            stopped,
        ),
    ]
}

/// A supervisor by hand whose program listens on its retained socket.
fn listening(world: &World) -> (Peer, Endpoint, OwnedFd) {
    let endpoint = world.tcp("web", 8080);
    let mut peer = Peer::connect(&world.paths);
    peer.hello(Some("web".parse().unwrap()), Role::Started, None);
    let (_, retained, mut sockets) = peer.welcome();
    assert_eq!(retained, [endpoint]);
    let socket = sockets.pop().unwrap();
    peer.tell(&ToBroker::Listening { endpoint }, vec![socket.try_clone().unwrap()]);
    world.wait_for_state("web", HostState::Running);
    (peer, endpoint, socket)
}

pub fn inode(socket: &OwnedFd) -> u64 {
    fstat(socket).unwrap().st_ino
}

/// Reports a closed socket, and waits until the broker has closed its duplicate too.
pub fn say_closed(peer: &mut Peer, endpoint: Endpoint, inode: u64) {
    let id = 1 << 63;
    peer.say(ToBroker::Closed { id, endpoint, inode });
    assert_eq!(peer.hear(), ToSupervisor::Claimed { id, found: false });
}

fn refuses() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (mut caller, _) = Peer::transient(&world.paths, Some("caller"));
    let (mut peer, endpoint, socket) = listening(&world);
    let mut waiting = connect(endpoint).unwrap();
    assert_eq!(caller.reach(endpoint, true), Outcome::Connect);
    let number = inode(&socket);
    drop(socket);
    say_closed(&mut peer, endpoint, number);
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(connect(endpoint).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The start is not over; but a program that has closed its listener is not about to listen.
    for can_wait in [true, false] {
        assert_eq!(caller.reach(endpoint, can_wait), Outcome::Refused);
    }
    assert!(world.host("web").ports.is_empty());
    let again = TcpListener::bind(endpoint.address).expect("the port is free");
    peer.tell(&ToBroker::Listening { endpoint }, vec![again.into()]);
    peer.say(ToBroker::Settled);
    assert_eq!(caller.reach(endpoint, true), Outcome::Connect);
    connect(endpoint).unwrap();
}

fn another() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (mut peer, endpoint, socket) = listening(&world);
    let other = world.tcp("web", 8081);
    say_closed(&mut peer, endpoint, inode(&socket) + 1);
    say_closed(&mut peer, other, inode(&socket));
    let (_tool, index) = Peer::transient(&world.paths, None);
    assert_ne!(imsup_wire::Planes::default().vip(index), *endpoint.address.ip());
    drop(socket);
    connect(endpoint).expect("the broker retains it");
}

fn after_the_end() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (mut peer, endpoint, socket) = listening(&world);
    let number = inode(&socket);
    drop(socket);
    say_closed(&mut peer, endpoint, number);
    drop(peer);
    world.wait_for_state("web", HostState::Imaginary);
    assert_eq!(request(endpoint).unwrap(), "web");
    assert_eq!(world.host("web").boots, 1);
}

fn stopped() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (mut peer, endpoint, socket) = listening(&world);
    // The broker makes a new socket as soon as this socket is closed, which is impossible beside a
    // listener. There is no wait once the host is being stopped: after the grace period this
    // process would be killed.
    let starts = no_starts();
    std::thread::scope(|scope| {
        let stop = || {
            world.ask(Request::Stop {
                hosts: vec!["web".parse().unwrap()],
            })
        };
        let stopping = scope.spawn(stop);
        assert!(matches!(peer.hear(), ToSupervisor::Stop { .. }));
        let number = inode(&socket);
        drop(socket);
        say_closed(&mut peer, endpoint, number);
        drop(starts);
        let client = scope.spawn(move || request(endpoint));
        // The client has connected, or would have been refused.
        while connect(endpoint).is_err() {
            assert!(!client.is_finished(), "{:?}", client.join());
        }
        drop(peer);
        stopping.join().unwrap().unwrap();
        assert_eq!(client.join().unwrap().unwrap(), "web", "by the next boot");
    });
}
