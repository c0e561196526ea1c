//! A host that is idle sleeps, says so, and can be told to sleep, to wake and to stay awake.

mod common;

use common::client::{self, PersistentConnection, ask};
use common::{Project, wait_until};

const PAIR: &str = r#"
x-imsup: { idle_after: 100ms }
services:
  web: { command: ["@guests@/servers", threads, "8080"], expose: ["8080"] }
  other: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
"#;

#[test]
fn an_idle_host_sleeps_and_ps_events_why_and_usage_say_so() {
    let project = Project::up("idle", PAIR);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let pid = held.ask("first").pid();
    let wakes = watch.asleep(&project, "web");
    let suspend = watch.wait("web", "suspend", 1);
    assert_eq!(suspend.cause.as_deref(), Some("idle"));
    assert!(suspend.json["duration_us"].is_u64(), "{:?}", suspend.json);

    let host = project.wait_state("web", "suspended");
    assert_eq!((host.pid, host.boots), (Some(pid), 1));
    assert_eq!(host.json["wakes"], wakes);
    assert!(host.json["next_deadline"].is_null(), "{:?}", host.json);
    assert!(host.json["since"].is_string());
    assert!(project.ok(&["ps"]).contains("suspended"));

    let why = project.why("web");
    let kinds: Vec<&str> = why["waits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|wait| wait["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"listener") && kinds.contains(&"connection"), "{why}");
    assert!(why["terminates_in_s"].is_null() && why["method"].is_string(), "{why}");
    let said = project.ok(&["why", "web"]);
    assert!(said.contains("8080") && said.contains("servers"), "{said}");

    held.ask("second");
    let wake = watch.wait("web", "wake", wakes + 1);
    assert_eq!(wake.cause.as_deref(), Some("data"));
    assert!(wake.json["duration_us"].is_u64(), "{:?}", wake.json);
    watch.slept_again("web", wakes + 1);
    let usage = project.ok(&["usage", "web", "--format", "json"]);
    let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
    assert_eq!((&usage["boots"], &usage["wakes"]), (&1.into(), &(wakes + 1).into()));
    for state in ["imaginary_s", "booting_s", "running_s", "suspended_s", "cpu_s"] {
        assert!(usage[state].as_f64().unwrap() > 0.0, "{state}: {usage}");
    }
}

#[test]
fn nothing_moves_in_a_sleeper() {
    let project = Project::up("still", PAIR);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let pid = held.ask("first").pid();
    let wakes = watch.asleep(&project, "web");
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let cpu = || read("schedstat").split_whitespace().next().unwrap().to_owned();
    // A thread that was stopped for a look enters the freezer on its own CPU time, after the host
    // is reported asleep: until then it is runnable, however long it has to wait for a processor.
    let is_runnable = || read("stat").rsplit_once(") ").unwrap().1.starts_with('R');
    wait_until("it to stand still while it is looked at", || {
        let before = cpu();
        project.why("web");
        !is_runnable() && cpu() == before
    });
    let before = cpu();
    let usage = project.ok(&["usage", "--format", "json"]);
    assert!(!usage.is_empty());
    project.why("web");
    project.host("web");
    PersistentConnection::connect(project.at("other", 8080)).ask("somebody else");
    assert_eq!(cpu(), before, "being looked at does not wake it");
    assert_eq!(watch.asleep(&project, "web"), wakes);
}

#[test]
fn suspend_resume_and_keep_awake_are_obeyed() {
    let project = Project::up("verbs", &PAIR.replace("100ms", "1h"));
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    held.ask("first");
    watch.wait("web", "ready", 1);
    let why = project.why("web");
    assert!(why["sleeps_in_s"].as_f64().unwrap() > 60.0, "{why}");

    project.ok(&["suspend", "web"]);
    assert_eq!(
        project.host("web").state,
        "suspended",
        "the verb returns when it sleeps"
    );
    assert_eq!(watch.wait("web", "suspend", 1).cause.as_deref(), Some("wake"));
    project.ok(&["suspend", "web"]);
    project.ok(&["resume", "web"]);
    assert_eq!(project.host("web").state, "running", "the verb returns when it runs");
    assert_eq!(watch.wait("web", "wake", 1).cause.as_deref(), Some("wake"));
    project.ok(&["resume", "web"]);

    project.ok(&["suspend", "web"]);
    held.ask("a sleeper by order wakes like any other");
    assert_eq!(watch.wait("web", "wake", 2).cause.as_deref(), Some("data"));

    let said = project.fails(1, &["suspend", "other"]);
    assert!(said.contains("other"), "{said}");
    let said = project.fails(1, &["resume", "other"]);
    assert!(said.contains("other"), "{said}");
    let why = project.why("other");
    assert!(why["detail"].is_string(), "{why}");
}

