//! Sleepers that are connected with each other are terminated all at once, or not at all.

use libtest_mimic::Trial;

use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, ErrorKind, EventKind, HostState, Index, Order, Report};

use crate::peer::Peer;
use crate::sleep::{suspended, usage, woke};
use crate::trial;
use crate::world::World;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("connected_sleepers_are_terminated_together", together),
        trial("a_host_that_wakes_keeps_those_it_is_connected_with", one_wakes),
    ]
}

/// A sleeping host, and its index.
fn sleeper(world: &World, host: &str) -> (Peer, Index) {
    let mut peer = Peer::started(&world.paths, host);
    peer.say(suspended(None));
    world.wait_for_state(host, HostState::Suspended);
    let address = world.host(host).address;
    let index = imsup_wire::Planes::default().place(address).unwrap().index;
    (peer, index)
}

fn answer(peer: &mut Peer, expected: Order, report: Report) {
    let (id, order) = peer.order();
    assert_eq!(order, expected);
    peer.say(ToBroker::Answer { id, report });
}

fn terminating() -> ToBroker {
    ToBroker::Terminating {
        slept: std::time::Duration::from_secs(1),
        usage: usage(10),
    }
}

fn together() {
    let world = World::up("master -- serve\none -- serve\ntwo -- serve");
    let (mut master, of_master) = sleeper(&world, "master");
    let (mut one, of_one) = sleeper(&world, "one");
    let (mut two, of_two) = sleeper(&world, "two");
    master.say(ToBroker::Disposable {
        peers: vec![of_one, of_two],
    });
    one.say(ToBroker::Disposable { peers: vec![of_master] });
    // No host is asked before all have reported; then a host cannot prepare, and the others sleep
    // on.
    two.say(ToBroker::Disposable { peers: vec![of_master] });
    answer(&mut master, Order::Prepare, Report::Done);
    answer(&mut one, Order::Prepare, Report::Done);
    answer(
        &mut two,
        Order::Prepare,
        Report::Failed(ErrorKind::Busy.because("it ticks")),
    );
    answer(&mut master, Order::Abort, Report::Done);
    answer(&mut one, Order::Abort, Report::Done);
    // The host reports again.
    two.say(ToBroker::Disposable { peers: vec![of_master] });
    for peer in [&mut master, &mut one, &mut two] {
        answer(peer, Order::Prepare, Report::Done);
    }
    for peer in [&mut master, &mut one, &mut two] {
        let (id, order) = peer.order();
        assert_eq!(order, Order::Commit);
        peer.say(terminating());
        peer.say(ToBroker::Answer {
            id,
            report: Report::Done,
        });
    }
    for host in ["master", "one", "two"] {
        world.wait_for_event(host, EventKind::Terminate);
    }
}

fn one_wakes() {
    let world = World::up("master -- serve\none -- serve");
    let (mut master, of_master) = sleeper(&world, "master");
    let (mut one, of_one) = sleeper(&world, "one");
    master.say(ToBroker::Disposable { peers: vec![of_one] });
    master.say(woke(CauseKind::Timer, None, false));
    world.wait_for_state("master", HostState::Running);
    one.say(ToBroker::Disposable { peers: vec![of_master] });
    master.say(suspended(None));
    world.wait_for_state("master", HostState::Suspended);
    // A host ends during the question: the other host sleeps on.
    master.say(ToBroker::Disposable { peers: vec![of_one] });
    answer(&mut master, Order::Prepare, Report::Done);
    let (_, order) = one.order();
    assert_eq!(order, Order::Prepare);
    drop(one);
    answer(&mut master, Order::Abort, Report::Done);
}
