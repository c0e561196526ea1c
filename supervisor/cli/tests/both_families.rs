//! One program's sockets at its own addresses, of both families: which reaches which natively, and
//! which does not.
//!
//! The same script runs natively and supervised, and must print the same.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{LIMIT, Project, need, source};

const COMPOSE: &str = "services:\n  other: { command: [sleep, infinity] }\n";

/// The repetitions of a script whose lines differ: a port that the kernel chose for one family may
/// belong to another program in the other.
const ATTEMPTS: usize = 3;

/// Cases that differ (docs/deviations.md#planes).
const DIFFERENT: [&str; 2] = [
    "tcp ::, then 0.0.0.0 reuseport",
    "tcp ::, then 0.0.0.0 reuseport listening",
];

/// The output of each case of a script.
fn results(said: &str) -> BTreeMap<String, String> {
    let lines = said.lines().filter_map(|line| line.split_once(" -> "));
    lines
        .map(|(case, result)| (case.to_owned(), result.to_owned()))
        .collect()
}

/// The output of the script natively, with 127.0.0.2 as an address of the machine's own, and as a
/// host, with the host's address.
#[track_caller]
fn expect_the_same(subcommand: &str, more: &[&str]) {
    need(&["python3"]);
    let project = Project::up("families", COMPOSE);
    let script = source("addresses.py").to_str().unwrap().to_owned();
    let command = |own| [&["python3", &script, subcommand, own][..], more].concat();
    let mut different = BTreeMap::new();
    for attempt in 0..ATTEMPTS {
        let (project, command) = (&project, &command);
        let (native, supervised) = std::thread::scope(|scope| {
            // Some hundreds of cases, each a few trapped calls: more than one command's limit on a
            // busy machine.
            let finish = move |command| common::command::run(command, 5 * LIMIT).expect_success(subcommand);
            let native = scope.spawn(move || finish(project.command("python3", &command("127.0.0.2")[1..])));
            let run = [&["run", "--"][..], &command("name")].concat();
            let supervised = finish(project.imsup_command(&run));
            (results(&native.join().unwrap()), results(&supervised))
        });
        assert!(native.len() > 100, "{native:#?}");
        assert!(native.keys().eq(supervised.keys()), "{native:#?}\n{supervised:#?}");
        let distinct: BTreeSet<_> = native.values().collect();
        assert!(distinct.len() > 10, "some are reached, and some are not: {distinct:?}");
        let now = native
            .iter()
            .filter(|(case, result)| supervised[*case] != **result)
            .map(|(case, result)| {
                (
                    case.clone(),
                    format!("natively {result}; supervised {}", supervised[case]),
                )
            });
        let now: BTreeMap<String, String> = now.collect();
        match attempt {
            0 => different = now,
            _ => different.retain(|case, _| now.contains_key(case)),
        }
        if different.keys().all(|case| DIFFERENT.contains(&case.as_str())) {
            break;
        }
    }
    let known: Vec<_> = DIFFERENT.iter().filter(|_| subcommand == "families").collect();
    assert!(different.keys().eq(known), "{different:#?}");
}

#[test]
fn two_sockets_with_one_port_are_reached_as_natively() {
    expect_the_same("families", &[]);
}

#[test]
fn every_client_reaches_every_listener_as_natively() {
    let base = (10_000 + std::process::id() % 70 * 300).to_string();
    expect_the_same("clients", &[&base]);
}

/// Natively a failed bind leaves its socket unchanged: programs go on with the next port.
#[test]
fn a_bind_that_fails_leaves_the_options_as_they_were() {
    const SCRIPT: &str = "
import errno, socket, sys
def made():
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
first, second, port = made(), made(), int(sys.argv[1])
first.bind(('::', port))
for listens in False, True:
    if listens: first.listen()
    try:
        second.bind(('::', port))
        print('bound')
    except OSError as error:
        v6only = second.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        shared = second.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        print(errno.errorcode[error.errno], v6only, shared)
";
    need(&["python3"]);
    let project = Project::up("failed-bind", COMPOSE);
    let port = (31_000 + std::process::id() % 1000).to_string();
    let native = project.command("python3", &["-c", SCRIPT, &port]);
    let native = common::command::run(native, LIMIT).expect_success("natively");
    let supervised = project.imsup_command(&["run", "--", "python3", "-c", SCRIPT, &port]);
    let supervised = common::command::run(supervised, LIMIT).expect_success("supervised");
    assert_eq!(native, "EADDRINUSE 1 0\n".repeat(2));
    assert_eq!(supervised, native);
}

/// The wildcard of IPv4 as a program of AF_INET6 writes it.
#[test]
fn the_mapped_wildcard_is_reached_at_localhost() {
    const SCRIPT: &str = "
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    server = socket.socket(socket.AF_INET6, kind)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(('::ffff:0.0.0.0', 0))
    if kind == socket.SOCK_STREAM: server.listen()
    for to in ('127.0.0.1', '::ffff:127.0.0.1'):
        client = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, kind)
        client.settimeout(30)
        client.connect((to, server.getsockname()[1]))
        client.send(b'ask')
        taken = server.accept()[0] if kind == socket.SOCK_STREAM else server
        taken.settimeout(30)
        print(kind.name, to, taken.recv(10), taken.getsockname()[0])
";
    need(&["python3"]);
    let project = Project::up("families", COMPOSE);
    let natively = common::command::run(project.command("python3", &["-c", SCRIPT]), LIMIT).expect_success("natively");
    let supervised = project.run(&["python3", "-c", SCRIPT]).expect_success("supervised");
    assert_eq!(supervised, natively);
}
