//! The broker's loop waits for no other process: what it needs of others it asks for, and serves everybody meanwhile.

mod common;

use std::fs::File;
use std::path::Path;

use common::client::{Held, ask};
use common::{Project, stop, wait_until};
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde_json::Value;

const HOSTS: &str = r#"
services:
  late: { command: ["@guest@", --tcp, "9000"] }
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "5432"], expose: ["5432"] }
"#;

/// Locks what is remembered of projects, as another process does that never lets go of it.
fn lock(project: &Project) -> File {
    std::fs::create_dir_all(project.path("state")).unwrap();
    let lock = File::open(project.path("state")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// What is remembered of the project.
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

/// The process that becomes the supervisors of hosts, which has made one already.
fn zygote(project: &Project) -> u32 {
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let find = || {
        let all = project.processes().into_iter();
        let mut found = all.filter(|process| process.command.contains(" zygote --project "));
        found.next().map(|process| process.pid)
    };
    wait_until("the zygote", || find().is_some());
    find().unwrap()
}

fn lives(project: &Project, pid: u32) -> bool {
    project.processes().iter().any(|process| process.pid == pid)
}

fn waits_at_db(project: &Project) -> Held {
    let mut held = Held::connect(project.at("db", 5432));
    held.say("waits").unwrap();
    held
}

#[test]
fn a_stopped_zygote_holds_up_the_boots_it_was_asked_for_and_nothing_else() {
    let project = Project::up("stopped", HOSTS);
    let (zygote, web) = (zygote(&project), project.at("web", 8080));
    stop(&project, zygote);
    let mut held = waits_at_db(&project);
    project.wait_state("db", "booting");
    assert_eq!(ask(web).value("host"), "web");
    // Not replaced yet: the broker has waited for nothing.
    assert!(lives(&project, zygote));
    project.signal(zygote, Signal::CONT);
    assert!(held.hear().unwrap().contains("host=db "));
    assert_eq!(project.host("db").boots, 1);
    assert!(lives(&project, zygote));
    project.down();
}

#[test]
fn a_zygote_that_stays_stopped_is_done_without() {
    let project = Project::up("replaced", HOSTS);
    let zygote = zygote(&project);
    stop(&project, zygote);
    let mut held = waits_at_db(&project);
    assert!(held.hear().unwrap().contains("host=db "));
    assert!(!lives(&project, zygote));
    let db = project.host("db");
    assert_eq!((db.boots, db.state.as_str()), (1, "running"));
    project.ok(&["stop", "db"]);
    assert_eq!(ask(project.at("db", 5432)).value("host"), "db");
    project.down();
}

#[test]
fn a_host_is_stopped_whose_supervisor_is_not_made_yet() {
    let project = Project::up("unmade", HOSTS);
    let zygote = zygote(&project);
    stop(&project, zygote);
    let mut held = waits_at_db(&project);
    project.wait_state("db", "booting");
    project.ok(&["stop", "db"]);
    assert!(held.hear().is_err(), "whoever waits is turned away");
    assert_eq!(project.host("db").state, "imaginary");
    assert_eq!(ask(project.at("db", 5432)).value("host"), "db");
    project.down();
}
