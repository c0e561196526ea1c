//! Hosts that boot again by themselves (`restart`), and hosts that the kernel kills because memory
//! is used up.

use imsup_protocol::Request;
use imsup_wire::{EventKind, HostName, HostState};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::trial;
use crate::world::{World, connect, exists, kill, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_host_with_restart_comes_back_until_it_is_stopped", until_stopped),
        trial("a_host_that_never_ran_does_not_begin_by_itself", never_ran),
        trial("the_next_broker_goes_on_with_a_restart", next_broker),
        trial("what_ended_while_no_broker_ran_comes_back", unseen),
        trial("out_of_memory_is_said_everywhere", out_of_memory),
    ]
}

fn boots(world: &World, name: &str, count: u64) {
    until(&format!("boot {count} of {name}"), || {
        (world.host(name).boots >= count).then_some(())
    });
}

fn names(name: &str) -> Vec<HostName> {
    vec![name.parse().unwrap()]
}

fn until_stopped() {
    let world = World::up("web tcp=8080 restart=always -- listen:8080 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    kill(world.host("web").pid.unwrap(), Signal::KILL);
    boots(&world, "web", 2);
    let again = world.of_kind("web", EventKind::Allocate).pop().unwrap();
    assert_eq!(again.cause.unwrap().by.as_deref(), Some("restart"));
    let told = world.of_kind("web", EventKind::Restart);
    assert_eq!(told.len(), 1);
    assert!(told[0].duration.is_some());
    world.wait_for_state("web", HostState::Running);
    world.ask(Request::Stop { hosts: names("web") }).unwrap();
    let stopped = world.host("web");
    assert_eq!(stopped.state, HostState::Imaginary);
    assert_eq!(
        stopped.detail.as_deref(),
        Some("was ended by signal 15"),
        "and nothing of a restart"
    );
    assert_eq!(world.of_kind("web", EventKind::Restart).len(), 1, "it was asked for");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web", "and is there still");
}

fn never_ran() {
    let world = World::up(
        "web tcp=8080 restart=always -- listen:8080 settle serve\njob restart=always -- done\ndb tcp=5432 -- listen:5432 settle serve",
    );
    // By the time that another host has run and ended, this host would have begun.
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db");
    let hosts = ["web", "job"].map(|name| world.host(name).boots);
    assert_eq!(hosts, [0, 0]);
}

fn next_broker() {
    // Long enough that the first broker is gone before the delay is over, whatever else runs.
    let mut world = World::up("web tcp=8080 restart=always delay=3600000 -- listen:8080 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    kill(world.host("web").pid.unwrap(), Signal::KILL);
    world.wait_for_event("web", EventKind::Restart);
    let waits = world.host("web").detail.unwrap();
    assert!(waits.contains("; restarts in "), "{waits}");
    world.kill_broker();
    world.hosts = world.hosts.replace("delay=3600000 ", "");
    world.start();
    boots(&world, "web", 2);
}

fn unseen() {
    let mut world = World::up(
        "web tcp=8080 restart=on-failure -- listen:8080 settle serve\ndb tcp=5432 -- listen:5432 settle serve",
    );
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db");
    let pids = ["web", "db"].map(|name| world.host(name).pid.unwrap());
    world.kill_broker();
    for pid in pids {
        kill(pid, Signal::KILL);
        until("its end", || (!exists(pid)).then_some(()));
    }
    world.start();
    boots(&world, "web", 2);
    assert_eq!(world.host("db").boots, 1, "it has no policy");
}

fn out_of_memory() {
    let world = World::up("web tcp=8080 -- listen:8080 settle oom:64");
    // No program accepts the connection, which waits through boot after boot.
    let _waits = connect(world.tcp("web", 8080)).unwrap();
    let failed = world.wait_for_state("web", HostState::Failed);
    assert_eq!(
        failed.detail.as_deref(),
        Some("was killed, out of memory: its limit is 64 MB")
    );
    let told = world.wait_for_event("web", EventKind::Oom);
    assert_eq!(
        told.detail.as_deref(),
        Some("the kernel killed a process of it, out of memory: its limit is 64 MB")
    );
    let end = world.wait_for_event("web", EventKind::Exit);
    assert_eq!(end.detail, failed.detail);
}
