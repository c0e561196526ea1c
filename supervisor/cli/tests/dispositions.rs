//! State set by the starter of imsup, which a program must find unchanged and imsup must live with:
//! ignored signals, the time zone.

mod common;

use std::io::Read;
use std::process::Command;

use common::client::{ask, connect};
use common::{LIMIT, Project, command, imsup};

const COMPOSE: &str = r#"
services:
  web: { command: [sh, -c, "exec python3 @dir@/ignored.py \"$$(grep SigIgn /proc/self/status)\""], expose: ["8080"] }
"#;

/// Answers every client with its argument: the signals that its shell ignored, since Python itself
/// ignores SIGPIPE and SIGXFSZ.
const SERVER: &str = "
import socket, sys
listener = socket.create_server(('', 8080))
while True:
    taken, _ = listener.accept()
    taken.sendall(sys.argv[1].encode())
    taken.close()
";

const SIGPIPE: u64 = 1 << 12;
const SIGCHLD: u64 = 1 << 16;
const SIGTTOU: u64 = 1 << 21;
const SIGXFSZ: u64 = 1 << 24;
/// The signals that glibc keeps for itself (nptl(7)).
const INTERNAL: u64 = 0b11 << 31;

fn mask(line: &str) -> u64 {
    u64::from_str_radix(line.trim().strip_prefix("SigIgn:").unwrap().trim(), 16).unwrap()
}

fn answer(project: &Project) -> String {
    let mut said = String::new();
    let mut stream = connect(project.at("web", 8080)).unwrap();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// A shell (dash does not ignore SIGCHLD on request), since the starter of the tests may ignore
/// signals itself: the shell resets them.
fn shell(project: &Project, script: &str) -> Command {
    let script = script
        .replace("imsup", &imsup().display().to_string())
        .replace("@project@", &project.name);
    project.command("bash", &["-c", &script])
}

#[test]
fn a_program_ignores_what_it_ignores_natively() {
    let project = Project::up("ignored", COMPOSE);
    std::fs::write(project.path("ignored.py"), SERVER).unwrap();
    let said = |script: &str| mask(&command::run(shell(&project, script), LIMIT).expect_success(script));
    let ours = SIGPIPE | SIGTTOU | SIGXFSZ | INTERNAL;
    let grep = "imsup run -p @project@ -- grep SigIgn /proc/self/status";
    assert_eq!(said(grep) & (ours | SIGCHLD), 0);
    for (name, bit) in [
        ("CHLD", SIGCHLD),
        ("PIPE", SIGPIPE),
        ("TTOU", SIGTTOU),
        ("XFSZ", SIGXFSZ),
    ] {
        let trapped = format!("trap '' {name}; {grep}");
        assert_eq!(said(&trapped) & (ours | SIGCHLD), bit, "{name}, as natively");
    }
    assert_eq!(mask(&answer(&project)) & (ours | SIGCHLD), 0);
}

#[test]
fn imsup_works_where_children_are_ignored() {
    let project = Project::new("childless", COMPOSE);
    std::fs::write(project.path("ignored.py"), SERVER).unwrap();
    let up =
        "trap '' CHLD PIPE TTOU XFSZ; imsup up -d -p @project@ && imsup run -p @project@ -- sh -c 'exit 7'; echo $?";
    let said = command::run(shell(&project, up), LIMIT).expect_success(up);
    assert!(said.ends_with("\n7\n"), "{said}");
    assert_eq!(
        mask(&answer(&project)) & (SIGPIPE | SIGTTOU | SIGXFSZ | SIGCHLD | INTERNAL),
        0
    );
}

/// A lock that `up` inherited is released when `up` returns, and no host has it.
#[test]
fn descriptors_of_whoever_started_imsup_are_nobody_elses() {
    let project = Project::new(
        "descriptors",
        "services: { web: { command: [sh, -c, 'ls /proc/self/fd | tr \\\\n \" \"; exec @guest@ --tcp 8080'], expose: [\"8080\"] } }",
    );
    let script = "exec 9>lock; flock 9; imsup up -d -p @project@";
    command::run(shell(&project, script), LIMIT).expect_success(script);
    ask(project.at("web", 8080));
    let script = "exec 9>lock; flock -n 9";
    command::run(shell(&project, script), LIMIT).expect_success("the lock is free");
    let said = project.ok(&["logs", "web"]);
    assert!(said.starts_with("0 1 2 3 "), "{said}");
    assert!(!said.contains('9'), "{said}");
    let open = std::fs::read_dir(format!("/proc/{}/fd", project.broker())).unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    assert!(!open.into_iter().any(|path| path == project.path("lock")));
}

#[test]
fn times_are_shown_in_the_zone_that_is_asked_for() {
    let project = Project::up(
        "zone",
        "services: { web: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] } }",
    );
    ask(project.at("web", 8080));
    let hours = |zone: &str| -> Vec<u32> {
        let mut events = project.imsup_command(&["events"]);
        events.env("TZ", zone);
        let said = command::run(events, LIMIT).expect_success("imsup events");
        said.lines()
            .map(|line| line.split(':').next().unwrap().parse().unwrap())
            .collect()
    };
    let utc = hours("UTC");
    assert!(!utc.is_empty());
    // Neither has a summer time. The first is a file of the system's database, the second a rule
    // (tzset(3)).
    for (zone, ahead) in [("Asia/Tokyo", 9), ("<+05>-5", 5)] {
        let there: Vec<u32> = utc.iter().map(|hour| (hour + ahead) % 24).collect();
        assert_eq!(hours(zone), there, "{zone}");
    }
}
