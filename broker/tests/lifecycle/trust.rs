//! Users that listen at hosts' addresses: the users that the broker trusts.

use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::Endpoint;
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::trial;
use crate::world::World;

/// An unused user number.
const STRANGER: u32 = 4_000_000_011;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_user_whom_nobody_knows_is_no_one_of_the_project", stranger),
        trial("as_whom_a_program_binds_is_trusted_by_the_next_broker_too", seen),
    ]
}

fn is_trusted(peer: &mut Peer, uid: u32, endpoint: Endpoint) -> bool {
    peer.say(ToBroker::Trusts { uid, endpoint });
    match peer.hear() {
        ToSupervisor::Trusted {
            uid: of,
            endpoint: at,
            is_trusted,
        } => {
            assert_eq!((of, at), (uid, endpoint));
            is_trusted
        }
        other => panic!("no answer: {other:?}"),
    }
}

fn stranger() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (mut caller, _) = Peer::transient(&world.paths, Some("caller"));
    let at = world.tcp("web", 9999);
    assert!(!is_trusted(&mut caller, STRANGER, at));
    assert!(is_trusted(&mut caller, 0, at));
    assert!(is_trusted(&mut caller, rustix::process::geteuid().as_raw(), at));
    let [a, b, block, _] = at.address.ip().octets();
    let name_server = Endpoint::udp([a, b, block, 0].into(), 1053);
    assert!(
        !is_trusted(&mut caller, STRANGER, name_server),
        "the broker's own address"
    );
    let others = Endpoint::tcp([a, b, block.wrapping_add(100), 7].into(), 80);
    assert!(is_trusted(&mut caller, STRANGER, others), "another project's address");
}

fn seen() {
    let mut world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let at = world.tcp("web", 9999);
    let (mut caller, _) = Peer::transient(&world.paths, Some("caller"));
    let (mut other, _) = Peer::transient(&world.paths, Some("other"));
    // Sent before the question, on another connection: the order of reading does not matter.
    other.say(ToBroker::Binds { uid: STRANGER });
    assert!(is_trusted(&mut caller, STRANGER, at));
    world.kill_broker();
    world.start();
    let (mut caller, _) = Peer::transient(&world.paths, Some("caller"));
    assert!(is_trusted(&mut caller, STRANGER, at));
}
