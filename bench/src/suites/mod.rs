//! The suites, in the order of their run: first those that measure the kernel's memory, while no
//! TIME_WAIT sockets exist.

pub mod boot;
mod calls;
mod clusters;
mod compared;
mod connect;
mod container;
mod datagrams;
mod hosts;
mod memory;
pub mod native;
pub mod programs;
mod rates;
mod redis;
pub mod sleep;
mod sockets;
mod steps;

use std::cell::RefCell;
use std::net::Ipv4Addr;

use anyhow::Result;

use crate::compose::Service;
use crate::context::{Baseline, Context};
use crate::docker::{Docker, Network};
use crate::guest::ports;
use crate::interrupt;
use crate::project::Project;
use crate::report::{Heading, Section};
use crate::rounds::Turn;
use crate::subject::{self, Subject};

/// A suite; it may be in several tables.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// The name on the command line.
    pub name: &'static str,
    /// The measured quantity.
    pub about: &'static str,
    /// Measures it.
    pub run: fn(&Context) -> Result<Section>,
}

/// Suites that are run and reported together.
#[derive(Debug)]
pub struct Table {
    /// The name, and what is written.
    pub heading: Heading,
    /// The suites.
    pub suites: &'static [Suite],
}

impl Table {
    /// The names of the suites.
    pub fn names(&self) -> Vec<&'static str> {
        self.suites.iter().map(|suite| suite.name).collect()
    }
}

/// All tables.
pub const TABLES: &[Table] = &[
    Table {
        heading: Heading {
            name: "boot-on-connect",
            title: "Boot on connect",
            command: "make bench BENCH=boot-on-connect",
            beside_others: false,
        },
        suites: BOOT_ON_CONNECT,
    },
    Table {
        heading: Heading {
            name: "traffic",
            title: "Datagrams, rates, and without pidfd_getfd",
            command: "make bench BENCH=traffic",
            beside_others: false,
        },
        suites: TRAFFIC,
    },
    Table {
        heading: Heading {
            name: "report",
            title: "imsup beside what people use today",
            command: "make report",
            beside_others: true,
        },
        suites: REPORT,
    },
    Table {
        heading: Heading {
            name: "sleep",
            title: "Sleep and wake",
            command: "make bench BENCH=sleep",
            beside_others: false,
        },
        suites: SLEEP,
    },
    Table {
        heading: Heading {
            name: "clusters",
            title: "Whole clusters",
            command: "make bench BENCH=clusters",
            beside_others: false,
        },
        suites: CLUSTERS,
    },
];

const HOSTS_SUITE: Suite = Suite {
    name: "hosts",
    about: "10,000 imaginary hosts with a port each: how long `imsup up -d` takes, and the memory per host",
    run: hosts::run,
};

const CALLS_SUITE: Suite = Suite {
    name: "calls",
    about: "system calls that imsup does not trap, and what one that it traps costs",
    run: calls::run,
};

const STEPS_SUITE: Suite = Suite {
    name: "steps",
    about: "a trapped connect step by step: the kernel's floor (a supervisor that only continues), each step that imsup adds, and imsup",
    run: steps::run,
};

const SLEEP_MANY_SUITE: Suite = Suite {
    name: "sleep-many",
    about: "1,000 hosts at once: what they cost asleep, and how fast one, and a hundred at the same moment, wake",
    run: sleep::many::run,
};

const SLEEP_WAKE_SUITE: Suite = Suite {
    name: "sleep-wake",
    about: "the first reply of one that was suspended, against the same one awake: imsup, SIGSTOP and SIGCONT, docker pause and unpause",
    run: sleep::wake::run,
};

