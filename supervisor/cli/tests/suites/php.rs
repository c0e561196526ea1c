//! PHP's tests of its sockets extension, and of streams and network functions, with Debian's php.

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

/// Name, directory of tests, and whether root runs it too.
const PARTS: &[(&str, &str, bool)] = &[
    ("sockets", "ext/sockets/tests", true),
    ("network", "ext/standard/tests/network", false),
    ("streams", "ext/standard/tests/streams", false),
];

#[test]
fn php_comes_out_the_same() {
    crate::common::need(&["php"]);
    let source = fetched("php8.2");
    let units = PARTS.iter().map(|(name, directory, as_root)| {
        let command = [
            "php",
            "run-tests.php",
            "-q",
            "-n",
            "-d",
            "extension=sockets",
            "-p",
            "/usr/bin/php",
            directory,
        ];
        let mut unit = Unit::new(*name, &command, Format::Php);
        unit.environment.push(("NO_INTERACTION", "1".to_owned()));
        unit.environment.push(("SKIP_ONLINE_TESTS", "1".to_owned()));
        unit.copy = Some(source.clone());
        unit.as_root = *as_root;
        unit
    });
    suite("php", units.collect());
}
