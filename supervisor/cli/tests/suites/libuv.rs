//! libuv's tests, which are one program: each by its name, one after the other, since all have the
//! same ports. The program refuses to run as root.

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

/// They connect to addresses of the internet, 1.2.3.4 and 8.8.8.8, and succeed only if no host
/// there refuses within 1 ms and 50 ms.
const LEFT_OUT: &[&str] = &["tcp_close_while_connecting", "tcp_connect_timeout"];

#[test]
fn libuv_comes_out_the_same() {
    let libuv = fetched("libuv1");
    let program = libuv.join("build/uv_run_tests");
    let mut unit = Unit::new("all", &[program.to_str().unwrap()], Format::NamedTap);
    unit.left_out = LEFT_OUT;
    // Tests read and write files below the working directory.
    unit.copy = Some(libuv.join("fixtures"));
    suite("libuv", vec![unit]);
}
