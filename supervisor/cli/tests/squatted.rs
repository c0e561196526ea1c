//! Blocks of addresses that are taken already, each test in a network of its own.

mod common;

use std::net::UdpSocket;

use common::{Project, network};

fn squat(prefix: &str) -> Vec<UdpSocket> {
    let all = (0..=255).map(|block| format!("{prefix}.{block}.0:1053"));
    all.map(|address| UdpSocket::bind(address).unwrap()).collect()
}

/// Runs `up`, which must fail, and returns its message.
fn said_of(compose: &str) -> String {
    let project = Project::new("squatted", compose);
    let said = project.fails(1, &["up", "-d"]);
    project.expect_nothing_left();
    said
}

const COMPOSE: &str = "services:\n  web: { command: [\"@guest@\"] }\n";

#[test]
fn who_has_all_blocks_is_named() {
    if !network::is_own() {
        return;
    }
    let own = format!(
        "({}), process {} (",
        rustix::process::geteuid().as_raw(),
        std::process::id()
    );
    let claims = squat("127.78");
    let said = said_of(COMPOSE);
    assert!(said.contains("256 by user ") && said.contains(&own), "{said}");
    assert!(!said.contains("x-imsup.subnet: 10"), "no other prefix helps: {said}");
    drop(claims);
    let _name_servers = squat("127.77");
    let said = said_of(COMPOSE);
    assert!(said.contains("256 by user ") && said.contains(&own), "{said}");
    assert!(said.contains("x-imsup.subnet: 10.77.0.0/16"), "{said}");
    let said = said_of(&format!("x-imsup: {{ subnet: 127.77.5.0/24 }}\n{COMPOSE}"));
    assert!(said.contains("in use by user ") && said.contains(&own), "{said}");
}
