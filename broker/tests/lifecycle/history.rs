//! A broker with a long history to report.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use imsup_protocol::channel::Channel;
use imsup_protocol::control::Opening;
use imsup_protocol::{Request, Response};
use imsup_wire::CauseKind;
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::sleep::{suspended, woke};
use crate::trial;
use crate::world::{World, until};

pub fn trials() -> Vec<Trial> {
    vec![trial("many_events_are_told_at_once", many_events)]
}

/// Wakes of the host. Their events take some 100 KiB.
const WAKES: u64 = 1_000;

/// Messages that are sent one by one fill a socket's buffer when they are 15 KiB together.
const AT_ONCE_BYTES: u64 = 64 * 1024;

fn many_events() {
    let world = World::up("web -- serve\nclient -- serve");
    let mut peer = Peer::started(&world.paths, "web");
    let by = SocketAddr::from((world.vip("client"), 40_000));
    for _ in 0..WAKES {
        peer.say(suspended(None));
        peer.say(woke(CauseKind::Data, Some(by), false));
    }
    until("all wakes", || (world.host("web").wakes == WAKES).then_some(()));

    let stream = UnixStream::connect(world.paths.socket()).unwrap();
    let mut channel = Channel::connected(stream.try_clone().unwrap());
    let opening = Opening::Control(Request::Events {
        follow: false,
        hosts: Vec::new(),
    });
    channel.send(&opening, Vec::new()).unwrap();
    until("many events before the first is read", || {
        (rustix::io::ioctl_fionread(&stream).unwrap() >= AT_ONCE_BYTES).then_some(())
    });
    let mut events = 0;
    loop {
        match channel.receive::<Response>().unwrap() {
            Some(Response::Event(_)) => events += 1,
            Some(Response::Done) => break,
            other => panic!("no event: {other:?}"),
        }
    }
    assert!(events >= 2 * WAKES, "{events}");
}
