//! Other waits of programs than for clients: pipes, files, locks, terminals, signals, other hosts.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::client::{self, PersistentConnection};
use common::{Event, LIMIT, Project, wait_until};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, fcntl_lock, flock, mknodat};
use rustix::process::Signal;

#[test]
fn pipes_directories_unix_sockets_and_signals_wake() {
    let project = Project::new(
        "descriptors",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 200ms }
services:
  fifo: { command: ["@guests@/oddities", --fifo, "@dir@/fifo", "@dir@/of-fifo", "8080"] }
  watch: { command: ["@guests@/oddities", --watch, "@dir@/watched", "@dir@/of-watch", "8080"] }
  unix: { command: ["@guests@/oddities", --unix, "@dir@/unix.sock", "8080"] }
  signal: { command: ["@guests@/oddities", --signal, "@dir@/of-signal", "8080"] }
  bystander: { command: ["@guests@/oddities", "8080"] }
"#,
    );
    mknodat(CWD, project.path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::fs::create_dir(project.path("watched")).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    project.ok(&["wake", "fifo", "watch", "unix", "signal", "bystander"]);
    let content = |name: &str| std::fs::read_to_string(project.path(name)).unwrap_or_default();
    for host in ["fifo", "watch", "unix", "signal", "bystander"] {
        watch.wait(host, "suspend", 1);
    }

    let mut fifo = std::fs::OpenOptions::new()
        .write(true)
        .open(project.path("fifo"))
        .unwrap();
    fifo.write_all(b"through the pipe\n").unwrap();
    assert_eq!(watch.wait("fifo", "wake", 1).cause.as_deref(), Some("descriptor"));
    wait_until("the pipe's reader", || content("of-fifo") == "through the pipe\n");

    std::fs::write(project.path("watched/news"), "").unwrap();
    assert_eq!(watch.wait("watch", "wake", 1).cause.as_deref(), Some("descriptor"));
    wait_until("the directory's watcher", || content("of-watch") == "news\n");

    let stream = UnixStream::connect(project.path("unix.sock")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answers = BufReader::new(&stream).lines();
    (&stream).write_all(b"first\n").unwrap();
    assert!(answers.next().unwrap().unwrap().starts_with("first host=unix"));
    // Woken by the connection, and once more if the line came much later.
    let mut of_unix = watch.asleep(&project, "unix");
    for _ in 1..=3 {
        (&stream).write_all(b"over a UNIX socket\n").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert!(answer.starts_with("over a UNIX socket host=unix"), "{answer}");
        of_unix += 1;
        assert_eq!(watch.slept_again("unix", of_unix), of_unix);
    }

    // Whether a signal leads to work cannot be known beforehand: it may be a tick.
    project.signal(project.host("signal").pid.unwrap(), Signal::USR1);
    wait_until("the signal's receiver", || content("of-signal") == "signal\n");
    watch.wait_for("a tick or a wake", |events| {
        let mut events = events.iter();
        events
            .find(|event| event.is("signal", "tick") || event.is("signal", "wake"))
            .cloned()
    });

    for (host, wakes) in [("fifo", 1), ("watch", 1), ("unix", of_unix), ("bystander", 0)] {
        assert_eq!(project.host(host).json["wakes"], wakes, "{host}");
    }
}

/// Waits for locks and the like cannot be made on behalf of a program: such a host looks for
/// itself, once per slack.
#[test]
fn what_cannot_be_waited_for_is_looked_for() {
    let project = Project::new(
        "locks",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 300ms }
services:
  flock: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
  lock: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
  open: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
"#,
    );
    let [flocked, locked, fifo] = ["flocked", "locked", "fifo"].map(|name| project.path(name));
    let (by_flock, by_fcntl) = (
        std::fs::File::create(&flocked).unwrap(),
        std::fs::File::create(&locked).unwrap(),
    );
    flock(&by_flock, FlockOperation::LockExclusive).unwrap();
    fcntl_lock(&by_fcntl, FlockOperation::LockExclusive).unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let mut waiting: Vec<(&str, PersistentConnection)> = [("flock", &flocked), ("lock", &locked), ("open", &fifo)]
        .into_iter()
        .map(|(host, file)| {
            let mut held = PersistentConnection::connect(project.at(host, 8080));
            held.say(&format!("{host} {}", file.display())).unwrap();
            (host, held)
        })
        .collect();
    for (host, _) in &waiting {
        watch.wait(host, "suspend", 1);
    }
    flock(&by_flock, FlockOperation::Unlock).unwrap();
    fcntl_lock(&by_fcntl, FlockOperation::Unlock).unwrap();
    let writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    for (host, held) in &mut waiting {
        let answer = held.hear().unwrap_or_else(|error| panic!("{host}: {error}"));
        assert!(answer.contains(&format!(" host={host} ")), "{answer}");
    }
    drop(writer);
}

