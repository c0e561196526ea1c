//! The clusters of `examples/`, unmodified, from nothing: a client's first connection boots the
//! whole of each, and a killed member is booted by its peers' next connection. Each test runs the
//! example's own directory.

#[path = "../common/mod.rs"]
mod common;
mod etcd;
mod haproxy;
mod postgres;
mod redis;
mod zookeeper;

use std::time::Instant;

use common::Project;

/// Kills a host's program with SIGKILL, waits until a host of `peers` has booted it again, and
/// returns the moment of the kill.
#[track_caller]
fn kill_and_let_peers_boot(project: &Project, host: &str, peers: &[&str]) -> Instant {
    let before = project.host(host);
    let killed = Instant::now();
    project.kill(before.pid.expect("it runs"));
    let event = project.wait_event(host, "allocate", usize::try_from(before.boots).unwrap() + 1);
    let by = event.by.expect("somebody connected");
    assert!(peers.contains(&by.as_str()), "{host} was booted by {by}");
    killed
}

/// The sender of the signal that booted a host first.
#[track_caller]
fn first_booted_by(project: &Project, host: &str) -> String {
    project
        .wait_event(host, "allocate", 1)
        .by
        .expect("a signal has a sender")
}

/// Prints the time until a killed member served again, without an assertion.
fn report_recovery(what: &str, killed: Instant) {
    let elapsed = killed.elapsed().as_secs_f64() * 1e3;
    println!("{what} served again {elapsed:.0} ms after it was killed");
}
