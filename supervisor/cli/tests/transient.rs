//! Every verb with a host that `imsup run` has made, and that no compose file knows.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::client::{Answer, PersistentConnection, ask, ask_line};
use common::{Background, LIMIT, Project, guest, wait_until};
use serde_json::Value;

/// Hosts sleep by order only.
const COMPOSE: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

/// The name of the first host that is made.
const MADE: &str = "run-1";

/// Starts a server as a transient host, and waits until the host is ready. The host's program says
/// `listening` on the command's standard output.
fn serve(project: &Project, before: &[&str]) -> Background {
    let program = guest("guest");
    let server = [&["run"], before, &["--", program.to_str().unwrap(), "--tcp", "9000"]].concat();
    let server = Background::collecting(project.imsup_command(&server));
    project.wait_event(MADE, "ready", 1);
    server
}

/// Waits for the end of the command, and until the host is gone.
fn expect_gone(project: &Project, server: Background, status: i32) {
    let finished = server.finish(LIMIT);
    assert_eq!(finished.code(), Some(status), "{finished}");
    wait_until("the host to be gone", || !project.ps().contains_key(MADE));
}

/// The one line of JSON that a verb prints for the host.
#[track_caller]
fn json(project: &Project, arguments: &[&str]) -> Value {
    let said = project.ok(&[arguments, &["--format", "json"]].concat());
    let mut lines = said.lines();
    let line = lines.next().unwrap_or_else(|| panic!("{arguments:?} printed nothing"));
    assert_eq!(lines.next(), None, "{arguments:?}: {said}");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn verbs_that_only_look_show_a_transient_host() {
    let project = Project::up("looked-at", COMPOSE);
    let server = serve(&project, &[]);
    let host = project.host(MADE);
    let (pid, address) = (host.pid.unwrap(), host.address.to_string());
    assert_eq!((host.state.as_str(), host.boots), ("running", 1));
    assert_eq!(host.json["declared"], false);
    assert_eq!(host.json["ports"], serde_json::json!(["9000/tcp"]));
    assert_eq!(project.ok(&["ps", "-q"]), format!("web\n{MADE}\n"));
    assert_eq!(project.ok(&["ps", "-q", MADE]), format!("{MADE}\n"));

    let events: Vec<_> = project
        .events()
        .into_iter()
        .map(|event| (event.host, event.event))
        .collect();
    let expected = ["allocate", "boot", "ready"].map(|kind| (MADE.to_owned(), kind.to_owned()));
    assert_eq!(events, expected);
    let tree = json(&project, &["events", "--tree", MADE]);
    assert_eq!(
        (&tree["host"], &tree["event"], &tree["cause"]),
        (&MADE.into(), &"ready".into(), &"exec".into())
    );

    let usage = json(&project, &["usage", MADE]);
    assert_eq!(
        (&usage["host"], &usage["boots"], &usage["wakes"]),
        (&MADE.into(), &1.into(), &0.into())
    );
    assert_eq!(json(&project, &["why", MADE])["state"], "running");
    assert_eq!(project.ok(&["resolve", MADE]).trim(), address);
    assert!(project.ok(&["hosts"]).contains(&format!("{address}\t{MADE}\n")));
    // What the program prints is the command's own output.
    assert_eq!(project.ok(&["logs", MADE]), "");

    assert_eq!(ask(project.at(MADE, 9000)).pid(), pid);
    assert_eq!(project.host(MADE).pid, Some(pid), "to look changes nothing");
    project.ok(&["stop", MADE]);
    let finished = server.finish(LIMIT);
    assert_eq!(
        (finished.code(), finished.stdout.as_str()),
        (Some(143), "listening\n"),
        "{finished}"
    );
}

#[test]
fn a_transient_host_is_suspended_and_resumed_by_order_and_by_a_connection() {
    let project = Project::up("sleeps", COMPOSE);
    let server = serve(&project, &[]);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at(MADE, 9000));
    let mut ask = || {
        held.say("hello").unwrap();
        Answer(held.hear().unwrap()).pid()
    };
    let pid = ask();
    project.ok(&["suspend", MADE]);
    assert_eq!(project.host(MADE).state, "suspended");
    let asleep = json(&project, &["why", MADE]);
    assert_eq!(asleep["state"], "suspended");
    assert!(!asleep["why"]["waits"].as_array().unwrap().is_empty(), "{asleep}");
    project.ok(&["resume", MADE]);
    assert_eq!(project.host(MADE).state, "running");
    assert_eq!(ask(), pid);

    project.ok(&["suspend", MADE]);
    assert_eq!(ask(), pid);
    project.ok(&["suspend", MADE]);
    project.ok(&["wake", MADE]);
    assert_eq!(project.host(MADE).state, "running");
    assert_eq!(ask(), pid);
    watch.wait(MADE, "wake", 3);
    let causes: Vec<_> = watch
        .of(MADE, "wake")
        .into_iter()
        .map(|wake| wake.cause.unwrap())
        .collect();
    assert_eq!(causes, ["wake", "data", "wake"]);
    assert_eq!(project.host(MADE).boots, 1);
    project.ok(&["stop", MADE]);
    expect_gone(&project, server, 143);
}

