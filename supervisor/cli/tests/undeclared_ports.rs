//! Supervised programs boot hosts by name on any port, declared or not, from blocking and
//! non-blocking sockets; every wait ends.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Background, LIMIT, Project, guest, need};
use rustix::process::Signal;

const COMPOSE: &str = r#"
x-imsup: { hold_timeout: 2s }
services:
  late: { command: ["@guest@", --start-delay, "300", --tcp, "9000"], x-imsup: { hold_timeout: 60s } }
  slow: { command: ["@guest@", --listen-delay, "300", --tcp, "9000-9001"], x-imsup: { hold_timeout: 60s } }
  six: { command: ["@guest@", --start-delay, "100", --bind, any6, --tcp, "9000"], x-imsup: { hold_timeout: 60s } }
  time: { command: ["@guest@", --start-delay, "100", --udp, "9000"], x-imsup: { hold_timeout: 60s } }
  gated: { command: ["@guest@", --start-once, "@dir@/go", --tcp, "9000"], x-imsup: { hold_timeout: 60s } }
  never: { command: ["@guest@", --start-delay, "1000000"], stop_signal: SIGKILL }
  broken: { command: ["@guest@", --exit-now, "3"], x-imsup: { hold_timeout: 50s } }
  crashing: { command: ["@guest@", --crash-now], x-imsup: { hold_timeout: 50s } }
  missing: { command: [/nowhere/program], x-imsup: { hold_timeout: 50s } }
"#;

#[test]
fn a_blocking_connect_waits_for_the_port() {
    let project = Project::up("blocking", COMPOSE);
    for host in ["late", "six"] {
        let said = project.run_guest(&["--call", &format!("{host}:9000")]);
        assert!(said.contains(&format!("host={host} ")), "{said}");
        let allocate = project.wait_event(host, "allocate", 1);
        assert_eq!(allocate.cause.as_deref(), Some("connect"));
        assert!(allocate.by.is_some(), "{:?}", allocate.json);
        assert_eq!(project.host(host).boots, 1);
    }
}

#[test]
fn a_non_blocking_connect_waits_for_the_port() {
    let project = Project::up("nonblocking", COMPOSE);
    for host in ["late", "six"] {
        let said = project.run_guest(&["--non-blocking", "--call", &format!("{host}:9000")]);
        assert!(said.contains(&format!("host={host} ")), "{said}");
        assert_eq!(project.host(host).boots, 1);
    }
}

#[test]
fn the_second_port_of_a_program_that_listens_late_is_waited_for() {
    for mode in [&[][..], &["--non-blocking"]] {
        let project = Project::up("second", COMPOSE);
        let mut dials = mode.to_vec();
        dials.extend(["--call", "slow:9001", "--call", "slow:9000"]);
        let said = project.run_guest(&dials);
        assert_eq!(said.matches("host=slow ").count(), 2, "{said}");
    }
}

#[test]
fn musl_and_go_clients_boot_hosts() {
    need(&["musl-gcc", "go"]);
    let project = Project::up("clients", COMPOSE);
    let musl = guest("guest-musl");
    let said = project
        .run(&[musl.to_str().unwrap(), "--call", "late:9000"])
        .expect_success("musl");
    assert!(said.contains("host=late "), "{said}");
    let go = guest("guest-go");
    let said = project
        .run(&[go.to_str().unwrap(), "-get", "http://six:9000/"])
        .expect_success("Go");
    assert!(said.contains("host=six "), "{said}");
}

#[test]
fn a_datagram_to_an_undeclared_port_boots_the_host() {
    let project = Project::up("datagram", COMPOSE);
    let said = project.run_guest(&["--udp-call", "--call", "time:9000"]);
    assert!(said.contains("host=time "), "{said}");
    assert_eq!(project.host("time").boots, 1);
}

#[test]
fn many_callers_share_one_boot() {
    let project = Project::up("many", COMPOSE);
    let program = guest("guest");
    let program = program.to_str().unwrap();
    let callers: Vec<_> = (0..20)
        .map(|number| {
            let mode = if number % 2 == 0 { "--non-blocking" } else { "--who" };
            let command = project.imsup_command(&["run", "--", program, mode, "--call", "late:9000"]);
            Background::collecting(command)
        })
        .collect();
    for caller in callers {
        let said = caller.finish(LIMIT).expect_success("caller");
        assert!(said.contains("host=late "), "{said}");
    }
    assert_eq!(project.host("late").boots, 1);
}

