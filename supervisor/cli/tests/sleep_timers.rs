//! Sleep loses no timer: a wait for a time ends when the time has come, within the slack.

mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use common::client::{self, PersistentConnection};
use common::random::Random;
use common::watch::Watch;
use common::{Project, control, guest, need};

const DELAY: Duration = Duration::from_millis(2500);

/// The methods that the guest lists after a wrong request.
fn methods() -> Vec<String> {
    let output = std::process::Command::new(guest("delays")).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let methods: Vec<_> = text.lines().skip(1).map(|line| line.trim().to_owned()).collect();
    assert!(methods.len() > 20, "{text}");
    methods
}

/// Hears an answer that is to come after [`DELAY`]. An answer that never comes is an error after
/// a while.
#[track_caller]
fn expect_delayed(method: &str, held: &mut PersistentConnection) {
    let answer = held.hear().unwrap_or_else(|error| panic!("{method}: {error}"));
    let waited: u64 = answer.rsplit_once("waited_us=").unwrap().1.parse().unwrap();
    let waited = Duration::from_micros(waited);
    assert!(
        waited >= DELAY,
        "{method} was woken {waited:?} after it lay down for {DELAY:?}"
    );
}

/// Waits until a host sleeps after the answer. True if timers have woken the host `times` times so
/// far.
#[track_caller]
fn slept_until_its_timer(project: &Project, watch: &Watch, host: &str, times: usize) -> bool {
    watch.asleep(project, host);
    let wakes = watch.of(host, "wake").into_iter();
    wakes.filter(|wake| wake.cause.as_deref() == Some("timer")).count() >= times
}

/// Each server sleeps before the answer, each by another call. imsup suspends the server meanwhile,
/// and the answer comes in time.
fn every_delay_ends(program: &str) {
    let methods = methods();
    let mut compose = "x-imsup: { idle_after: 100ms, timer_slack: 200ms }\nservices:\n".to_owned();
    for method in &methods {
        compose += &format!(
            "  {method}: {{ command: [\"@guests@/{program}\", {method}, \"{}\", \"8080\"], expose: [\"8080\"] }}\n",
            DELAY.as_millis()
        );
    }
    let project = Project::up("delays", &compose);
    let watch = project.watch();
    let hosts = project.ps();
    let mut held: Vec<(&String, PersistentConnection)> = methods
        .iter()
        .map(|method| {
            (
                method,
                PersistentConnection::connect((hosts[method.as_str()].address, 8080).into()),
            )
        })
        .collect();
    for round in 1..=2 {
        for (_, held) in &mut held {
            held.say(&format!("round {round}")).unwrap();
        }
        // All boot at once, which takes a while.
        for method in &methods {
            watch.wait(method, "ready", 1);
        }
        for (method, held) in &mut held {
            expect_delayed(method, held);
        }
        for (method, held) in &mut held {
            // It answered, which is more than housekeeping; and it was asleep before, or there
            // would have been no wake.
            let by_timer = (0..5).any(|_| {
                slept_until_its_timer(&project, &watch, method, round) || {
                    // A busy machine had no time to suspend the host before.
                    held.say("again").unwrap();
                    expect_delayed(method, held);
                    false
                }
            });
            assert!(
                by_timer,
                "{method} was not woken by its timer: {:?}",
                watch.of(method, "wake")
            );
        }
    }
    for method in &methods {
        assert_eq!(project.host(method).boots, 1, "{method}");
    }
}

#[test]
fn every_delay_of_a_glibc_program_ends() {
    every_delay_ends("delays");
}

#[test]
fn every_delay_of_a_static_musl_program_ends() {
    every_delay_ends("delays-musl");
}

