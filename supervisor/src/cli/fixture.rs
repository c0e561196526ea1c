//! Hosts and events for tests.

use std::net::Ipv4Addr;

use imsup_wire::{Endpoint, HostState, HostStatus};

/// An imaginary host `127.77.5.LOW` with port 80.
pub fn host(name: &str, low: u8) -> HostStatus {
    let address = Ipv4Addr::new(127, 77, 5, low);
    HostStatus {
        name: name.parse().expect("tests use good names"),
        address,
        state: HostState::Imaginary,
        pid: None,
        ports: vec![Endpoint::tcp(address, 80)],
        published: Vec::new(),
        boots: 0,
        since_us: 1_000_000,
        detail: None,
        command: vec!["server".to_owned()],
        declared: true,
    }
}
