//! A process that is stopped (SIGSTOP) delays nobody but those who need an answer of that process.
//!
//! No test asserts a time. Each lets the stopped process go on only after the answers have come, so
//! none of the answers can have waited for that process.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use common::client::{Answer, PersistentConnection, ask};
use common::{Background, LIMIT, Project, guest, parent, stop, wait_until};
use imsup_protocol::control::Opening;
use imsup_protocol::{Request, Response};
use imsup_protocol::{codec, version};
use rustix::process::Signal;

const COMPOSE: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  other: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

/// The verb of the zygote.
const ZYGOTE: &str = "zygote";

/// The one process of the project that runs this verb. A supervisor has the zygote's command line,
/// and a process that has not executed yet the one of its parent.
#[track_caller]
fn helper(project: &Project, verb: &str) -> u32 {
    let broker = project.broker();
    let mut found = Vec::new();
    wait_until(&format!("the one process 'imsup {verb}'"), || {
        let of_verb = project.processes().into_iter().filter(|process| {
            let is_helper = process.command.split(' ').nth(1) == Some(verb);
            is_helper && process.command.starts_with(common::imsup().to_str().unwrap())
        });
        found = of_verb.map(|process| process.pid).collect();
        found.len() == 1
    });
    assert_ne!(found[0], broker);
    found[0]
}

/// A process that is stopped for as long as this lives, also if the test fails: the project's end
/// waits for the broker.
struct Stopped<'a> {
    project: &'a Project,
    pid: u32,
}

impl<'a> Stopped<'a> {
    #[track_caller]
    fn new(project: &'a Project, pid: u32) -> Self {
        stop(project, pid);
        Self { project, pid }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // The broker may have replaced the zygote meanwhile.
        let mut processes = self.project.processes().into_iter();
        if processes.any(|process| process.pid == self.pid) {
            self.project.signal(self.pid, Signal::CONT);
        }
    }
}

/// Looks at the project, boots a host by a client, and boots another host by a transient host,
/// while a process is stopped.
#[track_caller]
fn expect_alive(project: &Project) {
    let hosts = project.ps();
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    for host in ["db", "other"] {
        assert_eq!(hosts[host].state, "imaginary");
    }
    assert_eq!(ask((hosts["db"].address, 8080).into()).value("host"), "db");
    let said = project.run_guest(&["--call", "other:8080"]);
    assert!(said.contains("host=other "), "{said}");
    project.wait_event("other", "ready", 1);
    let hosts = project.ps();
    for host in ["db", "other"] {
        assert_eq!(
            (hosts[host].state.as_str(), hosts[host].boots),
            ("running", 1),
            "{host}"
        );
    }
}

/// Ends hosts and boots the hosts again, once no process is stopped any more.
#[track_caller]
fn expect_as_before(project: &Project) {
    project.ok(&["wake"]);
    project.ok(&["restart"]);
    for (name, host) in project.ps() {
        assert_eq!(host.state, "running", "{name}");
        assert_eq!(ask((host.address, 8080).into()).value("host"), name);
    }
    project.down();
}

#[test]
fn a_stopped_zygote_delays_no_look_and_keeps_no_host_from_its_boot() {
    let project = Project::up("zygote", COMPOSE);
    let zygote = helper(&project, ZYGOTE);
    let stopped = Stopped::new(&project, zygote);
    expect_alive(&project);
    // If the zygote was not replaced, its late answers are of boots that are over.
    drop(stopped);
    ask(project.at("web", 8080));
    let boots: Vec<_> = project.ps().into_values().map(|host| host.boots).collect();
    assert_eq!(boots, [1, 1, 1]);
    expect_as_before(&project);
}

#[test]
fn a_project_whose_zygote_and_keeper_are_stopped_is_taken_down() {
    let project = Project::up("all-stopped", COMPOSE);
    ask(project.at("web", 8080));
    let keeper = project.keeper();
    let [zygote] = zygotes(&project)[..] else {
        panic!("{:?}", project.processes());
    };
    stop(&project, zygote);
    stop(&project, keeper);
    project.down();
}

/// The zygotes of a project whose hosts run: a supervisor has children, and a zygote has none.
fn zygotes(project: &Project) -> Vec<u32> {
    let processes = project.processes();
    let parents: Vec<_> = processes.iter().filter_map(|process| parent(process.pid)).collect();
    let of_verb = processes
        .into_iter()
        .filter(|process| process.command.split(' ').nth(1) == Some(ZYGOTE));
    let pids = of_verb.map(|process| process.pid);
    pids.filter(|pid| !parents.contains(pid)).collect()
}

