//! Tests that change a network: each in a namespace of its own, so that the machine's is left alone.
#![allow(dead_code)] // each test binary uses its own part

use std::process::Command;

const MARK: &str = "IMSUP_TEST_OWN_NETWORK";

/// Runs the calling test once more, in a network namespace where only the loopback device is, and up. True in there, where the test is to
/// do its work; false outside, once it has succeeded. An ordinary user gets a user namespace as well, in which he is root.
#[track_caller]
#[must_use]
pub fn is_own() -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .args(["--net", "--", "sh", "-c", r#"ip link set lo up && exec "$@""#, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .env("PATH", path())
        .status()
        .expect("unshare(1), of the package util-linux: run 'make setup'");
    assert!(
        status.success(),
        "{test} in a network namespace of its own: {status} (127 from sh: ip(8) is missing, run 'make setup'; an \
         ordinary user needs user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
    );
    false
}

/// Runs `ip ARGUMENTS`, which must succeed, and gives what it printed.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    assert!(std::env::var_os(MARK).is_some(), "only in a network of the test's own");
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip(8)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The local routes of a prefix, one a line.
#[track_caller]
pub fn local_routes(prefix: &str) -> Vec<String> {
    let all = ip("route show table local");
    let of_prefix = all.lines().filter(|line| line.starts_with(&format!("local {prefix} ")));
    of_prefix.map(|line| line.trim().to_owned()).collect()
}

/// Where administrators' programs are, for users too.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
