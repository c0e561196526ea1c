//! The next broker's knowledge of restarts: restarts called off by a user, and the number of
//! restarts.

use std::io::Write;

use imsup_protocol::Request;
use imsup_wire::{EventKind, HostState};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::keeper::{down, replace, up};
use crate::trial;
use crate::world::{World, kill, request, until};

/// Never over while a test runs.
const LONG: &str = "web tcp=8080 restart=always delay=3600000 -- listen:8080 settle serve";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_next_broker_leaves_a_restart_that_was_called_off", called_off),
        trial("the_next_broker_leaves_kept_awake_hosts_that_were_stopped", kept_awake),
        trial("the_next_broker_counts_attempts_on", attempts),
        trial("the_next_broker_goes_on_with_a_restart_that_was_allocated", allocated),
    ]
}

/// Ends the host's program without a request.
fn end(world: &World) {
    kill(world.host("web").pid.unwrap(), Signal::KILL);
}

fn stop(world: &World, name: &str) {
    let hosts = vec![name.parse().unwrap()];
    world.ask(Request::Stop { hosts }).unwrap();
}

fn called_off() {
    let mut world = up(LONG);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    end(&world);
    world.wait_for_event("web", EventKind::Restart);
    stop(&world, "web");
    let last = world.events().pop().unwrap();
    assert_eq!(
        (last.kind, last.detail.as_deref(), last.cause.unwrap().by.as_deref()),
        (EventKind::Exit, Some("its restart was called off"), Some("stop"))
    );
    replace(&mut world);
    let web = world.host("web");
    assert_eq!(
        (web.state, web.detail),
        (HostState::Imaginary, None),
        "it waits for nothing"
    );
    assert_eq!(
        request(world.tcp("web", 8080)).unwrap(),
        "web",
        "but for its next connection"
    );
    down(&world);
}

fn kept_awake() {
    let mut world = up("cron keep=1 -- settle serve\nbell keep=1 -- settle serve");
    for name in ["cron", "bell"] {
        world.wait_for_state(name, HostState::Running);
    }
    stop(&world, "cron");
    let end = world.of_kind("cron", EventKind::Exit).pop().unwrap();
    assert_eq!(end.cause.unwrap().by.as_deref(), Some("stop"));
    replace(&mut world);
    assert_eq!(world.host("cron").state, HostState::Imaginary);
    world.wait_for_state("bell", HostState::Running);
    assert_eq!(["cron", "bell"].map(|name| world.host(name).boots), [1, 1]);
    down(&world);
}

fn attempts() {
    let mut world = World::up("web tcp=8080 restart=always max=1 -- listen:8080 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    end(&world);
    until("its one attempt", || (world.host("web").boots == 2).then_some(()));
    world.wait_for_state("web", HostState::Running);
    world.kill_broker();
    world.start();
    world.wait_for_state("web", HostState::Running);
    end(&world);
    world.wait_for_state("web", HostState::Imaginary);
    let told = world.of_kind("web", EventKind::Restart);
    let told: Vec<_> = told.iter().map(|event| event.detail.as_deref()).collect();
    assert_eq!(told, [Some("attempt 1 of 1")]);
}

fn allocated() {
    let mut world = World::up(LONG);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    end(&world);
    world.wait_for_event("web", EventKind::Restart);
    world.kill_broker();
    // The events left by a broker that is killed before the program executes.
    let line = r#"{"time":"2023-11-14T22:13:20.123456Z","host":"web","event":"allocate","cause":"wake","by":"restart","port":null,"duration_us":null,"detail":null,"cpu_us":null,"memory_byte_ms":null,"resident_bytes":null}"#;
    let mut events = std::fs::File::options()
        .append(true)
        .open(world.paths.events())
        .unwrap();
    writeln!(events, "{line}").unwrap();
    world.hosts = world.hosts.replace("delay=3600000 ", "");
    world.start();
    until("its boot", || (world.host("web").boots == 2).then_some(()));
}