/// Input on a program's standard input wakes it.
#[test]
fn standard_input_wakes() {
    let project = Project::up(
        "stdin",
        r#"
x-imsup: { idle_after: 100ms, hold_timeout: 1s }
services:
  shell: { command: [sh] }
"#,
    );
    let watch = project.watch();
    let mut command = project.imsup_command(&["run", "--host", "shell", "--", "sh"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = command.spawn().unwrap();
    let (mut input, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
    let mut lines = BufReader::new(output).lines();
    for round in 1..=3 {
        watch.wait("shell", "suspend", round);
        writeln!(input, "echo round {round}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("round {round}"));
        assert_eq!(watch.wait("shell", "wake", round).cause.as_deref(), Some("descriptor"));
    }
    watch.wait("shell", "suspend", 4);
    writeln!(input, "exit 7").unwrap();
    assert_eq!(shell.wait().unwrap().code(), Some(7));
}

#[test]
fn hosts_that_wait_for_each_other_all_sleep() {
    let project = Project::up(
        "mutual",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 200ms }
services:
  web: { command: ["@guest@", --tcp, "8080", --upstream, "app:8080"], expose: ["8080"] }
  app: { command: ["@guest@", --tcp, "8080", --upstream, "db:8080"], expose: ["8080"] }
  db: { command: ["@guest@", --reply-delay, "2000", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "web", "app", "db"]);
    let hosts = ["web", "app", "db"];
    // Woken by the call, asleep while the callee is, woken by its answer; db by the call and by its
    // own timer. On a busy machine a caller may sleep between its connect and its question as well,
    // and may have no time to sleep before the answer comes: then it is asked again.
    let called = || {
        let before = hosts.map(|host| watch.asleep(&project, host));
        let asked = Instant::now();
        let answer = client::ask(project.at("web", 8080));
        assert!(answer.0.contains("host=db"), "{answer:?}");
        assert!(asked.elapsed() >= Duration::from_secs(2));
        for host in hosts {
            watch.asleep(&project, host);
        }
        let wakes = [0, 1, 2].map(|number| watch.of(hosts[number], "wake").split_off(before[number]));
        for ((wakes, by), host) in wakes.iter().zip([None, Some("web"), Some("app")]).zip(hosts) {
            assert_eq!(wakes[0].cause.as_deref(), Some("connection"), "{host}: {wakes:?}");
            if by.is_some() {
                assert_eq!(wakes[0].by.as_deref(), by, "{host}: {wakes:?}");
            }
        }
        wakes
    };
    let slept_meanwhile = |[web, app, db]: &[Vec<Event>; 3]| {
        let by_answer = |wakes: &[Event], by: &str| {
            let mut wakes = wakes.iter();
            wakes.any(|wake| wake.cause.as_deref() == Some("data") && wake.by.as_deref() == Some(by))
        };
        by_answer(web, "app") && by_answer(app, "db") && db.iter().any(|wake| wake.cause.as_deref() == Some("timer"))
    };
    for round in 1..=2 {
        let mut last = None;
        let all_slept = (0..5).any(|_| slept_meanwhile(last.insert(called())));
        assert!(all_slept, "round {round}: who answered: {last:?}");
    }
}

/// A host that calls another one is not idle while the other boots: the call is pending.
#[test]
fn a_caller_does_not_sleep_while_its_callee_boots() {
    let project = Project::up(
        "booting",
        r#"
x-imsup: { idle_after: 50ms }
services:
  web: { command: ["@guest@", --tcp, "8080", --upstream, "db:9000"], expose: ["8080"] }
  db: { command: ["@guest@", --start-delay, "1500", --tcp, "9000"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "web"]);
    watch.wait("web", "suspend", 1);
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| client::ask(project.at("web", 8080)));
        watch.wait("db", "boot", 1);
        wait_until("why to say that it reaches for db", || {
            let why = project.why("web");
            let mut kinds = why["reasons"]
                .as_array()
                .unwrap()
                .iter()
                .map(|reason| reason["kind"].clone());
            kinds.any(|kind| kind == "reaching") || watch.count("db", "ready") > 0
        });
        asked.join().unwrap()
    });
    assert!(asked.0.contains("host=db"), "{asked:?}");
    watch.wait("web", "suspend", 2);
}

/// Every signal counts once: imsup does not answer in place of the sleeper.
#[test]
fn a_cascade_of_sleepers_wakes_in_turn_and_says_who_called_whom() {
    let project = Project::up(
        "cascade",
        r#"
x-imsup: { idle_after: 100ms }
services:
  web: { command: ["@guest@", --tcp, "8080", --upstream, "app:8080"], expose: ["8080"] }
  app: { command: ["@guests@/guest-go", -listen, ":8080", -upstream, "http://db:8080/"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  bystander: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "bystander", "web", "app", "db"]);
    for host in ["web", "app", "db", "bystander"] {
        watch.wait(host, "suspend", 1);
    }
    // The guest's own call speaks no HTTP: Go answers 400, which is an answer.
    for round in 1..=3 {
        let said = client::ask(project.at("web", 8080));
        assert!(said.0.contains("upstream=<"), "{said:?}");
        watch.wait("web", "wake", round);
        watch.wait("app", "wake", round);
        watch.wait("web", "suspend", round + 1);
        watch.wait("app", "suspend", round + 1);
    }
    assert_eq!(watch.wait("app", "wake", 1).by.as_deref(), Some("web"));
    assert_eq!(watch.count("bystander", "wake"), 0);

    let said = client::get(project.at("app", 8080));
    assert!(said.contains("upstream=<host=db"), "{said}");
    let wake = watch.wait("db", "wake", 1);
    assert_eq!(
        (wake.cause.as_deref(), wake.by.as_deref()),
        (Some("connection"), Some("app"))
    );
    let tree = project.ok(&["events", "--tree"]);
    let lines: Vec<&str> = tree.lines().collect();
    let is_wake = |line: &str, host: &str| line.contains(&format!("{host} ")) && line.contains("wake");
    // Its caller may wake once more by its answer.
    let below_its_caller = lines
        .windows(2)
        .any(|pair| is_wake(pair[0], "app") && is_wake(pair[1], "db"));
    assert!(below_its_caller, "the callee below its caller:\n{tree}");
}
