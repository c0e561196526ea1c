//! The units of redis's own suite that are about connections, sockets and processes, with Debian's
//! redis-server.
//!
//! One test is left out: it connects to the machine's own first address (`hostname -I`), and tests
//! here touch loopback addresses only.
//!
//! Not compared yet: cluster, replication and shutdown.

use crate::common::need;
use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

/// Units, and whether root runs them too.
const UNITS: &[(&str, bool)] = &[
    ("unit/auth", true),
    ("unit/networking", false),
    ("unit/protocol", true),
    ("unit/quit", true),
    ("unit/pubsub", true),
    ("unit/pubsubshard", true),
];

/// This test expects that a server in protected mode refuses the machine's own address.
const LEFT_OUT: &str = "Protected mode works as expected";

/// Ports for one unit's servers.
const PORTS: usize = 100;

#[test]
fn redis_comes_out_the_same() {
    need(&["tclsh", "redis-server", "redis-cli", "redis-benchmark"]);
    let source = fetched("redis");
    // Their buses listen 10,000 above, which is still below the ephemeral ports.
    let first = 11_000 + std::process::id() as usize % 13 * UNITS.len() * PORTS;
    let units = UNITS.iter().enumerate().map(|(position, (name, as_root))| {
        let base = (first + position * PORTS).to_string();
        let ports = PORTS.to_string();
        let command = ["tclsh", "tests/test_helper.tcl", "--single", name, "--clients", "1"];
        let command = [
            &command[..],
            &["--baseport", &base, "--portcount", &ports, "--no-latency"],
            &["--skiptest", LEFT_OUT],
        ]
        .concat();
        let mut unit = Unit::new(*name, &command, Format::Redis);
        unit.copy = Some(source.clone());
        unit.as_root = *as_root;
        unit
    });
    suite("redis", units.collect());
}