/// A signal that comes after a thread was stopped and before its waits are known is no news later
/// on.
#[test]
fn a_timer_that_ends_while_its_host_is_held_is_not_lost() {
    const ROUNDS: u32 = 60;
    const MS: u64 = 20;
    const WAYS: [&str; 4] = ["timer-signal", "interval-timer", "alarm-in-read", "timer-thread"];
    let mut compose = "x-imsup: { idle_after: 1h, timer_slack: 100ms }\nservices:\n".to_owned();
    for way in WAYS {
        compose +=
            &format!("  {way}: {{ command: [\"@guests@/delays\", {way}, \"{MS}\", \"8080\"], expose: [\"8080\"] }}\n");
    }
    let project = Project::up("held", &compose);
    let hosts = project.ps();
    let mut random = Random::new(Random::seed());
    std::thread::scope(|scope| {
        for way in WAYS {
            let (mut random, project) = (Random::new(random.below(u64::MAX)), &project);
            let address = (hosts[way].address, 8080).into();
            scope.spawn(move || {
                let mut held = PersistentConnection::connect(address);
                held.say("boot").unwrap();
                held.hear().unwrap();
                for round in 0..ROUNDS {
                    held.say(&format!("round {round}")).unwrap();
                    std::thread::sleep(random.between(Duration::from_millis(MS - 4), Duration::from_millis(MS + 4)));
                    let _ = control::suspend(project, way);
                    held.hear()
                        .unwrap_or_else(|error| panic!("{way}, round {round}: {error}"));
                }
            });
        }
    });
}

const PYTHON_DELAY: &str = "
import asyncio
async def handle(reader, writer):
    while (await reader.readline()).strip():
        pass
    await asyncio.sleep(2.5)
    writer.write(b'HTTP/1.0 200 OK\\r\\n\\r\\ndelayed\\n')
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(handle, None, 8080)
    async with server:
        await server.serve_forever()
asyncio.run(main())
";

const NODE_DELAY: &str = "
require('http').createServer((request, response) => setTimeout(() => response.end('delayed\\n'), 2500)).listen(8080);
";

#[test]
fn delays_of_go_node_and_python_end() {
    need(&["go", "node", "python3"]);
    let project = Project::new(
        "runtimes",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 200ms }
services:
  golang: { command: ["@guests@/guest-go", -listen, ":8080", -delay, 2500ms], expose: ["8080"] }
  node: { command: [node, "@dir@/delay.js"], expose: ["8080"] }
  python: { command: [python3, "@dir@/delay.py"], expose: ["8080"] }
"#,
    );
    std::fs::write(project.path("delay.py"), PYTHON_DELAY).unwrap();
    std::fs::write(project.path("delay.js"), NODE_DELAY).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let hosts = project.ps();
    std::thread::scope(|scope| {
        for host in ["golang", "node", "python"] {
            let (address, watch, project) = ((hosts[host].address, 8080).into(), &watch, &project);
            scope.spawn(move || {
                let by_timers = (0..10).any(|_| {
                    let asked = Instant::now();
                    let said = client::get(address);
                    assert!(asked.elapsed() >= DELAY, "{host}");
                    assert!(
                        said.contains("delayed") || said.contains("host=golang"),
                        "{host}: {said}"
                    );
                    // A busy machine may have had no time to suspend the host before the timer
                    // came.
                    slept_until_its_timer(project, watch, host, 2)
                });
                assert!(
                    by_timers,
                    "{host} was not woken by its timers: {:?}",
                    watch.of(host, "wake")
                );
            });
        }
    });
}

/// One thread waits for a time while another works a little all the time: the start of the first
/// wait is not the last run of the process.
#[test]
fn a_deadline_is_counted_from_when_its_own_thread_began_to_wait() {
    let project = Project::up(
        "threads",
        r#"
x-imsup: { idle_after: 2s, timer_slack: 100ms }
services:
  web: { command: ["@guests@/delays", nanosleep, "4000", "8080", "50"], expose: ["8080"] }
  later: { command: ["@guests@/delays", nanosleep, "4000", "8080"], expose: ["8080"], x-imsup: { idle_after: never } }
"#,
    );
    let watch = project.watch();
    let mut web = PersistentConnection::connect(project.at("web", 8080));
    let mut later = PersistentConnection::connect(project.at("later", 8080));
    for round in 1..=2 {
        // Counted from the process's last move, the answer would come 2 s late, and after that of a
        // host that is awake and begins to wait 1 s later. A busy machine may let any answer be
        // late, but not each time.
        let comes_first = (0..5).any(|_| {
            web.say("first").unwrap();
            std::thread::sleep(Duration::from_secs(1));
            later.say("second").unwrap();
            let (sender, answers) = crossbeam_channel::unbounded();
            let order: Vec<String> = std::thread::scope(|scope| {
                for held in [&mut web, &mut later] {
                    let sender = sender.clone();
                    scope.spawn(move || sender.send(held.hear().unwrap()).unwrap());
                }
                answers.iter().take(2).collect()
            });
            for answer in &order {
                let waited = client::Answer(answer.clone()).value("waited_us").parse().unwrap();
                assert!(Duration::from_micros(waited) >= Duration::from_secs(4), "{answer}");
            }
            order[0].starts_with("first ")
        });
        assert!(comes_first, "round {round}");
        watch.wait("web", "suspend", round);
    }
}

