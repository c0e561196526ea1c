//! CPython's own tests (Debian's libpython3.N-testsuite), for Debian's python: the one that every user can read.
//!
//! Not compared yet: test_asyncio (90 s natively) and test_multiprocessing_spawn (170 s).
//!
//! Resources that leave the machine (`-u network`) stay off; test_socketserver asks for it and uses loopback only.

use std::path::Path;
use std::process::Command;

use crate::compare::suite;
use crate::results::Format;
use crate::unit::Unit;

/// Module, whether root runs it too (test_socket: raw sockets, binding below 1024, sethostname; the others know no privilege, or take long),
/// and more arguments of regrtest.
const MODULES: &[(&str, bool, &[&str])] = &[
    // No vsock: those tests wait for ever, natively as well, where the machine has no vsock loopback.
    // test_sethostname renames the machine, for all the other tests too.
    ("test_socket", true, &["-i", "*VSOCK*", "-i", "test_sethostname"]),
    ("test_ssl", false, &[]),
    ("test_selectors", false, &[]),
    ("test_socketserver", true, &["-u", "network"]),
    ("test_httplib", false, &[]),
    ("test_ftplib", true, &[]),
    ("test_smtplib", true, &[]),
    ("test_subprocess", false, &[]),
];

fn python() -> (String, String) {
    let code = "import sys; print('%s python3.%d' % (sys.executable, sys.version_info[1]))";
    let output = Command::new("/usr/bin/python3").args(["-c", code]).output();
    let said = String::from_utf8(output.expect("Debian's python3: run 'make setup'").stdout).unwrap();
    let (program, name) = said.trim().split_once(' ').expect(code);
    (program.to_owned(), name.to_owned())
}

#[test]
fn cpython_comes_out_the_same() {
    let (program, name) = python();
    let tests = Path::new("/usr/lib").join(&name).join("test/test_socket.py");
    assert!(tests.exists(), "lib{name}-testsuite is not installed: run 'make setup'");
    let units = MODULES.iter().map(|(module, as_root, arguments)| {
        let mut command = vec![program.as_str(), "-m", "test", "-v", "--tempdir", "@dir@"];
        command.extend(["--junit-xml", "@dir@/results.xml"]);
        command.extend(*arguments);
        command.push(module);
        let mut unit = Unit::new(*module, &command, Format::JUnit);
        unit.as_root = *as_root;
        unit
    });
    suite("cpython", units.collect());
}
