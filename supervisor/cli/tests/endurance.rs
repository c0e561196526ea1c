//! No leak: after hundreds of thousands of connects, tens of thousands of forks, a thousand sleeps
//! and some hundred boots imsup is as before. `make endurance` makes it a million connects and a
//! hundred thousand forks (`IMSUP_ENDURANCE_TIMES=5`), and repeats it without duplicates of
//! descriptors.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::time::Instant;

use common::client::{PersistentConnection, ask};
use common::holdings::Observed;
use common::{Background, Project, control, guest, parent};

const CONNECTS: u64 = 200_000;
const FORKS: u64 = 20_000;
const NIGHTS: u64 = 1000;
const BOOTS: u64 = 300;

/// The factor for all counts.
fn times() -> u64 {
    let given = std::env::var("IMSUP_ENDURANCE_TIMES").ok();
    given.map_or(1, |text| text.parse().expect("IMSUP_ENDURANCE_TIMES is a number"))
}

/// The guest `endure` at work as a transient host.
struct Worker {
    process: Background,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    #[track_caller]
    fn start(project: &Project) -> Self {
        let (peer, held) = (project.host("peer").address, project.host("slow").address);
        let program = guest("endure");
        let command = project.imsup_command(&[
            "run",
            "--",
            program.to_str().unwrap(),
            "work",
            &peer.to_string(),
            "8080",
            &held.to_string(),
        ]);
        let mut process = Background::conversing(command);
        let stdin = process.child.stdin.take().unwrap();
        let stdout = BufReader::new(process.child.stdout.take().unwrap());
        Self { process, stdin, stdout }
    }

    /// Makes it repeat its work this many times.
    #[track_caller]
    fn work(&mut self, what: &str, count: u64) {
        let began = Instant::now();
        writeln!(self.stdin, "{what} {count}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("done {count}\n"), "{what}: see above what the guest saw");
        eprintln!("{count} {what}: {:?}", began.elapsed());
    }
}

/// The supervisor of a host that runs.
#[track_caller]
fn supervisor(project: &Project, host: &str) -> u32 {
    let program = project.host(host).pid.expect("it runs");
    parent(program).expect("it has a supervisor")
}

/// Before the first look all bounded tables of imsup's are full: 4,096 sockets with remembered
/// addresses and as many connections of the host to itself (`sockets::CAPACITY`), 64 threads
/// (`task::CAPACITY`), 256 endpoints that answered (`host::Answered`). One connect in ten fills the
/// first, one in twenty-five the second.
const WARM_CONNECTS: u64 = 120_000;
const WARM_FORKS: u64 = 5000;

/// The memory that malloc(3) may keep after the warm-up, as entries of its tables come and go: 4 to
/// 40 kB measured. This bound is two thirds of a byte for each connect and six and a half for each
/// fork. The smallest possible leak is 16 bytes of a heap for each, 3.2 MB and 320 kB. Of
/// descriptors and threads not a single one is allowed.
const SLACK_BYTES: u64 = 128 * 1024;

#[test]
fn connects_and_forks_leave_imsup_as_it_was() {
    let project = Project::up(
        "endure",
        r#"
x-imsup: { idle_after: never, hold_timeout: 10m }
services:
  peer: { command: ["@guests@/endure", serve, "8080"], expose: ["8080", "8080/udp"] }
  slow: { command: [sleep, infinity] }
"#,
    );
    // A client that boots the host by a port that never opens would wait for that port, and all
    // others with it.
    project.ok(&["wake", "peer"]);
    let mut worker = Worker::start(&project);
    worker.work("connects", WARM_CONNECTS);
    worker.work("forks", WARM_FORKS);
    let observed = [
        Observed::start("the supervisor", worker.process.pid()),
        Observed::start("its peer's supervisor", supervisor(&project, "peer")),
        Observed::start("the broker", project.broker()),
    ];
    for (what, count) in [("connects", CONNECTS), ("forks", FORKS)] {
        worker.work(what, count * times());
        for one in &observed {
            one.expect_no_more(what, SLACK_BYTES);
        }
    }
}

/// The broker remembers the last 16,384 events by design (`events::KEPT`), two for each night and
/// four for each boot, each of less than 512 bytes with its texts; a leak of more than that for
/// each is seen, and any descriptor.
const EVENT_BYTES: u64 = 512;

#[test]
fn nights_and_boots_leave_imsup_as_it_was() {
    let project = Project::up(
        "nights",
        r#"
x-imsup: { idle_after: never }
services:
  sleeper: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  brief: { command: ["@guest@", "--tcp", "8080", "--exit-after", "1"], expose: ["8080"] }
"#,
    );
    let (sleeper, brief) = (project.at("sleeper", 8080), project.at("brief", 8080));
    let mut held = PersistentConnection::connect(sleeper);
    held.ask("before the first night");
    project.wait_state("sleeper", "running");
    let mut nights = |count: u64| {
        for night in 0..count {
            control::suspend(&project, "sleeper").unwrap_or_else(|error| panic!("night {night}: {error}"));
            // Woken by data and by order, in turns.
            if night % 2 == 0 {
                held.ask(&format!("night {night}"));
            } else {
                control::resume(&project, "sleeper").unwrap();
            }
        }
    };
    let watch = project.watch();
    let boots = |count: u64| {
        for _ in 0..count {
            // A client that comes while the last boot ends is reset, as natively.
            let ends = watch.count("brief", "exit");
            ask(brief);
            watch.wait("brief", "exit", ends + 1);
        }
    };
    nights(100);
    boots(20);
    let observed = [
        Observed::start("the supervisor", supervisor(&project, "sleeper")),
        Observed::start("the broker", project.broker()),
    ];
    nights(NIGHTS);
    // The thread that stops others is made again for each sleep, with a part of the heap that
    // malloc(3) keeps for it: 80 to 210 kB after 1,000 sleeps as after 4,000, and once 420 on a
    // busy machine, while the thread before is still ending.
    observed[0].expect_no_more("nights", 5 * SLACK_BYTES);
    observed[1].expect_no_more("nights", SLACK_BYTES + NIGHTS * 2 * EVENT_BYTES);
    boots(BOOTS);
    observed[1].expect_no_more("boots", SLACK_BYTES + (NIGHTS * 2 + BOOTS * 4) * EVENT_BYTES);
    assert_eq!(project.host("sleeper").boots, 1);
}
