//! Somebody removes a project's files while it is up (a cleaner of /tmp, a logout), or replaces the imsup that it runs under.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::client::ask;
use common::{LIMIT, Project, command, imsup, wait_until};

const COMPOSE: &str = r#"
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  db: { command: ["@guests@/servers", edge, "5432"], expose: ["5432"] }
"#;

/// The processes of the supervisors that hold the files of running hosts.
fn holds(project: &Project, host: &str) -> bool {
    let path = project.runtime().join("running").join(host);
    let Ok(file) = fs::File::open(path) else { return false };
    let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    lock == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Removes both of a project's directories at once.
fn remove_files(project: &Project) {
    for directory in [project.path("run"), project.path("state")] {
        let away = directory.with_extension("away");
        fs::rename(&directory, &away).unwrap();
        fs::remove_dir_all(away).unwrap();
    }
}

#[test]
fn a_project_whose_files_are_removed_stays_one() {
    let project = Project::up("cleaned", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    remove_files(&project);
    wait_until("the broker to be found", || project.imsup(&["ps"]).success());
    wait_until("web's supervisor to hold its file", || holds(&project, "web"));
    assert_eq!(project.host("web").pid, Some(pid));
    let again = project.imsup(&["up", "-d"]);
    assert!(again.stderr.contains("is already up"), "{again}");
    ask(project.at("db", 5432));
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
    assert!(project.state().join("logs/db.log").exists());
    // The next broker finds all that this one knew.
    let address = project.host("db").address;
    project.kill_broker();
    project.ok(&["up", "-d"]);
    assert_eq!(
        (project.host("web").pid, project.host("db").address),
        (Some(pid), address)
    );
    assert_eq!(project.event_names("web").last().map(String::as_str), Some("ready"));
    project.down();
}

#[test]
fn hosts_whose_files_are_removed_without_a_broker_are_found() {
    let project = Project::up("orphaned", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    project.kill_broker();
    remove_files(&project);
    wait_until("web's supervisor to hold its file", || holds(&project, "web"));
    project.ok(&["up", "-d"]);
    assert_eq!(project.wait_state("web", "running").pid, Some(pid));
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
    project.down();
    assert!(command::wait_exit(pid, LIMIT));
}

#[test]
fn a_broker_that_nobody_finds_is_named_and_ended_by_down() {
    let project = Project::up("lost", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    let broker = project.broker();
    let (base, away) = (project.path("run"), project.path("away"));
    wait_until("a directory that is not made anew", || {
        let _ = fs::rename(&base, &away);
        let _ = fs::remove_dir_all(&away);
        fs::write(&base, "").is_ok()
    });
    let named = format!("its broker is process {broker}");
    for arguments in [&["up", "-d"][..], &["ps"]] {
        let said = project.fails(1, arguments);
        assert!(said.contains(&named) && said.contains("imsup down"), "{said}");
    }
    let down = project.imsup(&["down"]);
    assert!(down.success() && down.stderr.contains("is down"), "{down}");
    assert!(command::wait_exit(broker, LIMIT) && command::wait_exit(pid, LIMIT));
    fs::remove_file(base).unwrap();
}

/// A copy of imsup of this project's own.
fn own_imsup(project: &Project) -> PathBuf {
    let copy = project.path("imsup");
    fs::copy(imsup(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// IMSUP_TRACE keeps a host from being made by the nursery, which was started before.
const EXECUTED: &str = r#"
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"], environment: { IMSUP_TRACE: "0" } }
  db: { command: ["@guests@/servers", edge, "5432"], expose: ["5432"], environment: { IMSUP_TRACE: "0" } }
"#;

#[test]
fn hosts_boot_after_imsup_was_replaced_or_deleted() {
    let project = Project::new("replaced", EXECUTED);
    let own = own_imsup(&project);
    let up = project.command(&own, &["up", "-d", "-p", &project.name]);
    command::run(up, LIMIT).expect_success("imsup up");
    let [web, db] = [("web", 8080), ("db", 5432)].map(|(host, port)| project.at(host, port));
    let other = project.path("other");
    fs::write(&other, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&other, &own).unwrap();
    let pid = ask(web).pid();
    fs::remove_file(&own).unwrap();
    ask(db);
    assert_eq!(project.event_names("db"), ["allocate", "boot", "ready"]);
    // Both are called what they were.
    let supervisor = common::parent(pid).unwrap();
    let name = fs::read_to_string(format!("/proc/{supervisor}/comm")).unwrap();
    assert_eq!(name.trim(), "imsup");
    let line = fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    assert!(line.starts_with(own.to_str().unwrap()), "{line}");
    project.down();
}
