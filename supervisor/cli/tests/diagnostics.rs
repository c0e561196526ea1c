//! imsup's reports of a program's calls: `run --trace`, and calls it cannot honour.

mod common;

use common::command::run;
use common::{Finished, LIMIT, Project, imsup, need, network, source, wait_until};

const COMPOSE: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  late: { command: ["@guest@", --start-delay, "200", --tcp, "9000"] }
  traced: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], environment: { IMSUP_TRACE: "1" } }
"#;

/// Lines of a trace, without the thread's number.
fn traced(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("] "))
        .filter(|(tid, _)| tid.parse::<u32>().is_ok())
        .map(|(_, line)| line)
        .collect()
}

#[track_caller]
fn expect_line(lines: &[&str], beginning: &str, end: &str) {
    let found = lines
        .iter()
        .any(|line| line.starts_with(beginning) && line.ends_with(end));
    assert!(found, "no line '{beginning}...{end}' in\n{}", lines.join("\n"));
}

#[test]
fn a_trace_tells_what_was_asked_decided_and_answered() {
    need(&["python3"]);
    let project = Project::up("trace", COMPOSE);
    let web = project.host("web").address;
    let late = project.host("late").address;
    let script = format!(
        r#"
import socket
socket.socket().connect(("{web}", 8080))
client = socket.socket()
client.connect(("{late}", 9000))
client.getpeername()
server = socket.socket()
server.bind(("127.0.0.1", 7000))
server.listen(5)
server.getsockname()
socket.socket().connect(("127.0.0.1", 7000))
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.sendto(b"hello", ("127.0.0.1", 7000))
datagram.sendmsg([b"hello"], [], socket.MSG_DONTWAIT, ("127.0.0.1", 7000))
try:
    socket.socket(socket.AF_UNIX).connect("/nowhere")
except FileNotFoundError:
    pass
"#
    );
    let command = ["--trace", "--", "python3", "-c", &script];
    let finished = project.imsup(&[&["run"][..], &command].concat());
    assert!(finished.success(), "{finished}");
    let lines = traced(&finished.stderr);
    expect_line(
        &lines,
        &format!("connect(3, {web}:8080) -> a host, from 127.77."),
        &format!(" to {web}:8080: 0"),
    );
    let held = format!(", {late}:9000) -> ");
    expect_line(&lines, "connect(", ": held");
    let resumed = lines
        .iter()
        .find(|line| line.contains(&held) && line.contains("held for "));
    assert!(
        resumed.is_some_and(|line| line.ends_with(": 0") || line.ends_with(": continued")),
        "{lines:#?}"
    );
    expect_line(&lines, "getpeername(", ": continued");
    expect_line(&lines, "bind(4, 127.0.0.1:7000) -> 127.78.", ":7000/tcp: 0");
    expect_line(&lines, "listen(4, 5)", ": 0");
    expect_line(&lines, "getsockname(4)", ": 0");
    expect_line(
        &lines,
        "connect(5, 127.0.0.1:7000) -> own localhost, to 127.78.",
        ":7000: 0",
    );
    expect_line(
        &lines,
        "sendto(5, 5 bytes, 0, 127.0.0.1:7000) -> own localhost, from 127.0.0.1 to 127.78.",
        ":7000: 5",
    );
    expect_line(
        &lines,
        "sendmsg(5, 127.0.0.1:7000, MSG_DONTWAIT) -> own localhost, from 127.0.0.1",
        ":7000: 5",
    );
    expect_line(&lines, "connect(6, AF_UNIX)", ": continued");
    let quiet = project.run(&["python3", "-c", &script]);
    assert!(quiet.success(), "{quiet}");
    assert_eq!(quiet.stderr, "", "nothing is told unless it is asked for");
}

#[test]
fn a_host_is_traced_into_its_log() {
    let project = Project::up("log", COMPOSE);
    project.ok(&["wake", "traced"]);
    project.ok(&["wake", "web"]);
    let vip = project.host("traced").address;
    let mut log = String::new();
    // The broker hears of the listen before the line is written.
    wait_until("the last line of the trace", || {
        log = project.ok(&["logs", "--no-log-prefix", "traced"]);
        traced(&log).iter().any(|line| line.starts_with("listen("))
    });
    let lines = traced(&log);
    expect_line(&lines, "bind(", &format!("-> {vip}:8080/tcp: 0"));
    expect_line(&lines, "listen(", ": 0");
    assert_eq!(traced(&project.ok(&["logs", "--no-log-prefix", "web"])), [""; 0]);
}

