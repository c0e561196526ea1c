//! `down` and `up` again, at once: no process is left, and connections that the programs before
//! have closed are in TIME_WAIT still, and keep no port.

mod common;

use std::io::Read;
use std::process::Stdio;

use common::{Background, LIMIT, Project, client, leaks, wait_until};
use rustix::fs::FlockOperation;
use rustix::process::Signal;

/// A server for each family that asks for no SO_REUSEADDR and closes its connections first. It
/// prints the option afterwards.
const COMPOSE: &str = r#"
services:
  four: { command: [python3, "@dir@/server.py", AF_INET, "7000"], expose: ["7000"] }
  six: { command: [python3, "@dir@/server.py", AF_INET6, "7000"], expose: ["7000"] }
"#;
const SERVER: &str = "
import socket, sys
s = socket.socket(getattr(socket, sys.argv[1]))
s.bind(('', int(sys.argv[2])))
s.listen()
while True:
    taken, _ = s.accept()
    taken.sendall(b'reuseaddr=%d' % s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
    taken.close()
";

#[test]
fn connections_of_an_earlier_up_keep_no_port_from_the_next() {
    let project = Project::new("again", COMPOSE);
    std::fs::write(project.path("server.py"), SERVER).unwrap();
    for connections in [1, 3, 3] {
        project.ok(&["up", "-d"]);
        for host in ["four", "six"] {
            let address = project.at(host, 7000);
            for nth in 0..connections {
                let mut said = String::new();
                let mut stream = client::connect(address).unwrap();
                stream.read_to_string(&mut said).unwrap();
                // At a port's first boot the broker sets it a moment after the program's own
                // listener listens.
                let is_set = said == "reuseaddr=1";
                assert!(
                    is_set || (connections == 1 && said == "reuseaddr=0"),
                    "{host}, connection {nth}: {said}"
                );
            }
        }
        project.ok(&["down"]);
    }
}

/// A supervisor leaves slow clean-up to a process that outlives it for some 20 ms; `down` waits for
/// that.
#[test]
fn no_process_outlives_down() {
    let services: String = (0..12)
        .map(|number| format!("  web{number}: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n"))
        .collect();
    let project = Project::new("gone", &format!("services:\n{services}"));
    for _ in 0..5 {
        project.ok(&["up", "-d"]);
        project.ok(&["wake"]);
        project.ok(&["down"]);
        let left = leaks::processes(project.path("").as_ref());
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The second `down` finds a project that is being taken down, and waits for that.
#[test]
fn several_downs_at_once_all_succeed() {
    let project = Project::new(
        "downs",
        "services: { web: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] } }",
    );
    for _ in 0..10 {
        project.ok(&["up", "-d"]);
        project.ok(&["wake"]);
        let downs: Vec<Background> = (0..4)
            .map(|_| Background::collecting(project.imsup_command(&["down"])))
            .collect();
        for down in downs {
            down.finish(LIMIT).expect_success("imsup down");
        }
        project.expect_nothing_left();
    }
}

/// A broker killed while it starts or ends leaves its files as they are, so that its waiting
/// clients get no signal.
#[test]
fn down_does_not_wait_for_a_broker_that_was_killed_while_it_started() {
    let project = Project::new("killed-early", "services: {}");
    let script = "mkdir -p -m 700 \"$0\" && exec flock --no-fork \"$0/broker.lock\" sleep 1000";
    let runtime = project.runtime();
    let starting = Background::spawn(
        project.command("sh", &["-c", script, runtime.to_str().unwrap()]),
        Stdio::null(),
    );
    wait_until("the lock to be held", || {
        let lock = std::fs::File::open(runtime.join("broker.lock"));
        lock.is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
    });
    let down = Background::collecting(project.imsup_command(&["down"]));
    wait_until("down to wait", || {
        let place = std::fs::read_to_string(format!("/proc/{}/wchan", down.pid())).unwrap_or_default();
        place.contains("poll") || place.contains("inotify")
    });
    starting.signal(Signal::KILL);
    down.finish(LIMIT).expect_success("imsup down");
    project.expect_nothing_left();
}
