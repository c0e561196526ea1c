//! The broker's loop never waits for another process: it asks without blocking, and serves everyone
//! meanwhile.

mod common;

use std::fs::File;
use std::path::Path;

use common::client::ask;
use common::{Project, wait_until};
use rustix::fs::FlockOperation;
use serde_json::Value;

const HOSTS: &str = r#"
services:
  late: { command: ["@guest@", --tcp, "9000"] }
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

/// Locks the project record, like another process that never releases the lock.
fn lock(project: &Project) -> File {
    std::fs::create_dir_all(project.path("state")).unwrap();
    let lock = File::open(project.path("state")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// The project's record.
fn remembered(project: &Project) -> Value {
    let text = std::fs::read(project.path("state").join("projects.json")).unwrap_or_default();
    let all: Value = serde_json::from_slice(&text).unwrap_or_default();
    all["projects"][&project.name].clone()
}

fn knows_port(project: &Project) -> bool {
    remembered(project)["learned"]["late"].to_string().contains("9000")
}

#[test]
fn what_is_learned_is_written_once_nobody_else_holds_the_lock() {
    let project = Project::up("learns", HOSTS);
    let lock = lock(&project);
    let said = project.run_guest(&["--call", "late:9000"]);
    assert!(said.contains("host=late "), "{said}");
    assert_eq!(project.host("late").boots, 1);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    assert!(!knows_port(&project), "{}", remembered(&project));
    drop(lock);
    wait_until("the port to be remembered", || knows_port(&project));
    project.down();
}

#[test]
fn a_project_comes_up_and_goes_down_whoever_holds_the_lock() {
    let project = Project::new("locked", HOSTS);
    let held = lock(&project);
    project.ok(&["up", "-d"]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    assert!(!Path::new(&project.path("state").join("projects.json")).exists());
    drop(held);
    wait_until("the addresses to be remembered", || {
        remembered(&project)["blocks"].is_array()
    });

    let held = lock(&project);
    let said = project.fails(1, &["down", "--forget"]);
    let by = format!("process {} holds the lock", std::process::id());
    assert!(said.contains(&by), "{said}");
    project.expect_nothing_left();
    drop(held);
    project.ok(&["down", "--forget"]);
    assert_eq!(remembered(&project), Value::Null);
}
