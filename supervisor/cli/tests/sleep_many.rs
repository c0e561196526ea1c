//! Many clients of one sleeper: ten thousand established connections, a thousand clients in its
//! queue.

mod common;

use common::client::{PersistentConnection, ask};
use common::command::run;
use common::random::Random;
use common::{LIMIT, Project, guest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 10_000;

/// Room for one end of all connections.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        most > CONNECTIONS as u64 + 500,
        "RLIMIT_NOFILE allows {most} descriptors: {CONNECTIONS} connections need more ('ulimit -Hn')"
    );
}

/// Data on any of them wakes the host, and is answered over the same connection.
fn any_of_ten_thousand(kind: &str) {
    raise_descriptor_limit();
    let project = Project::up(
        "many",
        &format!(
            r#"
x-imsup: {{ idle_after: 200ms }}
services:
  web: {{ command: ["@guests@/servers", {kind}, "8080"], expose: ["8080"] }}
"#
        ),
    );
    let watch = project.watch();
    let address = project.at("web", 8080);
    let mut held: Vec<PersistentConnection> = (0..CONNECTIONS)
        .map(|_| PersistentConnection::connect(address))
        .collect();
    for (number, one) in held.iter_mut().enumerate() {
        one.ask(&format!("first {number}"));
    }
    let mut random = Random::new(Random::seed());
    let mut wakes = watch.asleep(&project, "web");
    for round in 0..20 {
        // The first, the last, and any.
        let index = match round {
            0 => 0,
            1 => CONNECTIONS - 1,
            _ => random.below(CONNECTIONS as u64) as usize,
        };
        held[index].ask(&format!("round {round} over {index}"));
        let wake = watch.wait("web", "wake", wakes + 1);
        assert_eq!(wake.cause.as_deref(), Some("data"));
        assert_eq!(wake.by, Some(held[index].local()), "round {round} over {index}");
        wakes = watch.slept_again("web", wakes + 1);
    }
    // All at once.
    for (number, one) in held.iter_mut().enumerate() {
        one.say(&format!("all {number}")).unwrap();
    }
    for (number, one) in held.iter_mut().enumerate() {
        let answer = one.hear().unwrap();
        assert!(answer.starts_with(&format!("all {number} host=web")), "{answer}");
    }
    watch.slept_again("web", wakes + 1);
    assert_eq!(project.host("web").boots, 1);
}

#[test]
fn data_on_any_of_ten_thousand_connections_wakes_an_epoll_server() {
    any_of_ten_thousand("edge");
}

/// Each connection has a thread or a process of its own, and each of those its own blocked call.
#[test]
fn hundreds_of_threads_and_processes_are_held_and_any_of_them_is_woken() {
    let project = Project::up(
        "blocked",
        r#"
x-imsup: { idle_after: 200ms }
services:
  threads: { command: ["@guests@/servers", threads, "8080"], expose: ["8080"] }
  fork: { command: ["@guests@/servers", fork, "8080"], expose: ["8080"] }
  idle: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut random = Random::new(Random::seed());
    PersistentConnection::connect(project.at("idle", 8080)).ask("threads 2000");
    for (host, connections) in [("threads", 1000), ("fork", 200)] {
        let address = project.at(host, 8080);
        let mut held: Vec<PersistentConnection> = (0..connections)
            .map(|_| PersistentConnection::connect(address))
            .collect();
        for (number, one) in held.iter_mut().enumerate() {
            one.ask(&format!("first {number}"));
        }
        let mut wakes = watch.asleep(&project, host);
        for round in 0..10 {
            let index = random.below(connections) as usize;
            held[index].ask(&format!("round {round} over {index}"));
            let wake = watch.wait(host, "wake", wakes + 1);
            assert_eq!(
                (wake.cause.as_deref(), wake.by),
                (Some("data"), Some(held[index].local()))
            );
            wakes = watch.slept_again(host, wakes + 1);
        }
        assert_eq!(project.host(host).boots, 1);
    }
    watch.wait("idle", "suspend", 1);
    PersistentConnection::connect(project.at("idle", 8080)).ask("over two thousand threads");
}

#[test]
fn a_crowd_at_a_sleeper_with_a_short_backlog_is_served_without_a_retransmission() {
    let project = Project::up(
        "crowd",
        r#"
x-imsup: { idle_after: 100ms }
services:
  web: { command: ["@guest@", --backlog, "5", --reply, echo, --tcp, "8080"], expose: ["8080"] }
  threads: { command: ["@guest@", --backlog, "5", --reply, echo, --threads, "4", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    for host in ["web", "threads"] {
        let address = project.at(host, 8080);
        let crowd = guest("crowd");
        ask(address);
        let (mut rounds, mut slow) = (0, 0);
        while rounds < 5 {
            watch.asleep(&project, host);
            let said = project.outside(crowd.to_str().unwrap(), &[&address.ip().to_string(), "8080", "1000"]);
            if said.starts_with("served=1000 failed=0 retransmitted=0 ") {
                rounds += 1;
                continue;
            }
            // The short backlog is restored a second after the wake. A later client, if the crowd
            // had no processor, finds the queue full as natively.
            let (_, came_within) = said.trim().rsplit_once("came_within_ms=").unwrap();
            assert!(
                came_within.parse::<u32>().unwrap() > 900,
                "{host}, round {rounds}: {said}"
            );
            assert!(
                said.starts_with("served=1000 failed=0 "),
                "{host}, round {rounds}: {said}"
            );
            slow += 1;
            assert!(
                slow < 20,
                "this machine is too busy for a crowd that comes at once: {said}"
            );
        }
        assert_eq!(project.host(host).boots, 1);
    }
}

/// The same at a host that is terminated: clients during its end, and clients of its next boot.
#[test]
fn a_crowd_at_a_host_that_is_terminated_is_served() {
    let project = Project::up(
        "terminated",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 50ms }
services:
  web: { command: ["@guest@", --backlog, "5", --reply, echo, --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let address = project.at("web", 8080);
    let crowd = guest("crowd");
    ask(address);
    for round in 1..=5 {
        watch.wait("web", "terminate", round);
        // The next boot sets its own short backlog itself, and some clients wait for a
        // retransmission, as at any such program: the sixth comes after a minute.
        let command = project.command(&crowd, &[&address.ip().to_string(), "8080", "1000"]);
        let said = run(command, 4 * LIMIT).expect_success("crowd");
        assert!(said.starts_with("served=1000 failed=0 "), "round {round}: {said}");
    }
}
