//! The verbs as typed by people.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::client::ask;
use common::command::run;
use common::{Background, LIMIT, Project, need, wait_until};

/// No host falls asleep before a slow test has looked.
const COMPOSE: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "9000"] }
"#;

const SLEEPY: &str = r#"
x-imsup: { idle_after: 1s }
services:
  web: { command: ["@guest@", --tcp, "8080", --upstream, "app:8080"], expose: ["8080"] }
  app: { command: ["@guest@", --tcp, "8080", --upstream, "db:8080"] }
  db: { command: ["@guest@", --tcp, "8080"] }
"#;

/// A connection of the program to itself waits in the queue after the end, without a peer.
#[test]
fn a_host_that_connects_to_itself_at_its_end_does_not_boot_itself() {
    need(&["python3"]);
    let project = Project::up(
        "itself",
        r#"
services:
  server:
    command:
      - python3
      - -c
      - |
        import os, signal, socket
        listener = socket.create_server(("", 8000))
        def end(*_):
            socket.create_connection(("127.0.0.1", 8000))
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
        while True:
            signal.pause()
    expose: ["8000"]
  other: { command: ["@guest@", --tcp, "9000"], expose: ["9000"] }
"#,
    );
    project.ok(&["wake", "server"]);
    project.ok(&["stop", "server"]);
    // The broker has looked at all queues by then.
    ask(project.at("other", 9000));
    let server = project.host("server");
    assert_eq!((server.state.as_str(), server.boots), ("imaginary", 1));
}

/// Members of a cluster go on looking for each other while ending. The slow member listens once
/// prepared for the end.
#[test]
fn hosts_that_are_stopped_together_do_not_boot_each_other() {
    need(&["bash"]);
    let project = Project::up(
        "together",
        r#"
x-imsup: { idle_after: never }
services:
  quick: { command: ["@guest@", --tcp, "8000"], expose: ["8000"] }
  slow:
    command: [bash, -c, "trap 'for i in {1..40}; do echo ? >/dev/tcp/quick/8000; sleep 0.05; done; kill $$!; exit' TERM; @guest@ --tcp 9000 & while :; do sleep 0.05; done"]
    expose: ["9000"]
"#,
    );
    project.ok(&["wake"]);
    project.ok(&["stop"]);
    for (name, host) in project.ps() {
        assert_eq!((host.state.as_str(), host.boots), ("imaginary", 1), "{name}");
    }
    // A host that is stopped alone may need the others to end.
    project.ok(&["wake", "slow"]);
    project.ok(&["stop", "slow"]);
    assert_eq!(project.host("quick").boots, 2);
    let by = project.wait_event("quick", "allocate", 2).by;
    assert_eq!(by.as_deref(), Some("slow"));
}

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
    assert!(finished.stdout.contains("pidfd"), "{finished}");
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

#[test]
fn suspend_holds_a_host_and_resume_lets_it_go() {
    let project = Project::up("by-hand", COMPOSE);
    let address = project.at("web", 8080);
    let pid = ask(address).pid();
    project.ok(&["suspend", "web"]);
    let host = project.host("web");
    assert_eq!((host.state.as_str(), host.pid.is_some()), ("suspended", true));
    assert_eq!(project.wait_event("web", "suspend", 1).cause.as_deref(), Some("wake"));
    project.ok(&["suspend", "web"]);
    assert_eq!(
        project.host("web").state,
        "suspended",
        "suspending a sleeper does nothing"
    );
    project.ok(&["resume", "web"]);
    assert_eq!(project.host("web").state, "running");
    assert_eq!(project.wait_event("web", "wake", 1).cause.as_deref(), Some("wake"));
    project.ok(&["resume", "web"]);
    assert_eq!(ask(address).pid(), pid, "the same program, all the time");
    assert_eq!(project.host("web").boots, 1);
}

