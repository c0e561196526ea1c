//! Hosts and events for tests.

use std::net::Ipv4Addr;
use std::time::Duration;

use imsup_wire::{Cause, CauseKind, Endpoint, Event, EventKind, HostState, HostStatus};

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
        wakes: 0,
        next_deadline_us: None,
        since_us: 1_000_000,
        detail: None,
        command: vec!["server".to_owned()],
        declared: true,
        health: None,
    }
}

/// An event this many microseconds after noon of the epoch's day, without any other data.
pub fn event(micros: u64, name: &str, kind: EventKind) -> Event {
    Event {
        time_us: 43_200_000_000 + micros,
        host: name.parse().expect("tests use good names"),
        kind,
        cause: None,
        duration: None,
        detail: None,
        usage: None,
    }
}

/// The same event with a cause.
pub fn caused(event: Event, kind: CauseKind, by: Option<&str>, port: Option<u16>) -> Event {
    let cause = Cause {
        kind,
        by: by.map(str::to_owned),
        port,
    };
    Event {
        cause: Some(cause),
        ..event
    }
}

/// The same event with a duration.
pub fn lasting(event: Event, micros: u64) -> Event {
    Event {
        duration: Some(Duration::from_micros(micros)),
        ..event
    }
}
