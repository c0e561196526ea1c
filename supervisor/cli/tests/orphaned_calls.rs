//! Trapped calls of a program whose supervisor is killed: none fails with ENOSYS, all wait until
//! they are ended as well.

mod common;

use std::net::SocketAddr;
use std::process::Stdio;

use common::command::wait_exit;
use common::{Background, LIMIT, Project, client, parent, source, wait_until};

const ROUNDS: usize = 20;

const HOSTS: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: [python3, "@source@/orphaned.py", "8080", "@dir@/failed"], expose: ["8080"] }
  other: { command: ["@guest@", --tcp, "9000"] }
"#;

/// The calls that have failed so far.
fn failed(project: &Project) -> String {
    std::fs::read_to_string(project.path("failed")).unwrap()
}

/// Kills a supervisor, and waits until it and its program are gone.
fn kill_supervisor_of(project: &Project, program: u32) {
    project.kill(parent(program).unwrap());
    assert!(wait_exit(program, LIMIT));
}

/// The number that the program at this port answers with.
fn ask(project: &Project, host: &str) -> u32 {
    let answer = client::ask_line(project.at(host, 8080), "hello").unwrap();
    answer.parse().unwrap()
}

/// Programs of the guest that are left.
fn left(project: &Project) -> usize {
    let all = project.processes().into_iter();
    all.filter(|process| process.command.contains("orphaned.py") && !process.command.contains("imsup"))
        .count()
}

#[test]
fn calls_of_a_hosts_processes_wait_for_their_end() {
    let project = Project::up("orphaned", HOSTS);
    for round in 0..ROUNDS {
        let program = ask(&project, "web");
        kill_supervisor_of(&project, program);
        assert_eq!(failed(&project), "", "round {round}");
    }
    // The next boot comes after the end of all that the last supervisor has left.
    ask(&project, "web");
    assert_eq!(failed(&project), "");
    project.down();
}

/// Whether a process has the listener of any filter (proc_pid_fd(5), anon_inode).
fn has_a_listener(pid: u32) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    names.any(|name| name.to_string_lossy() == "anon_inode:seccomp notify")
}

#[test]
fn the_next_broker_keeps_calls_waiting_too() {
    let project = Project::up("orphaned", HOSTS);
    // The keeper makes five brokers a minute.
    for round in 0..4 {
        let program = ask(&project, "web");
        project.kill(project.broker());
        wait_until("the supervisor to have introduced itself", || {
            project.host("web").pid == Some(program) && has_a_listener(project.broker())
        });
        kill_supervisor_of(&project, program);
        assert_eq!(failed(&project), "", "round {round}");
    }
    ask(&project, "web");
    assert_eq!(failed(&project), "");
    project.down();
}

/// Starts the guest by this verb, and kills its supervisor once it answers, again and again. The
/// guest has no children: leftovers that no broker has booted are found only by a cgroup, which an
/// ordinary user may not make.
fn kill_commands(project: &Project, verb: &[&str], find: impl Fn() -> Option<SocketAddr>) {
    let (script, failed_file) = (source("orphaned.py"), project.path("failed"));
    let guest = [
        "--",
        "python3",
        script.to_str().unwrap(),
        "8080",
        failed_file.to_str().unwrap(),
        "alone",
    ];
    for round in 0..ROUNDS / 2 {
        let command = project.imsup_command(&[verb, &guest].concat());
        let mut command = Background::spawn_to(command, Stdio::null(), Stdio::inherit());
        wait_until("the guest to answer", || {
            find().is_some_and(|address| client::ask_line(address, "hello").is_ok())
        });
        command.child.kill().unwrap();
        command.child.wait().unwrap();
        wait_until("what it left to end", || left(project) == 0);
        assert_eq!(failed(project), "", "round {round}");
    }
}

#[test]
fn calls_of_a_transient_host_wait_for_its_end() {
    let project = Project::up("transient", HOSTS);
    kill_commands(&project, &["run"], || {
        let host = project.ps().into_iter().find(|(name, _)| name.starts_with("run-"));
        host.map(|(_, host)| (host.address, 8080).into())
    });
    project.down();
}

#[test]
fn calls_of_a_command_wait_for_its_end() {
    let project = Project::up("command", HOSTS);
    project.ok(&["wake", "other"]);
    let address = project.at("other", 8080);
    kill_commands(&project, &["exec", "other"], || Some(address));
    project.down();
}