#[test]
fn a_lease_keeps_a_host_awake_until_it_ends() {
    let project = Project::up("lease", PAIR);
    let watch = project.watch();
    project.ok(&["keep-awake", "web", "--for", "1h"]);
    assert_eq!(project.host("web").state, "running", "it is booted for it");
    project.ok(&["wake", "other"]);
    // The neighbour with the same settings sleeps; the holder of the lease does not.
    watch.wait("other", "suspend", 1);
    wait_until("an idle host that does not sleep", || {
        let why = project.why("web");
        let lease = why["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .any(|reason| reason["kind"] == "lease");
        assert!(lease, "{why}");
        why["idle_s"].as_f64().unwrap() > 0.3
    });
    assert_eq!(watch.count("web", "suspend"), 0);
    assert!(project.ok(&["why", "web"]).contains("keep-awake"));

    project.ok(&["keep-awake", "web", "--for", "0s"]);
    watch.wait("web", "suspend", 1);
    project.ok(&["keep-awake", "web", "--for", "300ms"]);
    assert_eq!(watch.wait("web", "wake", 1).cause.as_deref(), Some("wake"));
    watch.wait("web", "suspend", 2);
}

#[test]
fn hosts_that_are_kept_awake_never_sleep() {
    let project = Project::up(
        "kept",
        r#"
x-imsup: { idle_after: 20ms }
services:
  kept: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], x-imsup: { keep_awake: true } }
  never: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], x-imsup: { idle_after: never } }
  busy: { command: ["@guest@", --busy, --tcp, "8080"], expose: ["8080"] }
  sleeper: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "kept", "never", "busy", "sleeper"]);
    for round in 1..=5 {
        watch.wait("sleeper", "suspend", round);
        ask(project.at("sleeper", 8080));
    }
    for (host, reason) in [("kept", "setting"), ("never", "setting"), ("busy", "cpu")] {
        assert_eq!(project.host(host).state, "running", "{host}");
        assert_eq!(watch.count(host, "suspend"), 0, "{host}");
        // A busy program may have had no processor since the last look.
        wait_until(&format!("{host} to say that it is awake for {reason}"), || {
            project.why(host)["reasons"][0]["kind"] == reason
        });
    }
    // By order it sleeps all the same, until its next signal.
    project.ok(&["suspend", "never"]);
    assert_eq!(project.host("never").state, "suspended");
    ask(project.at("never", 8080));
    assert_eq!(project.wait_state("never", "running").boots, 1);
    let said = project.fails(1, &["suspend", "busy"]);
    assert!(said.contains("busy"), "{said}");
    ask(project.at("busy", 8080));
    assert_eq!(project.host("busy").state, "running", "not left half frozen");
}

#[test]
fn exec_and_stop_work_on_sleepers() {
    let project = Project::up("exec", PAIR);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    held.ask("first");
    let wakes = watch.asleep(&project, "web");
    // The command asks its own host: both must be awake.
    let guest = common::guest("guest");
    let said = project.ok(&["exec", "web", "--", guest.to_str().unwrap(), "--call", "127.0.0.1:8080"]);
    assert!(said.contains("host=web"), "{said}");
    assert_eq!(watch.wait("web", "wake", wakes + 1).cause.as_deref(), Some("exec"));
    let wakes = watch.asleep(&project, "web");

    // While a command runs in it, a host does not sleep.
    let mut command = project.imsup_command(&["exec", "web", "--", "cat"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null());
    let mut running = command.spawn().unwrap();
    watch.wait("web", "wake", wakes + 1);
    let suspends = watch.count("web", "suspend");
    wait_until("the command to keep it awake", || {
        let why = project.why("web");
        let reasons = why["reasons"].as_array().unwrap();
        reasons.iter().any(|reason| reason["kind"] == "command") && why["idle_s"].as_f64().unwrap() > 0.3
    });
    assert_eq!(watch.count("web", "suspend"), suspends);
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    watch.asleep(&project, "web");

    project.ok(&["stop", "web"]);
    held.expect_end();
    let host = project.host("web");
    assert_eq!((host.state.as_str(), host.pid), ("imaginary", None));
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    watch.wait("web", "suspend", suspends + 2);
    project.ok(&["restart", "web"]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    assert_eq!(project.host("web").boots, 3);
}

/// `imsup wake` of a sleeper resumes it, and a transient host sleeps like any other.
#[test]
fn wake_resumes_and_transient_hosts_sleep() {
    let project = Project::up("transient", PAIR);
    let watch = project.watch();
    project.ok(&["wake", "web"]);
    watch.wait("web", "suspend", 1);
    project.ok(&["wake", "web"]);
    assert_eq!(watch.wait("web", "wake", 1).cause.as_deref(), Some("wake"));
    let servers = common::guest("servers");
    let mut command = project.imsup_command(&["run", "--host", "other", "--"]);
    command.args([servers.to_str().unwrap(), "poll", "8080"]);
    let running = common::Background::spawn(command, std::process::Stdio::null());
    watch.wait("other", "suspend", 1);
    assert_eq!(
        client::ask_line(project.at("other", 8080), "hello")
            .unwrap()
            .split(' ')
            .nth(1),
        Some("host=other")
    );
    watch.wait("other", "wake", 1);
    watch.wait("other", "suspend", 2);
    // Its terminal's interrupt ends it, asleep or not.
    running.signal(rustix::process::Signal::INT);
    running.finish(common::LIMIT);
    project.wait_state("other", "imaginary");
}

#[test]
fn down_ends_sleepers() {
    let project = Project::up("down", &PAIR.replace("threads", "prefork"));
    let watch = project.watch();
    project.ok(&["wake", "web", "other"]);
    watch.wait("web", "suspend", 1);
    watch.wait("other", "suspend", 1);
    drop(watch);
    project.down();
}