const BOOT_ON_CONNECT: &[Suite] = &[
    HOSTS_SUITE,
    Suite {
        name: "memory",
        about: "the memory of a running host's supervisor",
        run: memory::run,
    },
    CALLS_SUITE,
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

const TRAFFIC: &[Suite] = &[
    Suite {
        name: "datagrams",
        about: "datagrams on loopback: there and back, and as many as go through, by each call that sends them",
        run: datagrams::run,
    },
    Suite {
        name: "rates",
        about: "connections a second from 1, 2 and 8 threads, accepted and closed at once",
        run: rates::run,
    },
    Suite {
        name: "container",
        about: "what it costs where pidfd_getfd(2) and process_vm_readv(2) are refused, as in a container",
        run: container::run,
    },
];

// Last come suites that leave thousands of connections in TIME_WAIT.
const REPORT: &[Suite] = &[
    Suite {
        name: "scale",
        about: "100, 1,000 and 10,000 hosts that do not run, and suspended ones: memory, processor time, time until all listen; systemd, docker",
        run: compared::scale::run,
    },
    SLEEP_MANY_SUITE,
    Suite {
        name: "start",
        about: "the first reply of a server that does not run: native, imsup, docker run, systemd-socket-activate; a chain of 4",
        run: compared::start::run,
    },
    Suite {
        name: "together",
        about: "100 servers started at the same moment: native, imsup, docker start",
        run: compared::together::run,
    },
    Suite {
        name: "woken",
        about: "100 servers that sleep, woken at the same moment: imsup, SIGCONT, docker unpause",
        run: compared::woken::run,
    },
    SLEEP_WAKE_SUITE,
    Suite {
        name: "idle-exit",
        about: "the first reply after systemd-socket-proxyd's idle exit and restart, and of a host that sleeps or has ended",
        run: compared::idle_exit::run,
    },
    Suite {
        name: "crowd",
        about: "300 and 1,000 clients at once at one server: awake, suspended, paused, or not started",
        run: compared::crowd::run,
    },
    Suite {
        name: "day",
        about: "a day of requests to 100 hosts, replayed fast: memory and processor time against always-on, and the latency paid",
        run: compared::day::run,
    },
    CALLS_SUITE,
    STEPS_SUITE,
    Suite {
        name: "path",
        about: "the data path of redis, nginx, iperf3 and a byte: native, imsup, containers on docker's bridge, a relay, an interposer",
        run: compared::path::run,
    },
    Suite {
        name: "connecting",
        about: "a connection for each request: native, imsup, containers on docker's bridge, a relay, an interposer",
        run: compared::connecting::run,
    },
];

const SLEEP: &[Suite] = &[
    SLEEP_MANY_SUITE,
    SLEEP_WAKE_SUITE,
    Suite {
        name: "sleep-cost",
        about: "what hosts that may sleep cost while they are awake, and their ticks asleep",
        run: sleep::cost::run,
    },
];

const CLUSTERS: &[Suite] = &[Suite {
    name: "recovery",
    about: "clusters of `examples/`: from nothing to the first answer, and from a member's death until it serves again",
    run: clusters::run,
}];

/// The variant that imsup has no part in.
const NATIVE: &str = "native";
/// The same once more: the difference between these two is noise.
const CONTROL: &str = "native again";
/// The client is native, the server a host.
const SERVER: &str = "server a host";
/// The client is supervised, the server native.
const CLIENT: &str = "client supervised";
/// Both are hosts.
const BOTH: &str = "both";

/// The guests' server as a host.
pub const PEER: &str = "peer";

pub fn peer(context: &Context, options: &[&str]) -> Service {
    let this = context.this.to_string_lossy();
    let command = [this.as_ref(), "guest", "serve", "0.0.0.0"]
        .into_iter()
        .chain(options.iter().copied());
    Service::new(PEER, command, ports::exposed())
}

/// docker, with containers on such a network; a named gap without docker.
///
/// # Errors
/// A signal came.
fn docker(context: &Context, section: &mut Section, what: &str, network: Network) -> Result<Option<RefCell<Docker>>> {
    let started = context.wants(Baseline::Docker).and_then(|()| {
        let mut docker = Docker::start(context, network)?;
        section.note(docker.describe()?);
        Ok(docker)
    });
    interrupt::check()?;
    match started {
        Ok(docker) => Ok(Some(RefCell::new(docker))),
        Err(why) => {
            section.gap(what, format!("{why:#}"));
            Ok(None)
        }
    }
}

/// A variant and its client.
type Client = (&'static str, Subject);

/// The client that these arguments describe in all variants: at two native servers and at a host,
/// native and supervised.
fn clients(
    context: &Context,
    project: &Project<'_>,
    [first, second, host]: [Ipv4Addr; 3],
    arguments: impl Fn(String) -> Vec<String>,
) -> Result<[Client; 5]> {
    let client = |address: Ipv4Addr, supervised: bool| {
        let words = arguments(address.to_string());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match supervised {
            true => subject::supervised(context, project.supervised(None), &words),
            false => subject::native(context, &words),
        }
    };
    Ok([
        (NATIVE, client(first, false)?),
        (CONTROL, client(second, false)?),
        (SERVER, client(host, false)?),
        (CLIENT, client(first, true)?),
        (BOTH, client(host, true)?),
    ])
}

/// Their turns: batches of `count`, whose series get their names from `named`.
fn turns<'a>(clients: &'a mut [Client], count: usize, named: &'a impl Fn(String) -> String) -> Vec<Turn<'a>> {
    let turn = |(variant, client): &'a mut Client| {
        Turn::new(variant, move || {
            let series = client.batch(count)?.into_iter();
            Ok(series.map(|(name, samples)| (named(name), samples)).collect())
        })
    };
    clients.iter_mut().map(turn).collect()
}

/// The guests' server run natively, on an address of its own outside imsup's planes.
fn native_peer(context: &Context, number: u8, options: &[&str]) -> Result<(Ipv4Addr, Subject)> {
    let address = native::address(number);
    let text = address.to_string();
    let mut arguments = vec!["serve", text.as_str(), "--controlled"];
    arguments.extend_from_slice(options);
    Ok((address, subject::native(context, &arguments)?))
}
