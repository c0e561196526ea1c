//! Fifty hosts that sleep as soon as they can, and clients that come, stay, pause and return at random: whatever hosts do in
//! between, every request is answered, once.

mod common;

use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Project;
use common::client::Held;
use common::random::Random;

const HOSTS: usize = 50;
const CLIENTS: usize = 16;
const REQUESTS: u64 = 100_000;

/// Connections that a client keeps alive at most.
const KEPT: usize = 4;

/// What happened often, at least; it happens several times as often.
const AT_LEAST: [(&str, usize); 4] = [("suspend", 500), ("wake", 300), ("terminate", 50), ("boot", 100)];

const KINDS: [&str; 10] = [
    "servers, edge",
    "servers-musl, edge",
    "servers, prefork",
    "servers, threads",
    "servers-musl, threads",
    "servers, poll",
    "servers, pool",
    "servers, fork",
    "servers, oneshot",
    "servers-musl, select",
];

/// Three of five hosts of each kind.
fn is_terminated(number: usize) -> bool {
    (number / KINDS.len()).is_multiple_of(2)
}

/// Every kind of server sleeps after 50 ms; some are ended 200 ms later.
fn compose() -> String {
    let mut compose = "x-imsup: { idle_after: 50ms }\nservices:\n".to_owned();
    for number in 0..HOSTS {
        let (program, kind) = KINDS[number % KINDS.len()].split_once(", ").unwrap();
        let settings = match is_terminated(number) {
            true => "terminate_after: 200ms",
            false => "terminate_after: never",
        };
        compose += &format!(
            "  h{number}: {{ command: [\"@guests@/{program}\", {kind}, \"8080\"], expose: [\"8080\"], x-imsup: {{ {settings} }} }}\n"
        );
    }
    compose
}

/// One client: connections that it keeps, and what it does next.
struct Client<'a> {
    number: usize,
    random: Random,
    addresses: &'a [SocketAddr],
    kept: Vec<(usize, Held)>,
    sequence: u64,
}

impl Client<'_> {
    /// Asks a few times over one connection, kept or new; gives how many requests that were.
    fn visit(&mut self) -> u64 {
        let (host, mut held) = if self.kept.len() == KEPT || (!self.kept.is_empty() && self.random.one_in(2)) {
            let index = self.random.below(self.kept.len() as u64) as usize;
            self.kept.swap_remove(index)
        } else {
            let host = self.random.below(HOSTS as u64) as usize;
            (host, Held::connect(self.addresses[host]))
        };
        let requests = 1 + self.random.below(100);
        // Some at once, as pipelining clients do, some one after the other.
        let pipelined = self.random.one_in(4);
        let first = self.sequence;
        self.sequence += requests;
        let lines: Vec<String> = (first..self.sequence)
            .map(|number| format!("{}.{number}", self.number))
            .collect();
        if pipelined {
            held.say(&lines.join("\n"))
                .unwrap_or_else(|error| panic!("h{host}: sending: {error}"));
        }
        for line in &lines {
            if !pipelined {
                held.say(line)
                    .unwrap_or_else(|error| panic!("h{host}: sending {line}: {error}"));
            }
            let answer = held
                .hear()
                .unwrap_or_else(|error| panic!("h{host}: {line} is not answered: {error}"));
            assert!(
                answer.starts_with(&format!("{line} host=h{host} ")),
                "asked {line} of h{host}: {answer}"
            );
        }
        if self.random.one_in(3) {
            self.kept.push((host, held));
        } else {
            leave(host, held);
        }
        requests
    }

    fn pause(&mut self) {
        std::thread::sleep(match self.random.below(10) {
            0 => self
                .random
                .between(Duration::from_millis(50), Duration::from_millis(400)),
            1..4 => Duration::ZERO,
            _ => self.random.between(Duration::ZERO, Duration::from_millis(70)),
        });
    }
}

/// Ends a connection: after the last answer there is nothing more to come.
fn leave(host: usize, held: Held) {
    held.stream().shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    held.into_reader()
        .read_to_end(&mut rest)
        .unwrap_or_else(|error| panic!("h{host}: at its end: {error}"));
    assert!(
        rest.is_empty(),
        "h{host} answered twice: {:?}",
        String::from_utf8_lossy(&rest)
    );
}

#[test]
fn a_storm_of_requests_over_sleepers_that_come_and_go_is_answered() {
    let project = Project::up("storm", &compose());
    let watch = project.watch();
    let hosts = project.ps();
    let addresses: Vec<SocketAddr> = (0..HOSTS)
        .map(|number| (hosts[&format!("h{number}")].address, 8080).into())
        .collect();
    let mut random = Random::new(Random::seed());
    let (done, began) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = Client {
                number,
                random: Random::new(random.below(u64::MAX)),
                addresses: &addresses,
                kept: Vec::new(),
                sequence: 0,
            };
            let done = &done;
            scope.spawn(move || {
                while done.load(Ordering::Relaxed) < REQUESTS {
                    done.fetch_add(client.visit(), Ordering::Relaxed);
                    client.pause();
                }
                for (host, held) in client.kept {
                    leave(host, held);
                }
            });
        }
    });
    let (requests, took) = (done.load(Ordering::Relaxed), began.elapsed());
    // The last to be ended is quiet by now: all events are there.
    for number in (0..HOSTS).filter(|number| is_terminated(*number)) {
        project.wait_state(&format!("h{number}"), "imaginary");
    }
    let events = watch.events();
    let count = |kind: &str| events.iter().filter(|event| event.event == kind).count();
    eprintln!(
        "{requests} requests in {took:?}: {}",
        ["boot", "suspend", "wake", "tick", "terminate", "exit"]
            .map(|kind| format!("{kind} {}", count(kind)))
            .join(", ")
    );
    for (kind, least) in AT_LEAST {
        assert!(count(kind) >= least, "'{kind}' happened {} times only", count(kind));
    }
    assert_eq!(count("fail"), 0);
}
