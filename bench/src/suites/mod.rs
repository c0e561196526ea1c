//! The suites, in the order they run: first what looks at the kernel's memory, while no TIME_WAIT sockets are about.

mod boot;
mod calls;
mod connect;
mod hosts;
mod memory;
mod programs;
mod redis;
mod sockets;

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::compose::Service;
use crate::context::Context;
use crate::guest::ports;
use crate::report::Section;
use crate::subject::{self, Subject};

/// A suite.
#[derive(Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Measures it.
    pub run: fn(&Context) -> Result<Section>,
}

/// All suites.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "hosts",
        about: "10,000 imaginary hosts with a port each: how long `imsup up -d` takes, and the memory per host",
        run: hosts::run,
    },
    Suite {
        name: "memory",
        about: "the memory of a running host's supervisor",
        run: memory::run,
    },
    Suite {
        name: "calls",
        about: "system calls that imsup does not trap, and what one that it traps costs",
        run: calls::run,
    },
    Suite {
        name: "sockets",
        about: "the data path on raw sockets: latency of one byte, and throughput",
        run: sockets::run,
    },
    Suite {
        name: "connect",
        about: "connecting, closing and accepting on loopback",
        run: connect::run,
    },
    Suite {
        name: "redis",
        about: "the data path of redis, by redis-benchmark",
        run: redis::run,
    },
    Suite {
        name: "boot",
        about: "cold boot: from a client's connect to the first byte of its answer, against the same program started natively",
        run: boot::run,
    },
];

/// The variant that imsup has no part in.
const NATIVE: &str = "native";
/// The same once more: what differs between these two is noise.
const CONTROL: &str = "native again";
/// The client is native, the server a host.
const SERVER: &str = "server a host";
/// The client is supervised, the server native.
const CLIENT: &str = "client supervised";
/// Both are hosts.
const BOTH: &str = "both";

/// The guests' server as a host.
const PEER: &str = "peer";

fn peer(context: &Context, options: &[&str]) -> Service {
    let this = context.this.to_string_lossy();
    let command = [this.as_ref(), "guest", "serve", "0.0.0.0"]
        .into_iter()
        .chain(options.iter().copied());
    Service::new(PEER, command, ports::exposed())
}

/// The guests' server run natively, on an address of its own outside imsup's planes.
fn native_peer(context: &Context, number: u8, options: &[&str]) -> Result<(Ipv4Addr, Subject)> {
    let [.., hi, lo] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 200 + number, hi, lo | 1);
    let text = address.to_string();
    let mut arguments = vec!["serve", text.as_str(), "--controlled"];
    arguments.extend_from_slice(options);
    Ok((address, subject::native(context, &arguments)?))
}
