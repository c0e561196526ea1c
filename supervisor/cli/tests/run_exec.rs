//! `imsup run` and `imsup exec`: any command as a host, statuses and signals passed through, PID 1
//! duties.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use common::client::ask;
use common::{Background, LIMIT, Project, guest, wait_until};
use rustix::process::Signal;

/// No host falls asleep before a slow test has looked.
const COMPOSE: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "9000"] }
"#;

#[test]
fn the_exit_status_is_passed_through() {
    let project = Project::up("status", COMPOSE);
    for (command, status) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["/nowhere/program"], 127),
        (&["no-such-program-in-path"], 127),
        (&["/etc/passwd"], 126),
        (&["/tmp"], 126),
    ] {
        let finished = project.run(command);
        assert_eq!(finished.code(), Some(status), "run {command:?}: {finished}");
        let mut arguments = vec!["exec", "web", "--"];
        arguments.extend(command);
        let finished = project.imsup(&arguments);
        assert_eq!(finished.code(), Some(status), "exec {command:?}: {finished}");
    }
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    let project = Project::up("named", COMPOSE);
    let finished = project.run(&["/nowhere/program"]);
    assert!(finished.stderr.contains("/nowhere/program"), "{finished}");
}

#[test]
fn standard_input_and_output_are_the_commands_own() {
    let project = Project::up("stdio", COMPOSE);
    let mut child = project
        .imsup_command(&["run", "--", "sh", "-c", "cat; echo error >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"through\n");
    assert_eq!(output.stderr, b"error\n");
}

#[test]
fn the_environment_and_the_working_directory_are_kept() {
    let project = Project::up("environment", COMPOSE);
    let mut command = project.imsup_command(&["run", "--", "sh", "-c", "echo $MINE; pwd -P"]);
    command.env("MINE", "kept");
    let said = common::command::run(command, LIMIT).expect_success("sh");
    let here = project.path("").canonicalize().unwrap();
    assert_eq!(said, format!("kept\n{}\n", here.display()));
}

#[test]
fn a_transient_host_calls_by_name_and_is_seen_with_an_address_of_its_own() {
    let project = Project::up("transient", COMPOSE);
    let said = project.run_guest(&["--call", "web:8080"]);
    assert!(said.contains("host=web ") && said.contains("peer=127.77."), "{said}");
    wait_until("the transient host to be gone", || project.ps().len() == 2);
}

#[test]
fn run_with_a_name_that_is_no_hosts_is_told() {
    let project = Project::up("typo", COMPOSE);
    let said = project.fails(125, &["run", "--host", "wbe", "--", "true"]);
    assert!(said.contains("has no host 'wbe'") && said.contains("'web'"), "{said}");
}

#[test]
fn run_with_the_name_of_a_service_takes_the_hosts_part() {
    let project = Project::up("service", COMPOSE);
    let program = guest("guest");
    let program = program.to_str().unwrap();
    let server =
        Background::collecting(project.imsup_command(&["run", "--host", "web", "--", program, "--tcp", "8080"]));
    project.wait_state("web", "running");
    let answer = ask(project.at("web", 8080));
    assert_eq!(project.host("web").pid, Some(answer.pid()));
    let said = project.imsup(&["run", "--host", "web", "--", "true"]);
    assert!(
        !said.success() && said.stderr.contains("web"),
        "a second one is told no: {said}"
    );
    server.signal(Signal::TERM);
    assert_eq!(server.finish(LIMIT).code(), Some(143));
    project.wait_state("web", "imaginary");
    assert_ne!(
        ask(project.at("web", 8080)).pid(),
        answer.pid(),
        "the next connection boots it from the file"
    );
}

#[test]
fn run_starts_a_broker_where_none_runs() {
    let project = Project::new("brokerless", COMPOSE);
    let said = project.run_guest(&["--call", "web:8080"]);
    assert!(said.contains("host=web "), "{said}");
}

/// The command that starts a broker may have read the file itself, to find the project.
#[test]
fn a_broker_gets_the_compose_file_from_standard_input() {
    let project = Project::new("stdin-file", "services: {}");
    let file = project.path("other.yaml");
    std::fs::write(&file, project.expand(COMPOSE)).unwrap();
    let ordered = |words: &[&str]| {
        let stdin = Stdio::from(std::fs::File::open(&file).unwrap());
        let command = Background::collecting_with(project.imsup_command(words), stdin);
        command.finish(LIMIT).expect_success(&words.join(" "))
    };
    ordered(&["up", "-d", "-f", "-"]);
    assert_eq!(project.host("web").boots, 0);
    project.down();
    let program = guest("guest");
    let program = program.to_str().unwrap();
    let said = ordered(&["run", "-f", "-", "--", program, "--call", "web:8080"]);
    assert!(said.contains("host=web "), "{said}");
}

#[test]
fn signals_are_forwarded() {
    let project = Project::up("signals", COMPOSE);
    let script =
        "trap 'echo got-usr1' USR1; trap 'echo got-term; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = Background::spawn(
        project.imsup_command(&["run", "--", "sh", "-c", script]),
        Stdio::piped(),
    );
    let mut lines = BufReader::new(child.child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "ready");
    child.signal(Signal::USR1);
    assert_eq!(lines.next().unwrap(), "got-usr1");
    child.signal(Signal::TERM);
    assert_eq!(lines.next().unwrap(), "got-term");
    assert_eq!(child.finish(LIMIT).code(), Some(5));
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let project = Project::up("orphans", COMPOSE);
    let finished = project.run(&[
        "sh",
        "-c",
        "setsid sleep 1000 & (setsid sh -c 'trap : TERM; sleep 1001' &); exit 4",
    ]);
    assert_eq!(finished.code(), Some(4), "{finished}");
    let left: Vec<_> = project
        .processes()
        .into_iter()
        .filter(|process| process.command.contains("sleep"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    let project = Project::up("reaped", COMPOSE);
    // Until this shell is the supervisor's only child; a zombie that is not reaped stays one.
    let script = "for i in 1 2 3 4 5; do (setsid true &); done; i=0; \
                  while left=; for s in /proc/[0-9]*/stat; do read -r pid comm state ppid rest <$s && \
                  [ \"$ppid\" = $PPID ] && [ $pid != $$ ] && left=\"$left $comm $state\"; done 2>/dev/null; \
                  [ -n \"$left\" ] && [ $i -lt 300 ]; do i=$((i + 1)); sleep 0.1; done; echo \"left:$left\"";
    let said = project.run(&["sh", "-c", script]).expect_success("sh");
    assert_eq!(said, "left:\n", "orphans that nobody has reaped");
}

#[test]
fn exec_boots_an_absent_host_and_has_its_identity() {
    let project = Project::up("exec", COMPOSE);
    let program = guest("guest");
    let program = program.to_str().unwrap();
    let said = project.ok(&[
        "exec",
        "db",
        "--",
        program,
        "--who",
        "--call",
        "web:8080",
        "--call",
        "127.0.0.1:9000",
    ]);
    assert!(said.contains("hostname=db "), "{said}");
    assert!(
        said.contains(&format!("peer={}:", project.host("db").address)),
        "the host's own address: {said}"
    );
    assert!(said.contains("host=db "), "the host's own localhost: {said}");
    let boot = project.wait_event("db", "boot", 1);
    assert_eq!(boot.cause.as_deref(), Some("exec"));
    let host = project.host("db");
    assert_eq!(
        (host.state.as_str(), host.boots),
        ("running", 1),
        "the host outlives the command"
    );
    let said = project.fails(125, &["exec", "nobody", "--", "true"]);
    assert!(said.contains("nobody"), "{said}");
}

#[test]
fn an_exec_does_not_end_with_the_hosts_listeners() {
    let project = Project::up("exec-bind", COMPOSE);
    let program = guest("guest");
    let program = program.to_str().unwrap();
    ask(project.at("web", 8080));
    let finished = project.imsup(&["exec", "web", "--", program, "--tcp", "8080"]);
    assert_eq!(finished.code(), Some(111), "{finished}");
    assert!(
        finished.stderr.contains("EADDRINUSE"),
        "the host's program holds the port: {finished}"
    );
    let helper = Background::collecting(project.imsup_command(&["exec", "web", "--", program, "--tcp", "8081"]));
    let said = project.run_guest(&["--call", "web:8080"]);
    assert!(said.contains("host=web "), "{said}");
    wait_until("the helper's port", || {
        common::client::ask_line(project.at("web", 8081), "hello").is_ok()
    });
    helper.signal(Signal::TERM);
    helper.finish(LIMIT);
    assert_eq!(project.host("web").state, "running");
}
