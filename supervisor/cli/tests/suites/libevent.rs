//! libevent's regression tests, a unit for each group.

use std::collections::BTreeSet;
use std::process::Command;

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

// http/simple and http/simple_nonconformant are left out: they bind 127.0.0.1 before they connect,
// which accept shows differently (docs/deviations.md, bound-client), and wait for half a minute
// each when that fails.
const LEFT_OUT: &[&str] = &[":http/simple", ":http/simple_nonconformant"];

#[test]
fn libevent_comes_out_the_same() {
    let program = fetched("libevent").join("test/regress");
    let output = Command::new(&program).arg("--list-tests").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let groups: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| Some(line.trim().split_once('/')?.0))
        .collect();
    assert!(groups.len() > 10, "{groups:?}");
    let units = groups.into_iter().map(|group| {
        let all = format!("{group}/..");
        let command = [&[program.to_str().unwrap(), all.as_str()], LEFT_OUT].concat();
        let mut unit = Unit::new(group, &command, Format::Tinytest);
        unit.as_root = matches!(group, "http" | "dns" | "listener" | "bufferevent" | "util");
        unit
    });
    suite("libevent", units.collect());
}
