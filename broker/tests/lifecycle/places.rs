//! Names and addresses of hosts that `imsup run` made, which are not given to others while the
//! supervisors look for the next broker.

use std::fs::File;
use std::io::Write;

use imsup_protocol::ToSupervisor;
use imsup_protocol::message::{Adoption, Role};
use imsup_wire::{ErrorKind, Index, Usage};
use libtest_mimic::Trial;
use rustix::fs::FlockOperation;

use crate::peer::Peer;
use crate::trial;
use crate::world::World;

pub fn trials() -> Vec<Trial> {
    vec![trial("what_a_host_has_is_kept_for_it", kept)]
}

/// Introduces itself as a host without a given name; returns its name and address.
fn transient(world: &World) -> (Peer, String, Index) {
    let mut peer = Peer::connect(&world.paths);
    peer.hello(None, Role::Transient, None);
    match peer.hear() {
        ToSupervisor::Welcome { host, index, .. } => (peer, host.to_string(), index),
        other => panic!("no welcome: {other:?}"),
    }
}

/// The file that a supervisor locks while its host runs.
fn lock(world: &World, host: &str, index: Index) -> File {
    let path = world.paths.running(host);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(&path).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    write!(file, "{}\n\n{}\n", std::process::id(), index.number()).unwrap();
    file
}

fn kept() {
    let mut world = World::up("web tcp=8080 -- serve");
    let (first, first_name, first_index) = transient(&world);
    let (second, second_name, second_index) = transient(&world);
    let _first_lock = lock(&world, &first_name, first_index);
    let second_lock = lock(&world, &second_name, second_index);
    world.kill_broker();
    drop((first, second));
    world.start();

    let (_third, third_name, third_index) = transient(&world);
    assert!(![&first_name, &second_name].contains(&&third_name), "{third_name}");
    assert!(![first_index, second_index].contains(&third_index), "{third_index:?}");
    let mut same_name = Peer::connect(&world.paths);
    same_name.hello(Some(first_name.parse().unwrap()), Role::Transient, None);
    assert_eq!(same_name.rejection(), ErrorKind::NameTaken);

    let mut first = Peer::connect(&world.paths);
    let adoption = Adoption {
        index: first_index,
        pid: 4711,
        started_us: 0,
        ready: true,
        suspended_us: None,
        usage: Usage::default(),
    };
    first.hello(Some(first_name.parse().unwrap()), Role::Transient, Some(adoption));
    assert_eq!(first.welcome().0, first_index);

    // The other supervisor ends instead of coming back.
    drop(second_lock);
    let (_fourth, fourth_name, fourth_index) = transient(&world);
    assert_eq!((fourth_name, fourth_index), (second_name, second_index));
}
