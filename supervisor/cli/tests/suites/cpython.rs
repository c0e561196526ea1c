//! CPython's own tests (Debian's libpython3.N-testsuite), for Debian's python, which every user can
//! read.
//!
//! test_asyncio and test_multiprocessing_spawn take minutes; their modules and parts are units of
//! their own. Root does not run them: they depend on no privilege.
//!
//! Resources that leave the machine (`-u network`) stay off; test_socketserver asks for it and uses
//! loopback only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::compare::suite;
use crate::results::Format;
use crate::unit::Unit;

/// Module, whether root runs it too (test_socket: raw sockets, binding below 1024, sethostname; the
/// others depend on no privilege, or take long), and more arguments of regrtest.
const MODULES: &[(&str, bool, &[&str])] = &[
    // No vsock: those tests wait for ever on a machine without vsock loopback, natively as well.
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

/// The parts of test_multiprocessing_spawn: its tests exist for processes, threads and a manager's
/// proxies.
const SPAWN: &[(&str, &[&str])] = &[
    ("processes", &["-m", "*WithProcesses*"]),
    ("threads", &["-m", "*WithThreads*"]),
    ("manager", &["-m", "*WithManager*"]),
    (
        "rest",
        &["-i", "*WithProcesses*", "-i", "*WithThreads*", "-i", "*WithManager*"],
    ),
];

/// The tests that start hundreds of Pythons took eight minutes beside twenty busy processes.
const LIMIT: Duration = Duration::from_secs(1500);

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
    let tests = Path::new("/usr/lib").join(&name).join("test");
    assert!(
        tests.join("test_socket.py").exists(),
        "lib{name}-testsuite is not installed: run 'make setup'"
    );
    let unit = |name: &str, module: &str, as_root, arguments: &[&str]| {
        let mut command = vec![program.as_str(), "-m", "test", "-v", "--tempdir", "@dir@"];
        command.extend(["--junit-xml", "@dir@/results.xml"]);
        command.extend(arguments);
        command.push(module);
        let mut unit = Unit::new(name, &command, Format::JUnit);
        unit.limit = LIMIT;
        unit.as_root = as_root;
        unit
    };
    // The long ones first.
    let mut units: Vec<Unit> = SPAWN
        .iter()
        .map(|(part, arguments)| {
            let module = "test_multiprocessing_spawn";
            unit(&format!("{module} {part}"), module, false, arguments)
        })
        .collect();
    units.extend(modules(&tests.join("test_asyncio")).iter().map(|module| {
        let name = format!("test_asyncio.{module}");
        unit(&name, &format!("test.{name}"), false, &[])
    }));
    units.extend(
        MODULES
            .iter()
            .map(|(module, as_root, arguments)| unit(module, module, *as_root, arguments)),
    );
    suite("cpython", units);
}

/// The test modules of a package, except those for Windows.
fn modules(package: &Path) -> Vec<String> {
    let mut modules: Vec<String> = std::fs::read_dir(package)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let module = name.strip_suffix(".py")?;
            (module.starts_with("test_") && !module.starts_with("test_windows")).then(|| module.to_owned())
        })
        .collect();
    modules.sort();
    assert!(modules.len() > 20, "{modules:?}");
    modules
}