/// A transient host also falls asleep by itself. A lease keeps the host awake.
#[test]
fn a_lease_keeps_a_transient_host_awake() {
    let project = Project::up("leased", &COMPOSE.replace("never", "100ms"));
    let server = serve(&project, &[]);
    project.ok(&["keep-awake", MADE, "--for", "1h"]);
    let why = json(&project, &["why", MADE]);
    let reasons = why["why"]["reasons"].as_array().unwrap();
    assert!(reasons.iter().any(|reason| reason["kind"] == "lease"), "{why}");
    assert_eq!(why["state"], "running");
    project.ok(&["keep-awake", MADE, "--for", "0s"]);
    project.wait_state(MADE, "suspended");
    project.ok(&["stop", MADE]);
    expect_gone(&project, server, 143);
}

/// If a sleeper is stopped, the command of `imsup run` ends as if the host had been awake.
#[test]
fn a_transient_host_that_sleeps_is_stopped() {
    let project = Project::up("stopped", COMPOSE);
    let server = serve(&project, &[]);
    project.ok(&["suspend", MADE]);
    project.ok(&["stop", MADE]);
    expect_gone(&project, server, 143);
    let exit = project.wait_event(MADE, "exit", 1);
    assert_eq!(
        (exit.cause.as_deref(), exit.by.as_deref()),
        (Some("wake"), Some("stop"))
    );
}

#[test]
fn a_transient_host_is_not_restarted_and_goes_on() {
    let project = Project::up("restarted", COMPOSE);
    let server = serve(&project, &[]);
    let pid = ask(project.at(MADE, 9000)).pid();
    let web = ask(project.at("web", 8080)).pid();
    for hosts in [&[MADE][..], &["web", MADE]] {
        let said = project.fails(1, &[&["restart"], hosts].concat());
        assert!(said.contains(MADE) && said.contains("nothing was restarted"), "{said}");
    }
    assert_eq!(ask(project.at("web", 8080)).pid(), web);
    // Without names: those of the compose file.
    project.ok(&["restart"]);
    assert_ne!(ask(project.at("web", 8080)).pid(), web);
    assert_eq!(ask(project.at(MADE, 9000)).pid(), pid);
    project.ok(&["stop"]);
    expect_gone(&project, server, 143);
    assert_eq!(project.host("web").state, "imaginary");
}