/// Asks twice, and expects the answers, and one warning with these words.
#[track_caller]
fn said_once(finished: &Finished, answers: &str, words: &[&str]) {
    assert!(finished.success(), "{finished}");
    assert_eq!(finished.stdout.trim_end(), answers, "{finished}");
    let warnings: Vec<_> = finished.stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "it is said once: {finished}");
    // The document that the warning names has that section.
    let document = include_str!("../../../docs/deviations.md");
    let (_, section) = warnings[0]
        .rsplit_once("docs/deviations.md#")
        .expect("the file that explains it");
    assert!(
        document.contains(&format!("<a id=\"{section}\"></a>")),
        "no section {section}"
    );
    for word in words.iter().chain(&["python"]) {
        assert!(warnings[0].contains(word), "no '{word}' in {}", warnings[0]);
    }
}

fn ask(project: &Project, arguments: &[&str]) -> Finished {
    need(&["python3"]);
    let script = source("unhonoured.py");
    let mut command = vec!["python3", script.to_str().unwrap()];
    command.extend(arguments);
    project.run(&command)
}

#[test]
fn io_uring_is_refused_and_said_once() {
    let project = Project::up("uring", COMPOSE);
    let finished = ask(&project, &["io_uring"]);
    let answers = "io_uring_setup: ENOSYS\nio_uring_setup: ENOSYS";
    said_once(&finished, answers, &["io_uring_setup(2)", "ENOSYS", "epoll"]);
}

#[test]
fn fast_open_is_refused_and_said_once() {
    let project = Project::up("tfo", COMPOSE);
    let finished = ask(&project, &["fast_open", &project.host("web").address.to_string()]);
    said_once(
        &finished,
        "fast open: ENOTSUP\nfast open: ENOTSUP",
        &["MSG_FASTOPEN", "EOPNOTSUPP"],
    );
}

#[test]
fn another_hosts_address_cannot_be_bound_and_that_is_said_once() {
    let project = Project::up("foreign", COMPOSE);
    let finished = ask(&project, &["foreign_bind", &project.host("web").address.to_string()]);
    said_once(
        &finished,
        "bind: EADDRNOTAVAIL\nbind: EADDRNOTAVAIL",
        &["bind(2)", "another host"],
    );
}

#[test]
fn a_process_that_cannot_be_inspected_is_told_of_once() {
    need(&["python3", "setpriv"]);
    let project = Project::up("dumpable", COMPOSE);
    let (imsup, script) = (imsup(), source("unhonoured.py"));
    let run_it = [
        imsup.to_str().unwrap(),
        "run",
        "-p",
        &project.name,
        "--",
        "python3",
        script.to_str().unwrap(),
        "not_dumpable",
    ];
    // Root may inspect any process, except without this capability.
    let without = ["--bounding-set", "-sys_ptrace"];
    let command = match rustix::process::geteuid().is_root() {
        true => project.command("setpriv", &[&without[..], &run_it].concat()),
        false => project.command(run_it[0], &run_it[1..]),
    };
    let finished = run(command, LIMIT);
    said_once(&finished, "bind: 0\nbind: 0", &["not dumpable"]);
}

#[test]
fn a_datagram_that_cannot_leave_the_planes_is_told_of_once() {
    if !network::is_own() {
        return;
    }
    network::ip("link add outside type veth peer name far");
    network::ip("link set far up");
    network::ip("addr add 192.0.2.2/24 dev outside");
    network::ip("link set outside up");
    let project = Project::up("stranded", COMPOSE);
    let finished = ask(&project, &["stranded", "192.0.2.1"]);
    let answers = "sendto: EINVAL\nsendmsg: EINVAL\nsendto: EINVAL\nsendmsg: EINVAL";
    said_once(&finished, answers, &["datagram", "port 0"]);
}

#[test]
fn a_crowd_beyond_the_bound_is_told_of_once() {
    // Long enough for thousands of threads to arrive on a loaded machine: a host without a listen
    // refuses after half of this time.
    let project = Project::up(
        "crowd",
        "x-imsup: { hold_timeout: 600s }\nservices: { never: { command: [sleep, '3600'] } }\n",
    );
    need(&["python3"]);
    let (script, never) = (source("unhonoured.py"), project.host("never").address.to_string());
    let command = ["run", "--", "python3", script.to_str().unwrap(), "crowd", &never];
    let finished = run(project.imsup_command(&command), 5 * LIMIT);
    let first = finished.stdout.lines().next().unwrap_or_default().to_owned();
    let finished = Finished {
        stdout: first,
        ..finished
    };
    said_once(&finished, "connect: EAGAIN", &["4096", "EAGAIN"]);
}
