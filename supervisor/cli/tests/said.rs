//! Output that fails ends or stalls no process: a standard error that accepts no byte, a screen
//! without a reader, a history that may not grow.

mod common;

use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use common::client::ask;
use common::{Background, LIMIT, Project, command, need};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;

const COMPOSE: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

/// Makes some trapped calls, each of which is traced.
const PROGRAM: &str = "
import socket
for _ in range(20):
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    s.listen()
    c = socket.create_connection(s.getsockname())
    s.accept()[0].sendall(b'x')
    assert c.recv(1) == b'x'
print('done')
";

/// Standard errors that accept no byte, each with the value that keeps it so.
fn that_take_nothing() -> Vec<(&'static str, OwnedFd, Option<OwnedFd>)> {
    let full_pipe = |blocks: bool| {
        let (reader, mut writer) = pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
        while writer.write(b"x").is_ok() {}
        if blocks {
            fcntl_setfl(&writer, flags).unwrap();
        }
        (writer.into(), Some(reader.into()))
    };
    let full_socket = || {
        let (mut writer, other) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        writer.set_nonblocking(false).unwrap();
        (OwnedFd::from(writer), Some(OwnedFd::from(other)))
    };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (_, without_reader) = pipe().unwrap();
    let (blocking, reader) = full_pipe(true);
    let (nonblocking, its_reader) = full_pipe(false);
    let (socket, other) = full_socket();
    vec![
        ("/dev/full", full.into(), None),
        ("a pipe whose reader has gone", without_reader.into(), None),
        ("a full pipe", blocking, reader),
        ("a full pipe with O_NONBLOCK", nonblocking, its_reader),
        ("a full socket", socket, other),
    ]
}

/// Runs a command to its end with this standard error.
fn run_saying_to(mut command: Command, stderr: OwnedFd) -> String {
    let mut running = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    drop(command);
    let ended = command::wait_exit(running.id(), LIMIT);
    if !ended {
        running.kill().unwrap();
    }
    let status = running.wait().unwrap();
    let mut said = String::new();
    running.stdout.unwrap().read_to_string(&mut said).unwrap();
    assert!(ended, "it did not end; it said {said}");
    format!("{said}{status}")
}

#[test]
fn a_program_lives_on_where_standard_error_takes_nothing() {
    need(&["python3"]);
    let project = Project::up("unsaid", COMPOSE);
    for (what, stderr, _held) in that_take_nothing() {
        let mut run = project.imsup_command(&["run", "--trace", "--", "python3", "-c", PROGRAM]);
        run.env("IMSUP_LOG", "trace");
        assert_eq!(run_saying_to(run, stderr), "done\nexit status: 0", "{what}");
    }
    let ordinary = project.imsup(&["run", "--trace", "--", "python3", "-c", PROGRAM]);
    assert!(
        ordinary.stderr.contains("bind("),
        "there was something to say: {ordinary}"
    );
}

/// `imsup up` in the foreground, all its output going to one pipe, whose first lines were read.
fn up_to_a_pipe(project: &Project) -> (Background, BufReader<PipeReader>) {
    let (reader, writer) = pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let up = project.imsup_command(&["up"]);
    let again = writer.try_clone().unwrap();
    let mut running = Background::spawn_to(up, writer.into(), again.into());
    let mut reader = BufReader::new(reader);
    let mut said = String::new();
    while !said.contains("1 host exists") {
        let count = reader.read_line(&mut said).unwrap();
        assert_ne!(count, 0, "{said}: {:?}", running.child.try_wait());
    }
    (running, reader)
}

/// Has much to say: three events and a line of the program for each boot. A bad frame makes a
/// warning.
fn go_through_lives(project: &Project) {
    for _ in 0..40 {
        assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
        project.ok(&["stop", "web"]);
    }
    assert_eq!(project.host("web").boots, 40);
    let mut stranger = UnixStream::connect(project.runtime().join("broker.sock")).unwrap();
    stranger.write_all(&[0xff; 64]).unwrap();
    stranger.read_to_end(&mut Vec::new()).unwrap();
}