/// A look at so many threads takes long: the others begin their calls meanwhile, between a look at
/// the clocks and the hold.
const LIMITS: &str = r#"
x-imsup: { idle_after: 20ms, timer_slack: 20ms }
services:
  web: { command: ["@guests@/oddities", --limits, "@dir@/limits", "200", "400", "8080"], expose: ["8080"] }
"#;

/// A call may begin after the last look at the clock of its process, and before the hold.
#[test]
fn no_limit_ends_early_that_begins_while_its_host_is_being_suspended() {
    const LIMIT: Duration = Duration::from_millis(200);
    const ROUNDS: usize = 40;
    let project = Project::up("limits", LIMITS);
    let watch = project.watch();
    project.ok(&["wake", "web"]);
    watch.wait("web", "suspend", 1);
    let ended = || {
        let text = std::fs::read_to_string(project.path("limits")).unwrap_or_default();
        // The last one may be written just now.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    };
    common::wait_until("calls to end by their limits", || {
        ["epoll_wait ", "recv "]
            .iter()
            .all(|call| ended().iter().filter(|line| line.starts_with(call)).count() >= ROUNDS)
    });
    let waited = |line: &String| Duration::from_micros(line.rsplit_once(' ').unwrap().1.parse().unwrap());
    let early: Vec<_> = ended().into_iter().filter(|line| waited(line) < LIMIT).collect();
    assert_eq!(early, [""; 0], "CALL BEGAN_MS_LATER WAITED_US");
}

const CRON: &str = r#"
x-imsup: { idle_after: 100ms, timer_slack: 500ms }
services:
  light: { command: ["@guests@/oddities", --cron, "@dir@/light", "1500", "0", "8080"], expose: ["8080"] }
  heavy: { command: ["@guests@/oddities", --cron, "@dir@/heavy", "1500", "400", "8080"], expose: ["8080"] }
  awake: { command: ["@guests@/oddities", --cron, "@dir@/awake", "1500", "0", "8080"], expose: ["8080"],
           x-imsup: { idle_after: never } }
"#;

/// Lines `NUMBER LATE_US` of the cron guest.
fn runs(project: &Project, name: &str) -> Vec<(u64, Duration)> {
    let text = std::fs::read_to_string(project.path(name)).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (number, late) = line.split_once(' ').unwrap();
            (number.parse().unwrap(), Duration::from_micros(late.parse().unwrap()))
        })
        .collect()
}