#[test]
fn a_port_that_a_running_host_does_not_listen_on_is_refused() {
    let project = Project::up("refused", COMPOSE);
    project.ok(&["wake", "late"]);
    let finished = run_failing(&project, &["--call", "late:9999"]);
    assert_eq!(finished, "call late:9999: connect: ECONNREFUSED\n");
    let finished = run_failing(&project, &["--non-blocking", "--call", "late:9999"]);
    assert!(reset_or_refused(&finished), "{finished}");
}

#[test]
fn a_port_that_a_booted_host_turns_out_not_to_listen_on_is_refused_or_reset() {
    for mode in [&[][..], &["--non-blocking"]] {
        let project = Project::up("unlistened", COMPOSE);
        let mut dials = mode.to_vec();
        dials.extend(["--call", "late:9999"]);
        let said = run_failing(&project, &dials);
        assert!(reset_or_refused(&said), "{said}");
        assert_eq!(project.host("late").boots, 1);
    }
}

#[test]
fn a_host_that_cannot_be_started_is_refused_or_reset_within_the_bound() {
    for host in ["broken", "crashing", "missing"] {
        for mode in [&[][..], &["--non-blocking"]] {
            let project = Project::up("failing", COMPOSE);
            let mut dials = mode.to_vec();
            let target = format!("{host}:9000");
            dials.extend(["--call", &target]);
            let said = run_failing(&project, &dials);
            assert!(reset_or_refused(&said), "{host} {mode:?}: {said}");
            project.wait_event(host, "fail", 1);
        }
    }
}

#[test]
fn a_wait_for_a_host_that_never_listens_ends_with_the_bound() {
    let project = Project::up("never", COMPOSE);
    let said = run_failing(&project, &["--call", "never:9000"]);
    // A program that is quiet has settled without listening, which may come before the bound.
    let known = ["ETIMEDOUT", "ECONNREFUSED"].map(|name| format!("call never:9000: connect: {name}\n"));
    assert!(known.contains(&said), "{said}");
}

#[test]
fn sigalrm_interrupts_a_held_connect() {
    let project = Project::up("alarm", COMPOSE);
    // By its address: the look-up of a name is interrupted by no alarm.
    let target = project.at("gated", 9000).to_string();
    let said = run_failing(&project, &["--alarm", "100", "--call", &target]);
    assert_eq!(said, format!("call {target}: connect: EINTR\n"));
}

#[test]
fn a_held_program_can_be_ended() {
    let project = Project::up("held", COMPOSE);
    let program = guest("guest");
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let dials = ["run", "--", program.to_str().unwrap(), "--who", "--call", "gated:9000"];
        let mut caller = Background::spawn(project.imsup_command(&dials), Stdio::piped());
        // Once the program runs, its signals are forwarded; the first caller waits from the
        // allocation on.
        let mut line = String::new();
        BufReader::new(caller.child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("who "), "{line}");
        project.wait_event("gated", "allocate", 1);
        caller.signal(signal);
        let finished = caller.finish(LIMIT);
        assert_eq!(finished.code(), Some(expected), "{finished}");
    }
    go(&project);
    project.ok(&["wake", "gated"]);
    let said = project.run_guest(&["--call", "gated:9000"]);
    assert!(said.contains("host=gated "), "{said}");
}

#[test]
fn a_caller_killed_with_sigkill_leaves_nothing() {
    let project = Project::up("killed", COMPOSE);
    let program = guest("guest");
    let caller = Background::collecting(project.imsup_command(&[
        "run",
        "--",
        program.to_str().unwrap(),
        "--call",
        "gated:9000",
    ]));
    project.wait_event("gated", "allocate", 1);
    caller.signal(Signal::KILL);
    assert!(!caller.finish(LIMIT).success());
    go(&project);
    project.wait_event("gated", "ready", 1);
    let said = project.run_guest(&["--call", "gated:9000"]);
    assert!(said.contains("host=gated "), "{said}");
}

/// Lets the program of the host `gated` begin.
fn go(project: &Project) {
    std::fs::write(project.path("go"), "").unwrap();
}

fn run_failing(project: &Project, dials: &[&str]) -> String {
    let program = guest("guest");
    let mut command = vec![program.to_str().unwrap()];
    command.extend(dials);
    let finished = project.run(&command);
    assert_eq!(finished.code(), Some(1), "{finished}");
    finished.stdout
}

/// A client of a host that does not listen sees a refusal, or a reset if the kernel had already
/// connected it.
fn reset_or_refused(said: &str) -> bool {
    [
        "connect: ECONNREFUSED",
        "connect: ECONNRESET",
        "recv: ECONNRESET",
        "send: ECONNRESET",
        "send: EPIPE",
    ]
    .iter()
    .any(|known| said.contains(known))
}
