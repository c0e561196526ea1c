//! Faults around a sleeper: killed supervisors and brokers, stopped, traced and killed programs,
//! forks at the wrong moment. No process stays frozen, and every client is answered.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use common::client::{self, Answer, PersistentConnection};
use common::command::wait_exit;
use common::random::Random;
use common::{LIMIT, Project, leaks, parent, wait_until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

const SERVERS: &str = r#"
x-imsup: { idle_after: 50ms, timer_slack: 200ms }
services:
  prefork: { command: ["@guests@/servers", prefork, "8080"], expose: ["8080"] }
  threads: { command: ["@guests@/servers", threads, "8080"], expose: ["8080"] }
"#;

const ODD: &str = r#"
x-imsup: { idle_after: 50ms, timer_slack: 200ms }
services:
  odd: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
"#;

/// The processes that run the guest of a kind.
fn guests(project: &Project, mark: &str) -> Vec<u32> {
    let processes = project.processes().into_iter();
    processes
        .filter(|one| one.command.contains(mark))
        .map(|one| one.pid)
        .collect()
}

/// The state of a process, as /proc/PID/stat has it.
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    rest.and_then(|rest| rest.split(' ').next().map(str::to_owned))
        .unwrap_or_default()
}

fn has_reason(project: &Project, host: &str, kind: &str) -> bool {
    let why = project.why(host);
    why["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .any(|reason| reason["kind"] == kind)
}

#[test]
fn a_supervisor_killed_while_its_host_is_frozen_leaves_nothing_frozen() {
    let project = Project::up("supervisor", SERVERS);
    let watch = project.watch();
    for round in 1..=3 {
        for host in ["prefork", "threads"] {
            let mut held = PersistentConnection::connect(project.at(host, 8080));
            let answered = held.ask("first").pid();
            let suspends = watch.count(host, "suspend");
            watch.wait(host, "suspend", suspends.max(round));
            let before = guests(&project, &format!("servers {host}"));
            assert!(before.contains(&answered), "{before:?}");
            project.kill(parent(project.host(host).pid.unwrap()).unwrap());
            for pid in before {
                assert!(wait_exit(pid, LIMIT), "{pid} outlives its supervisor");
            }
            watch.wait(host, "exit", round);
            wait_until("its cgroup to be removed", || {
                let left = leaks::cgroups(Path::new("/sys/fs/cgroup"), &format!("{}.{host}", project.name));
                left.is_empty()
            });
            assert!(held.hear().is_err(), "its connections have ended");
            assert_ne!(
                PersistentConnection::connect(project.at(host, 8080)).ask("next").pid(),
                answered
            );
            assert_eq!(project.host(host).boots, round as u64 + 1);
            watch.wait(host, "suspend", round + 1);
        }
    }
}

#[test]
fn sleepers_wake_without_a_broker_and_the_next_one_shows_them_asleep() {
    let project = Project::up("broker", SERVERS);
    let watch = project.watch();
    let hosts = project.ps();
    let mut held: Vec<(&str, PersistentConnection, u32)> = ["prefork", "threads"]
        .into_iter()
        .map(|host| {
            let mut held = PersistentConnection::connect((hosts[host].address, 8080).into());
            let pid = held.ask("first").pid();
            (host, held, pid)
        })
        .collect();
    let asked = SystemTime::now();
    for (host, held, _) in &mut held {
        let wakes = watch.asleep(&project, host);
        held.ask("wake once");
        watch.slept_again(host, wakes + 1);
    }
    let before = project.ps();
    let killed = SystemTime::now();
    project.kill_broker();
    drop(watch);
    project.ok(&["up", "-d"]);
    let before_wakes = |host: &str| before[host].json["wakes"].clone();
    for (host, ..) in &held {
        let after = project.wait_state(host, "suspended");
        assert_eq!(after.pid, before[*host].pid, "{host}");
        // The sleep did not begin with the next broker.
        let since = humantime::parse_rfc3339(after.json["since"].as_str().unwrap()).unwrap();
        assert!(
            (asked..killed).contains(&since),
            "{host} sleeps since {since:?}, not {}",
            before[*host].json["since"]
        );
        assert_eq!((after.boots, &after.json["wakes"]), (1, &before_wakes(host)), "{host}");
    }

    project.kill_broker();
    let mut new = Vec::new();
    for (host, held, pid) in &mut held {
        let address = (hosts[*host].address, 8080).into();
        for round in 0..5 {
            held.ask(&format!("held {round}"));
            let mut one = PersistentConnection::connect(address);
            let answer = one.ask(&format!("new {round}"));
            assert_eq!(answer.value("host"), *host);
            assert!(*host == "prefork" || answer.pid() == *pid, "no boot");
            new.push(one);
            // The host sleeps in between, unseen by any broker.
            let pid = before[*host].pid.unwrap();
            wait_until("it to sleep without a broker", || is_held(pid));
        }
    }
    project.ok(&["up", "-d"]);
    for (host, held, _) in &mut held {
        assert_eq!(project.wait_state(host, "suspended").boots, 1, "{host}");
        held.ask("with the next broker");
        project.wait_event(host, "wake", 2);
    }
    drop(new);
}

/// True if a process is frozen or traced: frozen if a cgroup can be made, else traced.
fn is_held(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let traced = status
        .lines()
        .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
    let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = group
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    let frozen = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().any(|mount| {
        let events = std::fs::read_to_string(Path::new(mount).join(group).join("cgroup.events"));
        events.is_ok_and(|text| text.contains("frozen 1"))
    });
    frozen || traced
}

#[test]
fn down_without_a_broker_ends_sleepers() {
    let project = Project::up("brokerless", SERVERS);
    let watch = project.watch();
    project.ok(&["wake", "prefork", "threads"]);
    watch.wait("prefork", "suspend", 1);
    watch.wait("threads", "suspend", 1);
    project.kill_broker();
    drop(watch);
    project.down();
}

#[test]
fn a_broker_and_a_supervisor_killed_together_leave_nothing_frozen() {
    let project = Project::up("both", SERVERS);
    let watch = project.watch();
    project.ok(&["wake", "prefork", "threads"]);
    watch.wait("prefork", "suspend", 1);
    watch.wait("threads", "suspend", 1);
    let supervisor = parent(project.host("prefork").pid.unwrap()).unwrap();
    let before = guests(&project, "servers prefork");
    drop(watch);
    project.signal(project.broker(), Signal::STOP);
    project.kill(supervisor);
    project.kill_broker();
    project.ok(&["up", "-d"]);
    assert_eq!(
        PersistentConnection::connect(project.at("prefork", 8080))
            .ask("next")
            .value("host"),
        "prefork"
    );
    for pid in before {
        assert!(wait_exit(pid, LIMIT), "{pid} outlives its supervisor");
    }
    assert_eq!(project.host("threads").boots, 1, "the other one was not disturbed");
}

#[test]
fn a_program_that_stops_itself_stays_stopped_and_goes_on_when_it_is_told_to() {
    let project = Project::up("stopped", ODD);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("odd", 8080));
    let pid = held.ask("first").pid();
    watch.wait("odd", "suspend", 1);
    held.say("stop").unwrap();
    watch.wait("odd", "wake", 1);
    wait_until("it to be stopped", || state(pid) == "T");
    wait_until("why to say that it is stopped", || {
        has_reason(&project, "odd", "stopped")
    });
    assert_eq!(state(pid), "T", "nobody has let it go on");
    let said = project.fails(1, &["suspend", "odd"]);
    assert!(said.contains("odd"), "{said}");
    project.signal(pid, Signal::CONT);
    assert!(held.hear().unwrap().starts_with("stop host=odd"));
    watch.wait("odd", "suspend", 2);

    // Stopped by another process during the sleep: the host is still stopped at the next signal.
    project.signal(pid, Signal::STOP);
    held.say("second").unwrap();
    watch.wait("odd", "wake", 2);
    wait_until("it to be stopped", || state(pid) == "T");
    wait_until("why to say that it is stopped", || {
        has_reason(&project, "odd", "stopped")
    });
    project.signal(pid, Signal::CONT);
    assert!(held.hear().unwrap().starts_with("second host=odd"));
    watch.wait("odd", "suspend", 3);
    assert_eq!(project.host("odd").boots, 1);
}

