//! Hostile programs: whatever a program does with trapped calls, its memory, its descriptors and
//! its processes, imsup goes on, acts on the requested descriptor only, keeps no other host
//! waiting, and afterwards is as before.
//!
//! `make fuzz` runs this for minutes: `IMSUP_HOSTILE_SECONDS`. `IMSUP_TEST_SEED` repeats the random
//! part of a run, except the interleaving of its threads.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::client::PersistentConnection;
use common::random::Random;
use common::watch::Watch;
use common::{AS_IN_A_CONTAINER, LIMIT, Project, control, parent, wait_until};

/// The default duration of the attacks.
const SECONDS: u64 = 6;

/// The duration of one attack; in between the host must be able to sleep.
const ROUND: Duration = Duration::from_secs(2);

fn seconds() -> Duration {
    let given = std::env::var("IMSUP_HOSTILE_SECONDS").ok();
    let seconds = given.map_or(SECONDS, |text| text.parse().expect("IMSUP_HOSTILE_SECONDS is a number"));
    Duration::from_secs(seconds)
}

/// `target` is attacked from within, `other` is another host that must notice nothing. A call that
/// is pending for ever is pending for longer than the test waits.
const COMPOSE: &str = r#"
x-imsup: { idle_after: never, hold_timeout: 10m }
services:
  target: { command: ["@guests@/hostile"], expose: ["8080"] }
  other: { command: ["@guests@/hostile"], expose: ["8080"] }
  peer: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  victim: { command: ["@guests@/endure", serve, "8080"], expose: ["8080", "8080/udp"] }
  slow: { command: [sleep, infinity] }
  flaky: { command: [sleep, "0.3"], expose: ["8080"] }
"#;

/// A host that runs the guest `hostile`.
struct Host<'a> {
    project: &'a Project,
    name: &'static str,
    held: PersistentConnection,
    supervisor: u32,
}

impl<'a> Host<'a> {
    #[track_caller]
    fn boot(project: &'a Project, name: &'static str) -> Self {
        let address: SocketAddr = project.at(name, 8080);
        let mut held = PersistentConnection::connect(address);
        // The first answer shows that it runs.
        held.say("behave 0").unwrap();
        let answer = held.hear().unwrap();
        assert!(answer.starts_with("ok 0 "), "{name}: {answer}");
        let program = project.wait_state(name, "running").pid.expect("it runs");
        let supervisor = parent(program).expect("it has a supervisor");
        Self {
            project,
            name,
            held,
            supervisor,
        }
    }

    fn order(&mut self, order: &str) {
        self.held.say(order).unwrap();
    }

    /// The numbers of an answer that begins with "ok": processes that attacked, rounds of checks
    /// that a bystander made meanwhile.
    #[track_caller]
    fn answer(&mut self) -> (u64, u64) {
        let answer = self
            .held
            .hear()
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let numbers: Vec<u64> = answer
            .strip_prefix("ok ")
            .unwrap_or_else(|| panic!("{}: {answer}; see its log", self.name))
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        (numbers[0], numbers[1])
    }

    /// Suspends the host, and wakes it by its connection.
    #[track_caller]
    fn sleep_and_wake(&mut self, watch: &Watch) {
        let suspends = watch.count(self.name, "suspend");
        // Calls of killed callers keep the host awake until they are given up, within milliseconds;
        // otherwise they would wait for `hold_timeout`.
        let mut refusal = None;
        wait_until("the attacked host to sleep", || {
            let error = control::suspend(self.project, self.name).err();
            if error.is_some() && error != refusal {
                eprintln!("{error:?}");
                refusal.clone_from(&error);
            }
            error.is_none()
        });
        watch.wait(self.name, "suspend", suspends + 1);
        self.order("behave 0");
        self.answer();
    }
}

/// The descriptors of a process.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

/// Memory of a process that is no file's, in bytes.
#[track_caller]
fn anonymous(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    field.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Ports that attacks bind and listen on (`ATTACKED_PORTS` of the guest), each of which may be
/// retained on three planes and for two transports, and shared by more than one socket
/// (SO_REUSEPORT).
const RETAINED: usize = 8 * 3 * 2 * 4;

/// Threads that a supervisor remembers (`task::CAPACITY`).
const REMEMBERED: usize = 64;

#[test]
fn attacks_harm_nobody_else_and_leave_nothing() {
    attack(&Project::up("hostile", COMPOSE));
}

/// In a container with Docker's default seccomp profile the supervisor makes the program's sockets
/// and keeps copies.
#[test]
fn attacks_harm_nobody_else_where_descriptors_cannot_be_duplicated() {
    attack(&Project::up_with("hostile", COMPOSE, &AS_IN_A_CONTAINER));
}

fn attack(project: &Project) {
    let watch = project.watch();
    let mut random = Random::new(Random::seed());
    let (mut target, mut other) = (Host::boot(project, "target"), Host::boot(project, "other"));
    let before = descriptors(target.supervisor).len();
    let broker = project.broker();
    let (end, round) = (Instant::now() + seconds(), ROUND.as_millis());
    let (mut processes, mut within, mut beside, mut rounds) = (0, 0, 0, 0_u64);
    let mut memory = None;
    while Instant::now() < end || rounds < 2 {
        let seed = random.below(u64::MAX);
        eprintln!("attack {seed} {round}");
        target.order(&format!("attack {seed} {round}"));
        other.order(&format!("behave {round}"));
        let ((attackers, inside), (_, outside)) = (target.answer(), other.answer());
        assert!(
            attackers > 0 && inside > 0 && outside > 0,
            "nothing happened in {ROUND:?}"
        );
        processes += attackers;
        within += inside;
        beside += outside;
        rounds += 1;
        target.sleep_and_wake(&watch);
        memory = memory.or_else(|| Some((anonymous(target.supervisor), anonymous(broker))));
    }
    eprintln!("{rounds} rounds, {processes} attackers, checks: {within} within the host, {beside} in another");
    // Calls of killed callers are given up within a tick.
    wait_until("the supervisor to close what it held", || {
        descriptors(target.supervisor).len() <= before + REMEMBERED + RETAINED
    });
    let (supervisor, broker_then) = memory.unwrap();
    for (name, pid, then) in [
        ("supervisor", target.supervisor, supervisor),
        ("broker", broker, broker_then),
    ] {
        let now = anonymous(pid);
        eprintln!("{name}: {then} bytes after the first round, {now} after the last");
        assert!(
            now < then + (4 << 20),
            "{name}: {then} bytes after the first round, {now} after the last"
        );
    }
    // Neither came to an end, and the target still can.
    for host in ["target", "other", "peer"] {
        assert_eq!(project.host(host).boots, 1, "{host}");
    }
    project.ok(&["stop", "target"]);
    assert!(common::command::wait_exit(target.supervisor, LIMIT));
}

/// The supervisor acts on duplicates of a program's descriptors, whose flags and last close(2) may
/// make it wait. A bystander gives up after 50 s.
#[test]
fn a_program_cannot_make_its_supervisor_wait() {
    let project = Project::up("stalled", COMPOSE);
    let mut target = Host::boot(&project, "target");
    target.order("stall 3000");
    let (_, checks) = target.answer();
    assert!(checks > 0);
    eprintln!("{checks} checks beside the attempt");
    assert_eq!(project.host("target").boots, 1);
}
