//! Brokers that are killed, and the brokers that follow.

use imsup_broker::client::ClientError;
use imsup_broker::down_without_broker;
use imsup_protocol::Request;
use imsup_wire::{EventKind, HostState};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::ends::{expect_ended, left_by};
use crate::trial;
use crate::world::{World, exists, kill, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_next_broker_adopts_what_runs", adoption),
        trial("down_ends_a_host_that_is_no_longer_in_the_file", removed_from_the_file),
        trial("what_ended_while_no_broker_ran_is_said", unseen_end),
        trial("a_killed_brokers_project_can_be_taken_down", down_without),
        trial(
            "what_killed_supervisors_leave_is_ended_by_the_next_broker",
            killed_together,
        ),
        trial("what_killed_supervisors_leave_is_ended_by_down", killed_then_down),
        trial("a_broker_that_is_told_to_end_takes_all_down", sigterm),
    ]
}

const HOSTS: &str = "web tcp=8080 -- listen:8080 listen:9000 settle serve\ndb tcp=5432 -- listen:5432 settle serve";

fn adoption() {
    let mut world = World::up(HOSTS);
    let endpoint = world.tcp("web", 8080);
    assert_eq!(request(endpoint).unwrap(), "web");
    let before = world.host("web");
    world.kill_broker();
    assert_eq!(
        request(endpoint).unwrap(),
        "web",
        "a running host goes on without a broker"
    );
    match world.ask(Request::Hosts) {
        Err(ClientError::Dead { hosts, .. }) => assert_eq!(hosts, ["web"]),
        other => panic!("the broker is dead, and yet: {other:?}"),
    }
    world.start();
    let web = world.wait_for_state("web", HostState::Running);
    assert_eq!((web.pid, web.boots, web.address), (before.pid, 1, before.address));
    until("its sockets", || (world.host("web").ports.len() == 2).then_some(()));
    assert_eq!(
        request(world.tcp("db", 5432)).unwrap(),
        "db",
        "hosts that were imaginary still boot"
    );
    kill(web.pid.unwrap(), Signal::KILL);
    let restarted = until("the next boot", || {
        // The request may be the one that was in flight.
        let answer = request(endpoint).ok()?;
        (answer == "web").then(|| world.host("web"))
    });
    assert_eq!(restarted.boots, 2, "boots are counted on");
    assert_eq!(
        world
            .kinds("web")
            .iter()
            .filter(|kind| **kind == EventKind::Boot)
            .count(),
        2
    );
}

fn removed_from_the_file() {
    let mut world = World::up(HOSTS);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let pid = world.host("web").pid.unwrap();
    world.kill_broker();
    world.hosts = HOSTS.lines().nth(1).unwrap().to_owned();
    world.start();
    assert!(exists(pid), "nobody has asked for its end");
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db");
    world.down();
    assert!(!exists(pid));
    world.expect_no_processes();
}

fn unseen_end() {
    let mut world = World::up(HOSTS);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let pid = world.host("web").pid.unwrap();
    world.kill_broker();
    kill(pid, Signal::KILL);
    until("its end", || (!exists(pid)).then_some(()));
    world.start();
    assert_eq!(world.host("web").state, HostState::Imaginary);
    let last = world.events().pop().unwrap();
    assert_eq!(
        (last.kind, last.detail.as_deref()),
        (EventKind::Exit, Some("ended while no broker ran"))
    );
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
}

fn down_without() {
    let mut world = World::up("web tcp=8080 -- leave listen:8080 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let error = down_without_broker(&world.project, &world.paths)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has a broker"), "{error}");
    let left = left_by(world.host("web").pid.unwrap());
    world.kill_broker();
    let ended = down_without_broker(&world.project, &world.paths).unwrap();
    assert_eq!(ended, ["web"]);
    world.expect_no_processes();
    expect_ended(&left);
    assert!(!world.paths.runtime().exists() && !world.paths.state().exists());
    assert_eq!(
        down_without_broker(&world.project, &world.paths).unwrap(),
        Vec::<String>::new()
    );
}

/// A project whose broker and supervisor were killed together: a process that goes on listening.
fn killed() -> (World, Vec<u32>) {
    let mut world =
        World::up("web tcp=8080 -- stay:8080 listen:8080 settle serve\ndb tcp=5432 -- listen:5432 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db");
    let supervisor = world.host("web").pid.unwrap();
    let left = children(supervisor);
    assert_eq!(left.len(), 1);
    // Stopped, so that the broker does not clean up itself.
    kill(world.broker_pid(), Signal::STOP);
    kill(supervisor, Signal::KILL);
    world.kill_broker();
    until("its end", || (!exists(supervisor)).then_some(()));
    assert!(exists(left[0]), "nobody has ended it");
    (world, left)
}

fn killed_together() {
    let (mut world, left) = killed();
    world.start();
    assert!(!exists(left[0]), "{} is left", left[0]);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db");
    assert_eq!((world.host("web").boots, world.host("db").boots), (2, 1));
}

fn killed_then_down() {
    let (world, left) = killed();
    assert_eq!(down_without_broker(&world.project, &world.paths).unwrap(), ["db"]);
    assert!(!exists(left[0]), "{} is left", left[0]);
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_ascii_whitespace()
        .map(|child| child.parse().unwrap())
        .collect()
}

fn sigterm() {
    let mut world = World::up(HOSTS);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    kill(world.broker_pid(), Signal::TERM);
    assert!(world.broker.take().unwrap().wait().unwrap().success());
    world.expect_no_processes();
    assert!(!world.paths.runtime().exists() && !world.paths.state().exists());
}