#[test]
fn a_command_beside_a_transient_host_has_its_identity() {
    let project = Project::up("beside", COMPOSE);
    let server = serve(&project, &[]);
    let address = project.host(MADE).address;
    let program = guest("guest");
    let program = program.to_str().unwrap();
    let calls = ["--who", "--call", "127.0.0.1:9000", "--call", "web:8080"];
    let said = project.ok(&[&["exec", MADE, "--", program], &calls[..]].concat());
    for part in [
        &format!("hostname={MADE} "),
        &format!("host={MADE} "),
        &format!("peer={address}:"),
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    // A command also wakes a sleeper, and ends with the host.
    project.ok(&["suspend", MADE]);
    let command = project.imsup_command(&["exec", MADE, "--", "sh", "-c", "echo runs; exec sleep 1000"]);
    let mut beside = Background::spawn(command, Stdio::piped());
    let mut output = BufReader::new(beside.child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    assert_eq!(ask(project.at(MADE, 9000)).value("host"), MADE);
    project.ok(&["stop", MADE]);
    expect_gone(&project, server, 143);
    beside.finish(LIMIT);
}

/// A transient host is in no compose file. Once the host has ended, no connection boots the host
/// again.
#[test]
fn a_transient_host_that_has_ended_is_known_to_no_verb() {
    let project = Project::up("unknown", COMPOSE);
    let server = serve(&project, &[]);
    let endpoint = project.at(MADE, 9000);
    ask(endpoint);
    project.ok(&["stop", MADE]);
    expect_gone(&project, server, 143);
    let error = ask_line(endpoint, "hello").expect_err("nobody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    for verb in [
        "ps", "logs", "wake", "stop", "suspend", "resume", "restart", "why", "usage", "resolve",
    ] {
        let said = project.fails(1, &[verb, MADE]);
        assert!(said.contains(&format!("no host '{MADE}'")), "{verb}: {said}");
    }
    let said = project.fails(125, &["exec", MADE, "--", "true"]);
    assert!(said.contains(&format!("no host '{MADE}'")), "{said}");
    let said = project.fails(1, &["keep-awake", MADE, "--for", "1h"]);
    assert!(said.contains(&format!("no host '{MADE}'")), "{said}");
    // What happened to it did happen.
    assert_eq!(project.event_names(MADE), ["allocate", "boot", "ready", "exit"]);
}

#[test]
fn down_ends_transient_hosts_whether_they_run_or_sleep() {
    let project = Project::up("down", COMPOSE);
    let running = serve(&project, &[]);
    let program = guest("guest");
    let second = ["run", "--", program.to_str().unwrap(), "--tcp", "9000"];
    let asleep = Background::collecting(project.imsup_command(&second));
    project.wait_event("run-2", "ready", 1);
    project.ok(&["suspend", "run-2"]);
    project.down();
    for command in [running, asleep] {
        let finished = command.finish(LIMIT);
        assert_eq!(finished.code(), Some(143), "{finished}");
    }
}

/// Without a compose file, the host has the name that is asked for, and its project a broker for as
/// long as it runs.
#[test]
fn verbs_know_a_transient_host_of_a_project_without_a_file() {
    let project = Project::new("fileless", COMPOSE);
    std::fs::remove_file(project.path("compose.yaml")).unwrap();
    let program = guest("guest");
    let command = [
        "run",
        "--host",
        "alone",
        "--",
        program.to_str().unwrap(),
        "--tcp",
        "9000",
    ];
    let server = Background::collecting(project.imsup_command(&command));
    wait_until("the host", || {
        let said = project.imsup(&["ps", "-q"]);
        said.success() && said.stdout == "alone\n"
    });
    project.wait_event("alone", "ready", 1);
    let pid = ask(project.at("alone", 9000)).pid();
    project.ok(&["suspend", "alone"]);
    assert_eq!(ask(project.at("alone", 9000)).pid(), pid);
    let said = project.fails(1, &["restart", "alone"]);
    assert!(said.contains("nothing was restarted"), "{said}");
    project.ok(&["stop", "alone"]);
    let finished = server.finish(LIMIT);
    assert_eq!(finished.code(), Some(143), "{finished}");
    wait_until("the project to be gone", || {
        let said = project.imsup(&["ps"]);
        said.code() == Some(1) && said.stderr.contains("is not up")
    });
}
