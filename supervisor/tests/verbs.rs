//! The verbs as people type them.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::client::ask;
use common::command::run;
use common::{Background, LIMIT, Project};

const COMPOSE: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "9000"] }
"#;

#[test]
fn wake_returns_when_the_hosts_are_ready() {
    let project = Project::up("wake", COMPOSE);
    project.ok(&["wake", "web", "db"]);
    for name in ["web", "db"] {
        let host = project.host(name);
        assert_eq!((host.state.as_str(), host.boots), ("running", 1));
        assert_eq!(project.wait_event(name, "ready", 1).cause.as_deref(), Some("wake"));
    }
    project.ok(&["wake", "web"]);
    assert_eq!(project.host("web").boots, 1, "waking what runs does nothing");
}

#[test]
fn stop_makes_a_host_imaginary_and_its_port_stays() {
    let project = Project::up("stop", COMPOSE);
    let first = ask(project.at("web", 8080));
    project.ok(&["stop"]);
    let host = project.host("web");
    assert_eq!((host.state.as_str(), host.pid), ("imaginary", None));
    assert_ne!(ask(project.at("web", 8080)).pid(), first.pid());
}

#[test]
fn restart_boots_those_that_ran() {
    let project = Project::up("restart", COMPOSE);
    ask(project.at("web", 8080));
    project.ok(&["restart"]);
    assert_eq!(project.host("web").boots, 2);
    assert_eq!(project.host("db").boots, 0);
}

#[test]
fn events_follow_shows_what_happens_next() {
    let project = Project::up("follow", COMPOSE);
    ask(project.at("web", 8080));
    let command = project.imsup_command(&["events", "--follow", "--format", "json"]);
    let mut follower = Background::spawn(command, Stdio::piped());
    let mut lines = BufReader::new(follower.child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.next().unwrap().contains("web"));
    project.ok(&["wake", "db"]);
    assert!(lines.any(|line| line.contains("db") && line.contains("ready")));
}

#[test]
fn tables_are_for_people_and_list_sleepers() {
    let project = Project::up("tables", COMPOSE);
    let said = project.ok(&["ps"]);
    for word in ["NAME", "ADDRESS", "STATE", "web", "db", "imaginary"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert!(!said.contains('\x1b'), "no colours where it is no terminal");
}

#[test]
fn config_shows_what_was_understood() {
    let project = Project::new("config", COMPOSE);
    let said = project.ok(&["config", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(
        json.to_string().contains("web") && json.to_string().contains("8080"),
        "{json}"
    );
    assert!(project.ok(&["config"]).contains("web"));
}

#[test]
fn doctor_names_every_kernel_feature() {
    let project = Project::new("doctor", COMPOSE);
    let finished = run(project.command(common::imsup(), &["doctor"]), LIMIT);
    assert!(finished.success(), "this machine has what is needed: {finished}");
    for word in ["seccomp", "pidfd"] {
        assert!(finished.stdout.contains(word), "{word}: {finished}");
    }
    let finished = run(project.command(common::imsup(), &["doctor", "--format", "json"]), LIMIT);
    for line in finished.stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn version_and_completion_need_no_project() {
    let project = Project::new("version", COMPOSE);
    let imsup = |arguments: &[&str]| run(project.command(common::imsup(), arguments), LIMIT);
    assert!(imsup(&["version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
    assert!(imsup(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let finished = imsup(&["completion", shell]);
        assert!(
            finished.success() && finished.stdout.contains("imsup"),
            "{shell}: {finished}"
        );
    }
}

#[test]
fn the_compose_file_is_found_by_each_of_its_names_and_above() {
    for name in [
        "compose.yaml",
        "compose.yml",
        "docker-compose.yaml",
        "docker-compose.yml",
    ] {
        let project = Project::new("found", COMPOSE);
        std::fs::rename(project.path("compose.yaml"), project.path("moved")).unwrap();
        std::fs::rename(project.path("moved"), project.path(name)).unwrap();
        std::fs::create_dir_all(project.path("a/b")).unwrap();
        let mut command = project.imsup_command(&["up", "-d"]);
        command.current_dir(project.path("a/b"));
        run(command, LIMIT).expect_success(name);
        assert_eq!(project.ps().len(), 2, "{name}");
    }
}

#[test]
fn several_files_change_what_the_first_says() {
    let project = Project::new("several", COMPOSE);
    let other =
        project.expand("services:\n  db: { expose: [\"9000\"] }\n  more: { command: [\"@guest@\", --tcp, \"1\"] }\n");
    std::fs::write(project.path("other.yaml"), other).unwrap();
    project.ok(&["up", "-d", "-f", "compose.yaml", "-f", "other.yaml"]);
    assert_eq!(project.ps().len(), 3);
    assert_eq!(ask(project.at("db", 9000)).value("host"), "db");
}

#[test]
fn variables_environment_files_and_working_directories_reach_the_program() {
    let project = Project::new(
        "environment",
        r#"
services:
  web:
    command: [sh, -c, 'echo "<$$PLAIN|$$FILED|$${DEFAULTED}|$$(pwd)>"; exec @guest@ --tcp ${PORT:-8080}']
    working_dir: ./sub
    environment: { PLAIN: plain, DEFAULTED: "${UNSET:-default}" }
    env_file: extra.env
    expose: ["${PORT:-8080}"]
"#,
    );
    std::fs::create_dir(project.path("sub")).unwrap();
    std::fs::write(project.path("extra.env"), "FILED=filed\n").unwrap();
    project.ok(&["up", "-d"]);
    ask(project.at("web", 8080));
    let here = project.path("sub").canonicalize().unwrap();
    let said = project.ok(&["logs", "web"]);
    assert!(
        said.contains(&format!("<plain|filed|default|{}>", here.display())),
        "{said}"
    );
}

#[test]
fn a_host_that_is_kept_awake_runs_from_the_start_and_comes_back() {
    let project = Project::up(
        "awake",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], x-imsup: { keep_awake: true } }
"#,
    );
    project.wait_event("web", "ready", 1);
    let host = project.host("web");
    assert_eq!(host.boots, 1);
    ask(project.at("web", 8080));
}