/// poll(2) goes on as restart_syscall(2) after the program was stopped and continued: that is the
/// same wait as before.
#[test]
fn a_call_that_somebody_else_interrupted_is_known_still() {
    let project = Project::up(
        "interrupted",
        r#"
x-imsup: { idle_after: 300ms, terminate_after: 100ms, timer_slack: 200ms }
services:
  poll: { command: ["@guests@/servers", poll, "8080"], expose: ["8080"] }
  pool: { command: ["@guests@/servers", pool, "8080"], expose: ["8080"] }
  delay: { command: ["@guests@/delays", nanosleep, "2000", "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut delayed = PersistentConnection::connect(project.at("delay", 8080));
    delayed.say("later").unwrap();
    for host in ["poll", "pool", "delay"] {
        // Otherwise the host might be terminated before the stop.
        project.ok(&["keep-awake", host, "--for", "1h"]);
        let pid = project.host(host).pid.unwrap();
        project.signal(pid, Signal::STOP);
        wait_until("it to be stopped", || state(pid) == "T");
        project.signal(pid, Signal::CONT);
        project.ok(&["keep-awake", host, "--for", "0s"]);
    }
    // The host does not tick, and is terminated in time.
    for host in ["poll", "pool"] {
        watch.wait(host, "terminate", 1);
        assert_eq!(watch.count(host, "tick"), 0, "{host}");
    }
    let answer = Answer(delayed.hear().unwrap());
    assert!(
        answer.value("waited_us").parse::<u64>().unwrap() >= 2_000_000,
        "{answer:?}"
    );
    drop(delayed);
    watch.wait("delay", "terminate", 1);
}

/// The tracer guest, attached to a process.
struct Tracer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Tracer {
    /// `None` if the kernel refuses.
    fn attach(project: &Project, pid: u32) -> Option<Self> {
        let mut command = project.command(common::guest("tracer"), &[&pid.to_string()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        match lines.next() {
            Some(line) => {
                assert_eq!(line.unwrap(), "attached");
                Some(Self { child, lines })
            }
            None => {
                child.wait().unwrap();
                None
            }
        }
    }

    fn detach(mut self) {
        drop(self.child.stdin.take());
        assert_eq!(self.lines.next().unwrap().unwrap(), "detached");
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn a_host_with_a_debugger_attached_is_left_alone() {
    let project = Project::up(
        "traced",
        r#"
x-imsup: { idle_after: 50ms, timer_slack: 200ms }
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["keep-awake", "web", "--for", "1h"]);
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let pid = held.ask("first").pid();
    let tracer = Tracer::attach(&project, pid).expect("a debugger can attach to a host that is awake");
    project.ok(&["keep-awake", "web", "--for", "0s"]);
    wait_until("why to say that it is traced", || {
        has_reason(&project, "web", "stopped")
    });
    held.ask("while traced");
    assert_eq!(watch.count("web", "suspend"), 0);
    let said = project.fails(1, &["suspend", "web"]);
    assert!(said.contains("web"), "{said}");
    held.ask("still");
    tracer.detach();
    watch.wait("web", "suspend", 1);

    // gdb attaches to a sleeper that a freezer holds, and is refused if its threads are traced
    // already.
    let tracer = Tracer::attach(&project, pid);
    held.ask("asleep and traced");
    if let Some(tracer) = tracer {
        tracer.detach();
    }
    watch.wait("web", "suspend", 2);
    held.ask("after all");
}

#[test]
fn zombies_keep_nobody_awake() {
    let project = Project::up("zombies", ODD);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("odd", 8080));
    held.ask("zombies 20");
    watch.wait("odd", "suspend", 1);
    held.ask("first");
    watch.wait("odd", "suspend", 2);
    held.ask("fork 300000");
    watch.wait("odd", "suspend", 3);
    held.ask("with a child that sleeps");
    watch.wait("odd", "wake", 3);
}

/// Whether an answer is there to be read.
fn has_answered(held: &PersistentConnection) -> bool {
    let mut polled = [PollFd::new(held.stream(), PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).unwrap() == 1
}

/// A parent in vfork(2) waits uninterruptibly: a freezer takes it, a tracer cannot stop it. Either
/// way the host goes on.
#[test]
fn a_vfork_that_lasts_does_no_harm() {
    let project = Project::up("vfork", ODD);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("odd", 8080));
    held.ask("first");
    for round in 0..2 {
        watch.wait("odd", "suspend", round + 1);
        held.say("vfork 1500").unwrap();
        watch.wait("odd", "wake", round + 1);
        // Once the child exists: with a cgroup the suspend succeeds, without a cgroup the refusal
        // is explained. On a busy machine the child may have gone unseen.
        wait_until("the child", || {
            guests(&project, "oddities").len() == 2 || has_answered(&held)
        });
        let finished = project.imsup(&["suspend", "odd"]);
        assert!(finished.success() || finished.stderr.contains("odd"), "{finished}");
        let mut beside = PersistentConnection::connect(project.at("odd", 8080));
        beside.ask("another thread");
        assert!(held.hear().unwrap().starts_with("vfork 1500 host=odd"));
        drop(beside);
        let count = watch.count("odd", "suspend");
        watch.wait("odd", "suspend", count.max(round + 2));
    }
}

/// A process may be forked at any instant of a suspend: all are held together, or none is.
#[test]
fn a_fork_at_any_instant_of_a_suspend_is_held_with_the_others() {
    let project = Project::up(
        "forks",
        r#"
x-imsup: { idle_after: 10ms, timer_slack: 10ms }
services:
  always: { command: ["@guests@/oddities", --forks, "0", "8080"], expose: ["8080"] }
  often: { command: ["@guests@/oddities", --forks, "5", "8080"], expose: ["8080"] }
  fork: { command: ["@guests@/servers", fork, "8080"], expose: ["8080"] }
"#,
    );
    let hosts = project.ps();
    let mut random = Random::new(Random::seed());
    for host in ["always", "often", "fork"] {
        let address = (hosts[host].address, 8080).into();
        for round in 0..30 {
            // Succeeds or fails, depending on the forks.
            let finished = project.imsup(&["suspend", host]);
            assert!(finished.success() || finished.stderr.contains(host), "{finished}");
            let mut held = PersistentConnection::connect(address);
            held.ask(&format!("round {round}"));
            std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(20)));
            held.ask(&format!("again {round}"));
        }
        assert_eq!(project.host(host).boots, 1, "{host}");
    }
    // A child forked by a program that was held in between is no orphan of the freeze.
    wait_until("the forked processes to end", || {
        guests(&project, "oddities --forks 5").len() <= 2
    });
}

#[test]
fn a_sleeper_that_is_killed_from_outside_ends_and_boots_again() {
    let project = Project::up("killed", SERVERS);
    let watch = project.watch();
    for (round, signal) in [(1, Signal::KILL), (2, Signal::TERM), (3, Signal::KILL)] {
        let pid = Answer(client::ask_line(project.at("threads", 8080), "hello").unwrap()).pid();
        watch.wait("threads", "suspend", round);
        project.signal(pid, signal);
        let exit = watch.wait("threads", "exit", round);
        let how = format!("signal {}", signal.as_raw());
        assert!(exit.json["detail"].as_str().unwrap().contains(&how), "{:?}", exit.json);
        project.wait_state("threads", "imaginary");
    }
    // One worker of several: the others sleep on, or are woken by the parent, and answer.
    let mut held = PersistentConnection::connect(project.at("prefork", 8080));
    let worker = held.ask("first").pid();
    watch.wait("prefork", "suspend", 1);
    project.kill(worker);
    assert!(held.hear().is_err(), "its own connection ends with it");
    for _ in 0..20 {
        let mut other = PersistentConnection::connect(project.at("prefork", 8080));
        assert_ne!(other.ask("hello").pid(), worker);
    }
    assert_eq!(project.host("prefork").boots, 1);
}

#[test]
fn a_full_line_of_requests_is_waiting_when_a_sleeper_is_killed_and_is_answered_by_its_next_boot() {
    let project = Project::up("waiting", ODD);
    let watch = project.watch();
    let address = project.at("odd", 8080);
    let mut held = PersistentConnection::connect(address);
    let pid = held.ask("first").pid();
    watch.asleep(&project, "odd");
    // Stopped during the sleep, the program cannot accept when woken: new connections wait in the
    // queue, and outlive the program.
    project.signal(pid, Signal::STOP);
    let mut crowd: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = client::connect(address).expect("queued");
            stream.write_all(b"hello\n").unwrap();
            stream
        })
        .collect();
    project.signal(pid, Signal::KILL);
    for stream in &mut crowd {
        assert_ne!(
            Answer(client::talk(stream, "again").expect("a queued connection is not lost")).pid(),
            pid
        );
    }
}
