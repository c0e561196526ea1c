//! One program's sockets at its own addresses, of both families: what natively reaches what, and what does not.
//!
//! The same script runs natively and supervised, and must print the same.

mod common;

use std::collections::BTreeSet;

use common::{Project, need, source};

const COMPOSE: &str = "services:\n  other: { command: [sleep, infinity] }\n";

/// What the script prints natively, where an address of the machine's own is 127.0.0.2, and as a host, where it is the host's.
#[track_caller]
fn expect_the_same(subcommand: &str, more: &[&str]) {
    need(&["python3"]);
    let project = Project::up("families", COMPOSE);
    let script = source("addresses.py").to_str().unwrap().to_owned();
    let command = |own| [&["python3", &script, subcommand, own][..], more].concat();
    let (native, supervised) = std::thread::scope(|scope| {
        let native = scope.spawn(|| project.outside("python3", &command("127.0.0.2")[1..]));
        let supervised = project.run(&command("name")).expect_success(subcommand);
        (native.join().unwrap(), supervised)
    });
    let (native, supervised): (Vec<_>, Vec<_>) = (native.lines().collect(), supervised.lines().collect());
    assert!(native.len() > 100, "{native:#?}");
    let distinct: BTreeSet<_> = native.iter().map(|line| line.split(": ").nth(1)).collect();
    assert!(
        distinct.len() > 3,
        "natively some are reached, and some are not: {distinct:?}"
    );
    let different: Vec<_> = native
        .iter()
        .zip(&supervised)
        .filter(|(native, supervised)| native != supervised)
        .map(|(native, supervised)| format!("natively   {native}\nsupervised {supervised}"))
        .collect();
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
    assert_eq!(native.len(), supervised.len());
}

#[test]
fn two_sockets_with_one_port_are_reached_as_natively() {
    expect_the_same("families", &[]);
}

#[test]
fn every_client_reaches_every_listener_as_natively() {
    let base = (10_000 + std::process::id() % 70 * 300).to_string();
    expect_the_same("clients", &[&base]);
}
