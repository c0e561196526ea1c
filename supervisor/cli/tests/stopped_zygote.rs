//! A zygote that is stopped, or gets no processor, delays no boot: supervisors are executed
//! meanwhile, and no boot has two.

mod common;

use std::fs;

use common::client::{PersistentConnection, ask};
use common::{Project, parent, stop, wait_until};
use rustix::process::Signal;

/// Each start of `db` is a line of the file `starts`.
const HOSTS: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: [sh, -c, "echo started >> @dir@/starts; exec @guest@ --tcp 5432"], expose: ["5432"] }
  slow: { command: [sh, -c, "until [ -e @dir@/go ]; do sleep 0.05; done; exec @guest@ --tcp 9000"], expose: ["9000"] }
"#;

/// The zygote, before it has made a supervisor: those have its command line.
fn zygote(project: &Project) -> u32 {
    let find = || {
        let all = project.processes().into_iter();
        let mut found = all.filter(|process| process.command.contains(" zygote --project "));
        found.next().map(|process| process.pid)
    };
    wait_until("the zygote", || find().is_some());
    let zygote = find().unwrap();
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    zygote
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Boots `web` anew. True if its supervisor was forked from the zygote.
fn is_forked(project: &Project) -> bool {
    project.ok(&["stop", "web"]);
    let supervisor = parent(ask(project.at("web", 8080)).pid()).unwrap();
    let line = fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    line.contains("zygote")
}

#[test]
fn hosts_boot_while_the_zygote_stays_stopped_and_only_once() {
    let project = Project::up("stopped", HOSTS);
    let zygote = zygote(&project);
    stop(&project, zygote);
    assert_eq!(project.host("web").state, "running", "ps answers");
    assert_eq!(ask(project.at("db", 5432)).value("host"), "db");
    assert!(!is_forked(&project), "it is not asked while it owes a reply");
    assert!(is_stopped(zygote), "nobody has waited for it");

    project.signal(zygote, Signal::CONT);
    wait_until("a supervisor of the zygote", || is_forked(&project));
    // It has replied to all that it was asked before.
    let starts = fs::read_to_string(project.path("starts")).unwrap();
    assert_eq!(starts, "started\n");
    let db = project.host("db");
    assert_eq!((db.boots, db.state.as_str()), (1, "running"));
    let said = project.ok(&["logs", "db"]);
    assert!(!said.contains("awaited"), "no second supervisor came: {said}");
    project.down();
}

#[test]
fn a_host_is_stopped_whose_supervisor_is_not_there_yet() {
    let project = Project::up("unmade", HOSTS);
    let zygote = zygote(&project);
    stop(&project, zygote);
    let mut held = PersistentConnection::connect(project.at("slow", 9000));
    held.say("waits").unwrap();
    project.wait_state("slow", "booting");
    project.ok(&["stop", "slow"]);
    assert!(held.hear().is_err(), "whoever waits is turned away");
    assert_eq!(project.host("slow").state, "imaginary");
    fs::write(project.path("go"), "").unwrap();
    assert_eq!(ask(project.at("slow", 9000)).value("host"), "slow");
    project.down();
}
