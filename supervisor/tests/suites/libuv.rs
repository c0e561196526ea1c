//! libuv's tests, which are one program: each by its name, one after the other, since all have the same ports. It refuses to run as root.

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

#[test]
fn libuv_comes_out_the_same() {
    let libuv = fetched("libuv1");
    let program = libuv.join("build/uv_run_tests");
    let mut unit = Unit::new("all", &[program.to_str().unwrap()], Format::NamedTap);
    // Tests read and write files below the working directory.
    unit.copy = Some(libuv.join("fixtures"));
    suite("libuv", vec![unit]);
}