fn end(project: &Project, up: Background) {
    up.signal(Signal::INT);
    let finished = up.finish(LIMIT);
    assert!(finished.success(), "{finished}");
    project.expect_nothing_left();
}

#[test]
fn up_goes_on_where_nobody_reads_what_it_shows() {
    let project = Project::new("unread", COMPOSE);
    let (up, reader) = up_to_a_pipe(&project);
    go_through_lives(&project);
    end(&project, up);
    drop(reader);
}

/// `imsup up 2>&1 | head -1`.
#[test]
fn up_goes_on_where_the_reader_has_gone() {
    let project = Project::new("unheard", COMPOSE);
    let (up, reader) = up_to_a_pipe(&project);
    drop(reader);
    go_through_lives(&project);
    end(&project, up);
}

#[test]
fn up_returns_where_the_brokers_log_cannot_be_opened() {
    let project = Project::new("unlogged", COMPOSE);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(project.state().join("broker.log"))
        .unwrap();
    let up = project.imsup(&["up", "-d"]);
    assert!(up.success() && up.stderr.contains("broker.log"), "{up}");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
}

/// Events that cannot be kept are shown all the same, while the broker lives; the next broker goes
/// on without them.
#[test]
fn a_history_that_may_not_grow_is_lost_and_nothing_else() {
    let project = Project::new("limited", COMPOSE);
    // A block has 512 bytes (dash(1), ulimit).
    let limited = format!(
        "ulimit -f 1; exec {} up -d -p {}",
        common::imsup().display(),
        project.name
    );
    let up = || command::run(project.command("sh", &["-c", &limited]), LIMIT).expect_success("imsup up");
    up();
    for _ in 0..5 {
        assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
        project.ok(&["stop", "web"]);
    }
    assert_eq!(
        project.event_names("web").iter().filter(|name| *name == "boot").count(),
        5
    );
    let kept = std::fs::read_to_string(project.state().join("events.jsonl")).unwrap();
    assert!(kept.len() <= 512 && kept.ends_with('\n'), "{kept}");
    project.kill_broker();
    up();
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    assert!(project.event_names("web").contains(&"boot".to_owned()));
}

/// A client that was asking when the broker died learns of the death, not of another version.
#[test]
fn a_broker_that_dies_is_said_to_have_ended() {
    let project = Project::new("dying", COMPOSE);
    for _ in 0..3 {
        project.ok(&["up", "-d"]);
        let broker = project.broker();
        project.signal(broker, Signal::STOP);
        let asking: Vec<Background> = (0..8)
            .map(|_| Background::collecting(project.imsup_command(&["ps"])))
            .collect();
        // Each has asked, and waits for the answer.
        for client in &asking {
            common::wait_until("the question to be asked", || {
                let waits = std::fs::read_to_string(format!("/proc/{}/wchan", client.pid()));
                waits.is_ok_and(|place| place.starts_with("unix_stream_") || place.contains("skb"))
            });
        }
        project.kill_broker();
        for client in asking {
            let finished = client.finish(LIMIT);
            assert!(finished.stderr.contains("ended before it had answered"), "{finished}");
        }
    }
}

#[test]
fn what_a_stranger_has_the_broker_log_is_bounded() {
    let project = Project::up("noise", COMPOSE);
    const FRAMES: usize = 2000;
    for _ in 0..FRAMES {
        let mut stranger = UnixStream::connect(project.runtime().join("broker.sock")).unwrap();
        stranger.write_all(&[0xff; 64]).unwrap();
        stranger.read_to_end(&mut Vec::new()).unwrap();
    }
    let log = std::fs::read_to_string(project.state().join("broker.log")).unwrap();
    let said = log
        .lines()
        .filter(|line| line.contains("a connection to the broker is closed"))
        .count();
    assert!((1..FRAMES / 2).contains(&said), "{said} of {FRAMES}");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
}