#[test]
fn a_stopped_keeper_delays_nobody_and_has_what_was_retained_meanwhile() {
    let project = Project::up("keeper", COMPOSE);
    let keeper = project.keeper();
    let stopped = Stopped::new(&project, keeper);
    expect_alive(&project);
    // A program listens where the compose file does not say so, which the keeper is told as well.
    let program = guest("guest");
    let command = ["run", "--host", "web", "--", program.to_str().unwrap(), "--tcp", "9000"];
    let server = Background::collecting(project.imsup_command(&command));
    project.wait_event("web", "boot", 1);
    let learned = project.at("web", 9000);
    wait_until("the program to listen", || {
        common::client::ask_line(learned, "hello").is_ok()
    });
    drop(stopped);
    // The next broker has all of it from the keeper.
    let broker = project.broker();
    project.kill(broker);
    assert_eq!(ask(learned).value("host"), "web");
    server.signal(Signal::TERM);
    assert_eq!(server.finish(LIMIT).code(), Some(143));
    project.wait_state("web", "imaginary");
    for host in ["db", "other"] {
        assert_eq!(project.wait_state(host, "running").boots, 1);
    }
    expect_as_before(&project);
}

/// A call of a host that listens, and the data of a connection, need no broker. A boot and a verb
/// need the broker: both wait, and are answered when the broker goes on.
#[test]
fn hosts_that_run_do_without_a_stopped_broker() {
    let project = Project::up("broker", COMPOSE);
    let (web, db) = (project.at("web", 8080), project.at("db", 8080));
    let mut held = PersistentConnection::connect(web);
    let mut hear = || {
        held.say("hello").unwrap();
        Answer(held.hear().unwrap()).pid()
    };
    let pid = hear();
    let mut program = conversation(&project);
    // By the address: names are the broker's to answer.
    let address = web.ip().to_string();
    assert_eq!(program.ask(&address), "web");
    let broker = project.broker();
    let stopped = Stopped::new(&project, broker);
    assert_eq!(hear(), pid);
    assert_eq!(ask(web).pid(), pid);
    assert_eq!(program.ask(&address), "web");
    // The kernel makes the connection, and the host is booted when the broker goes on.
    let mut waiting = PersistentConnection::connect(db);
    waiting.say("hello").unwrap();
    let looks = Background::collecting(project.imsup_command(&["ps", "-q"]));
    drop(stopped);
    assert_eq!(Answer(waiting.hear().unwrap()).value("host"), "db");
    let said = looks.finish(LIMIT).expect_success("imsup ps");
    assert!(said.starts_with("web\ndb\nother\nrun-1\n"), "{said}");
    drop(program);
    wait_until("the transient host to be gone", || project.ps().len() == 3);
    expect_as_before(&project);
}

/// A transient host that connects when it is told to.
struct Conversation {
    process: Background,
    output: BufReader<std::process::ChildStdout>,
}

fn conversation(project: &Project) -> Conversation {
    const SCRIPT: &str = "
import socket, sys
for line in sys.stdin:
    with socket.create_connection((line.strip(), 8080)) as connection:
        connection.sendall(b'hello\\n')
        answer = connection.makefile().readline()
    print(answer.split('host=')[1].split()[0], flush=True)
";
    common::need(&["python3"]);
    let mut process = Background::conversing(project.imsup_command(&["run", "--", "python3", "-c", SCRIPT]));
    let output = BufReader::new(process.child.stdout.take().unwrap());
    Conversation { process, output }
}