#[test]
fn a_lease_keeps_a_host_awake_until_it_is_ended() {
    let project = Project::up("lease", SLEEPY);
    project.ok(&["keep-awake", "db", "--for", "1h30m"]);
    assert_eq!(project.host("db").state, "running", "it was booted for that");
    let why = why(&project, "db");
    let kinds: Vec<_> = why["why"]["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| &reason["kind"])
        .collect();
    assert!(kinds.contains(&&"lease".into()), "{why}");
    assert!(why["why"]["sleeps_in_s"].is_null(), "{why}");
    assert!(project.ok(&["why", "db"]).contains("keep"), "people are told as well");
    project.ok(&["keep-awake", "db", "--for", "0s"]);
    project.wait_state("db", "suspended");
}

#[test]
fn why_says_what_each_host_waits_for() {
    let project = Project::up("why", SLEEPY);
    let absent = project.ok(&["why", "web"]);
    assert!(absent.contains("imaginary") && absent.contains("8080"), "{absent}");
    ask(project.at("web", 8080));
    // It may have slept before as well, while it waited for the others.
    let mut asleep = String::new();
    wait_until("web to sleep", || {
        asleep = project.ok(&["why", "web"]);
        asleep.contains("waits for")
    });
    assert!(asleep.contains("8080"), "{asleep}");
    let json = why(&project, "web");
    assert_eq!((&json["host"], &json["state"]), (&"web".into(), &"suspended".into()));
    let waits = json["why"]["waits"].as_array().expect("a list");
    assert!(!waits.is_empty(), "{json}");
    assert!(json["why"]["method"].is_string(), "{json}");
    assert_eq!(project.host("web").state, "suspended", "to ask wakes nobody");
}

fn why(project: &Project, host: &str) -> serde_json::Value {
    serde_json::from_str(&project.ok(&["why", host, "--format", "json"])).expect("JSON")
}

#[test]
fn usage_accounts_for_every_state() {
    let project = Project::up("usage", SLEEPY);
    let watch = project.watch();
    ask(project.at("web", 8080));
    let wakes = watch.slept_again("web", 0);
    ask(project.at("web", 8080));
    watch.slept_again("web", wakes + 1);
    // A supervisor that has not answered within a second is left out. The number of sleeps of web
    // while it waited for the others is unknown.
    wait_until("all of it to be accounted for", || {
        let said = project.ok(&["usage", "web", "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&said).expect("one line of JSON");
        let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key} in {json}"));
        let times = [
            "imaginary_s",
            "booting_s",
            "running_s",
            "suspended_s",
            "cpu_s",
            "memory_mib_s",
        ];
        assert_eq!(number("boots"), 1.0);
        let wakes = project.event_names("web").iter().filter(|name| *name == "wake").count();
        times.into_iter().all(|key| number(key) > 0.0) && number("wakes") == wakes as f64
    });
    let csv = project.ok(&["usage", "--format", "csv"]);
    let mut lines = csv.lines();
    assert!(lines.next().unwrap().starts_with("host,since,imaginary_s,"), "{csv}");
    let columns: Vec<usize> = lines.map(|line| line.split(',').count()).collect();
    assert_eq!(columns, [11, 11, 11], "{csv}");
    let table = project.ok(&["usage"]);
    assert!(table.contains("SUSPENDED") && table.contains("MiB·s"), "{table}");
}

#[test]
fn a_cascade_of_sleepers_is_one_tree() {
    let project = Project::up("tree", SLEEPY);
    let (address, watch) = (project.at("web", 8080), project.watch());
    for wakes in 0..2 {
        assert!(ask(address).0.contains("host=db "));
        for host in ["web", "app", "db"] {
            watch.slept_again(host, wakes);
        }
    }
    let said = project.ok(&["events", "--tree", "--format", "json", "db"]);
    let trees: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (tree, event) in trees.iter().zip(["ready", "wake"]) {
        let chain = [tree, &tree["children"][0], &tree["children"][0]["children"][0]];
        for (hop, host) in chain.iter().zip(["web", "app", "db"]) {
            assert_eq!((&hop["host"], &hop["event"]), (&host.into(), &event.into()), "{said}");
        }
        let after = chain.map(|hop| hop["after_us"].as_u64().unwrap());
        assert!(after.is_sorted() && after[0] == 0, "{said}");
        assert!(tree["by"].as_str().unwrap().starts_with("127."), "{said}");
    }
    assert_eq!(trees.len(), 2, "{said}");
    let text = project.ok(&["events", "--tree"]);
    assert!(text.contains("\n      └─ db  "), "{text}");
}

/// A follower of the project's events, which has shown some. Its standard error is collected.
fn follower(project: &Project) -> Background {
    let (imsup, name) = (common::imsup(), &project.name);
    // An earlier project's file is not this project's.
    let file = tempfile::NamedTempFile::new_in(project.path("")).unwrap();
    let script = format!(
        "exec {} events -p {name} --follow > {}",
        imsup.display(),
        file.path().display()
    );
    let follower = Background::collecting(project.command("sh", &["-c", &script]));
    wait_until("the follower to show events", || {
        std::fs::read_to_string(file.path()).is_ok_and(|text| text.contains("ready"))
    });
    follower
}

#[test]
fn a_follower_is_told_how_the_broker_ended() {
    let project = Project::up("followed", COMPOSE);
    project.ok(&["wake", "web"]);
    let following = follower(&project);
    project.kill_broker();
    let finished = following.finish(LIMIT);
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(
        finished.stderr.contains("died") && finished.stderr.contains("imsup up"),
        "{finished}"
    );

    project.ok(&["up", "-d"]);
    let following = follower(&project);
    project.ok(&["down"]);
    let finished = following.finish(LIMIT);
    assert!(finished.success() && finished.stderr.contains("is down"), "{finished}");
}