#[test]
fn a_cron_loop_runs_on_time_in_its_sleep_and_housekeeping_is_no_activity() {
    const RUNS: usize = 5;
    let project = Project::up("cron", CRON);
    let watch = project.watch();
    project.ok(&["wake", "light", "heavy", "awake"]);
    let suspend = watch.wait("light", "suspend", 1);
    let asleep = project.wait_state("light", "suspended");
    assert!(asleep.json["next_deadline"].is_string(), "{:?}", asleep.json);
    watch.wait("light", "tick", RUNS);
    watch.wait("heavy", "wake", RUNS);
    for name in ["light", "heavy"] {
        // A busy machine may be late itself, but not each time.
        common::wait_until(&format!("{name} to run in time"), || {
            let all = runs(&project, name);
            for (index, (number, _)) in all.iter().enumerate() {
                assert_eq!(*number, index as u64 + 1, "{name} runs once each time");
            }
            let in_time = |late: &Duration| *late < Duration::from_millis(500) + Duration::from_secs(2);
            all.iter().filter(|(_, late)| in_time(late)).count() >= RUNS
        });
    }

    // Ticks are events, not use: the host has slept all the time, except for ticks that a busy
    // machine made last.
    let host = project.wait_state("light", "suspended");
    assert_eq!(watch.causes_after("light", 0), [""; 0]);
    if host.json["wakes"] == 0 {
        assert_eq!(
            host.json["since"], asleep.json["since"],
            "since its suspend: {:?}",
            suspend.json
        );
        assert_eq!(watch.count("light", "suspend"), 1);
    }
    let tick = watch.wait("light", "tick", 1);
    assert_eq!(tick.cause.as_deref(), Some("timer"));
    // Not during a tick.
    common::wait_until("why to say its deadline", || {
        let why = project.why("light");
        why["next_deadline"].is_string() && why["deadline_of"].is_string()
    });

    // A host that computes for longer is awake meanwhile, woken by the timer.
    let wake = watch.wait("heavy", "wake", 1);
    assert_eq!(wake.cause.as_deref(), Some("timer"));
    watch.wait("heavy", "suspend", RUNS);
    assert_eq!(watch.count("awake", "suspend"), 0);
}

/// Deadlines that come faster than the slack are coalesced: at most one tick in that time.
#[test]
fn a_fast_timer_ticks_once_per_slack() {
    let project = Project::up(
        "fast",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 1s }
services:
  fast: { command: ["@guests@/oddities", --cron, "@dir@/fast", "100", "0", "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    // The times of events are the broker's, which may hear of a tick late. This clock includes the
    // time before the first tick.
    let began = Instant::now();
    project.ok(&["wake", "fast"]);
    watch.wait("fast", "suspend", 1);
    watch.wait("fast", "tick", 4);
    let span = began.elapsed();
    assert!(
        span > Duration::from_millis(2800),
        "3 slacks lie between 4 ticks: {span:?}"
    );
    assert_eq!(watch.causes_after("fast", 0), [""; 0]);
    // A request in between is answered at once, not at the next tick: on a busy machine that may be
    // just then.
    let by_connection = (0..5).any(|_| {
        let wakes = watch.asleep(&project, "fast");
        PersistentConnection::connect(project.at("fast", 8080)).ask("hello");
        let cause = watch.wait("fast", "wake", wakes + 1).cause;
        cause.as_deref() == Some("connection")
    });
    assert!(by_connection, "{:?}", watch.of("fast", "wake"));
}

/// Two connections with different delays: the earlier deadline counts, whatever woke the host in
/// between.
#[test]
fn a_wake_in_between_moves_no_deadline() {
    need(&["python3"]);
    let project = Project::new(
        "between",
        r#"
x-imsup: { idle_after: 50ms, timer_slack: 100ms }
services:
  web: { command: [python3, "@dir@/delay.py"], expose: ["8080"] }
"#,
    );
    std::fs::write(project.path("delay.py"), PYTHON_DELAY).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    project.ok(&["wake", "web"]);
    watch.wait("web", "suspend", 1);
    let address = project.at("web", 8080);
    let asked = Instant::now();
    let mut slow = client::connect(address).unwrap();
    slow.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut interrupting = 0;
    while asked.elapsed() < Duration::from_secs(2) {
        let count = watch.count("web", "suspend");
        watch.wait("web", "suspend", count.max(2));
        // Half a request: the host wakes, reads the half, and asks for nothing yet.
        let mut half = client::connect(address).unwrap();
        half.write_all(b"GET / HTTP/1.0\r\n").unwrap();
        interrupting += 1;
        watch.wait("web", "suspend", count.max(2) + 1);
    }
    // Mostly eight times; on a busy machine each time takes longer.
    assert!(interrupting > 0, "{interrupting}");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut slow, &mut answer).unwrap();
    assert!(answer.contains("delayed"), "{answer}");
    let elapsed = asked.elapsed();
    assert!(elapsed >= DELAY, "{elapsed:?}");
}