impl Conversation {
    /// The host that answers at this address.
    #[track_caller]
    fn ask(&mut self, address: &str) -> String {
        let mut input = self.process.child.stdin.as_ref().unwrap();
        writeln!(input, "{address}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

#[test]
fn a_stopped_supervisor_delays_no_other_host() {
    let project = Project::up("supervisor", COMPOSE);
    let web = project.at("web", 8080);
    let pid = ask(web).pid();
    project.wait_event("web", "ready", 1);
    let supervisor = parent(pid).unwrap();
    let stopped = Stopped::new(&project, supervisor);
    // Its program accepts without a supervisor.
    let mut waiting = PersistentConnection::connect(web);
    waiting.say("hello").unwrap();
    expect_alive(&project);
    // Whoever asks all supervisors is told what the others have said.
    let usage = project.ok(&["usage", "--format", "json"]);
    let names: Vec<_> = usage
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["host"].clone())
        .collect();
    assert_eq!(names[..3], ["web", "db", "other"], "{usage}");
    for host in ["db", "other"] {
        assert!(project.why(host)["reasons"].is_array(), "{host}");
        project.ok(&["suspend", host]);
        project.ok(&["resume", host]);
    }
    project.ok(&["stop", "other"]);
    assert_eq!(project.host("other").state, "imaginary");
    drop(stopped);
    assert_eq!(Answer(waiting.hear().unwrap()).pid(), pid);
    assert_eq!(ask(web).pid(), pid);
    ask(project.at("other", 8080));
    expect_as_before(&project);
}

/// Orders to a stopped supervisor wait. Orders to other hosts are carried out meanwhile.
#[test]
fn an_order_to_a_stopped_supervisor_delays_no_other_order() {
    let project = Project::up("orders", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    project.wait_event("web", "ready", 1);
    let supervisor = parent(pid).unwrap();
    let stopped = Stopped::new(&project, supervisor);
    let mut waiting: Vec<Background> = [
        &["suspend", "web"][..],
        &["why", "web"],
        &["keep-awake", "web", "--for", "1h"],
    ]
    .into_iter()
    .map(|order| Background::collecting(project.imsup_command(order)))
    .collect();
    let mut stream = UnixStream::connect(project.runtime().join("broker.sock")).unwrap();
    send(
        &mut stream,
        &request(Request::Why {
            host: "web".parse().unwrap(),
        }),
    );
    expect_alive(&project);
    assert!(
        waiting[0].child.try_wait().unwrap().is_none(),
        "the order is not carried out"
    );
    drop(stopped);
    for order in waiting {
        let finished = order.finish(LIMIT);
        // One may have been told before that the supervisor does not answer.
        let told = finished.code() == Some(1) && finished.stderr.contains("does not answer");
        assert!(finished.success() || told, "{finished}");
    }
    expect_as_before(&project);
}

/// The bytes of a client's hello and request.
fn request(request: Request) -> Vec<u8> {
    let frame = codec::encode(&Opening::Control(request)).unwrap();
    [&version::OURS.to_hello()[..], &frame].concat()
}

fn send(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

/// Reads the broker's hello and one answer.
#[track_caller]
fn first_answer(stream: &mut UnixStream) -> Response {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut hello = [0; version::HELLO_BYTES];
    stream.read_exact(&mut hello).unwrap();
    let versions = version::Versions::from_hello(&hello).unwrap();
    assert_eq!(versions, Some(version::OURS));
    let mut bytes = Vec::new();
    loop {
        if let Some(answer) = codec::decode(&mut bytes).unwrap() {
            return answer;
        }
        let mut more = [0; 4096];
        let count = stream.read(&mut more).unwrap();
        assert_ne!(count, 0, "the broker has closed the connection");
        bytes.extend(&more[..count]);
    }
}

#[test]
fn clients_in_the_middle_of_a_request_delay_nobody() {
    let project = Project::up("clients", COMPOSE);
    let hosts = request(Request::Hosts);
    // At each byte, so in the middle of the length as well.
    let mut clients: Vec<(UnixStream, usize)> = (0..hosts.len())
        .map(|length| {
            let mut stream = UnixStream::connect(project.runtime().join("broker.sock")).unwrap();
            send(&mut stream, &hosts[..length]);
            (stream, length)
        })
        .collect();
    // And one that reads nothing of what happens.
    let command = project.imsup_command(&["events", "--follow"]);
    let mut follower = Background::spawn(command, Stdio::piped());
    let mut output = BufReader::new(follower.child.stdout.take().unwrap());
    expect_alive(&project);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("db"), "{line}");
    follower.signal(Signal::STOP);
    project.ok(&["restart"]);
    follower.signal(Signal::CONT);
    while !line.contains("exit") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the follower has ended");
    }
    // Each is answered when it has said the rest.
    for (stream, length) in &mut clients {
        send(stream, &hosts[*length..]);
        let answer = first_answer(stream);
        assert!(matches!(answer, Response::Host(_)), "{length}: {answer:?}");
    }
    drop(output);
    expect_as_before(&project);
}
