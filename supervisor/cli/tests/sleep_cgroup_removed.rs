//! A host's processes are moved out of its cgroup, which is removed (rmdir(2)): the host still
//! sleeps, without a cgroup.
//!
//! Only root may. As an ordinary user the host has no cgroup, and all else is the same.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::client::PersistentConnection;
use common::{Project, wait_until};

const COMPOSE: &str = r#"
x-imsup: { idle_after: 200ms }
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
"#;

/// The mount point of cgroup v2.
fn mount() -> PathBuf {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    let mounted = if hybrid.exists() {
        hybrid
    } else {
        Path::new("/sys/fs/cgroup")
    };
    mounted.to_owned()
}

/// The cgroup of a process.
fn group(pid: u32) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    mount().join(group)
}

/// Moves all processes of a host's cgroup to the parent, and removes the cgroup.
fn remove_group(pid: u32) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let path = group(pid);
    assert!(
        path.file_name().unwrap().to_str().unwrap().starts_with("imsup."),
        "{path:?}"
    );
    let above = path.parent().unwrap();
    wait_until("the cgroup to be removed", || {
        let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap();
        for process in processes.lines() {
            fs::write(above.join("cgroup.procs"), process).unwrap();
        }
        fs::remove_dir(&path).is_ok()
    });
    assert_eq!(group(pid), above);
}

/// Has a host sleep and be woken again and again.
fn expect_sleep(project: &Project, held: &mut PersistentConnection, pid: u32) {
    let watch = project.watch();
    for round in 1..=3 {
        let wakes = watch.count("web", "wake");
        project.wait_state("web", "suspended");
        assert_eq!(held.ask(&format!("round {round}")).pid(), pid);
        watch.wait("web", "wake", wakes + 1);
    }
    let why = project.why("web").to_string();
    let root = rustix::process::geteuid().is_root();
    assert!(
        !root || why.contains("was removed") || !why.contains("cgroup freezer"),
        "{why}"
    );
}

#[test]
fn a_host_whose_cgroup_is_removed_while_it_runs_goes_on_to_sleep() {
    let project = Project::new("unfrozen", &COMPOSE.replace("200ms", "3s"));
    project.ok(&["up", "-d"]);
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let pid = held.ask("first").pid();
    remove_group(pid);
    expect_sleep(&project, &mut held, pid);
}

#[test]
fn a_host_whose_cgroup_is_removed_while_it_sleeps_goes_on_to_sleep() {
    let project = Project::up("thawed", COMPOSE);
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let pid = held.ask("first").pid();
    project.wait_state("web", "suspended");
    remove_group(pid);
    assert_eq!(held.ask("second").pid(), pid);
    expect_sleep(&project, &mut held, pid);
}
