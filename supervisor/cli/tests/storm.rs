//! Sixty hosts that sleep as soon as they can, and clients that come, stay, pause and return at
//! random, over connections kept and short and by datagrams: whatever hosts do in between, every
//! request is answered, once.

mod common;

use std::io::Read;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::client::PersistentConnection;
use common::random::Random;
use common::{LIMIT, Project};

const HOSTS: usize = 60;
const CLIENTS: usize = 16;
const REQUESTS: u64 = 100_000;

/// Connections that a client keeps alive at most.
const KEPT: usize = 4;

/// The least number of frequent events; the real number is several times as high.
const AT_LEAST: [(&str, usize); 4] = [("suspend", 500), ("wake", 300), ("terminate", 50), ("boot", 100)];

const KINDS: [&str; 12] = [
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
    "servers, wide",
    "servers, datagrams",
];

/// Whether a host talks by datagrams.
fn has_datagrams(number: usize) -> bool {
    KINDS[number % KINDS.len()].ends_with("datagrams")
}

/// The times that hosts sleep before they are ended: three of the five of each kind are, two of
/// them nearly at once.
const TERMINATE_AFTER: [&str; 5] = ["200ms", "never", "20ms", "never", "0s"];

fn terminate_after(number: usize) -> &'static str {
    TERMINATE_AFTER[number / KINDS.len()]
}

fn is_terminated(number: usize) -> bool {
    terminate_after(number) != "never"
}

/// Every kind of server sleeps after 50 ms.
fn compose() -> String {
    let mut compose = "x-imsup: { idle_after: 50ms }\nservices:\n".to_owned();
    for number in 0..HOSTS {
        let (program, kind) = KINDS[number % KINDS.len()].split_once(", ").unwrap();
        let (expose, after) = match has_datagrams(number) {
            true => ("8080/udp", terminate_after(number)),
            false => ("8080", terminate_after(number)),
        };
        compose += &format!(
            "  h{number}: {{ command: [\"@guests@/{program}\", {kind}, \"8080\"], expose: [\"{expose}\"], x-imsup: {{ terminate_after: {after} }} }}\n"
        );
    }
    compose
}

/// One client: its connections, and its next step.
struct Client<'a> {
    number: usize,
    random: Random,
    addresses: &'a [SocketAddr],
    kept: Vec<(usize, PersistentConnection)>,
    sequence: u64,
}

impl Client<'_> {
    /// Asks a few times over one connection, kept or new, by datagrams, or over connections that
    /// are short; returns the number of requests.
    fn visit(&mut self) -> u64 {
        let host = self.random.below(HOSTS as u64) as usize;
        if has_datagrams(host) {
            return self.visit_by_datagrams(host);
        }
        if self.random.one_in(3) {
            return self.visit_shortly(host);
        }
        let (host, mut held) = if self.kept.len() == KEPT || (!self.kept.is_empty() && self.random.one_in(2)) {
            let index = self.random.below(self.kept.len() as u64) as usize;
            self.kept.swap_remove(index)
        } else {
            (host, PersistentConnection::connect(self.addresses[host]))
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

    /// The next line to ask.
    fn line(&mut self) -> String {
        self.sequence += 1;
        format!("{}.{}", self.number, self.sequence - 1)
    }

    /// Asks over a new connection each time, which ends with the answer.
    fn visit_shortly(&mut self, host: usize) -> u64 {
        let requests = 1 + self.random.below(5);
        for _ in 0..requests {
            let (line, mut held) = (self.line(), PersistentConnection::connect(self.addresses[host]));
            let answer = held.say(&line).and_then(|()| held.hear());
            let answer = answer.unwrap_or_else(|error| panic!("h{host}: {line} is not answered: {error}"));
            assert!(
                answer.starts_with(&format!("{line} host=h{host} ")),
                "asked {line}: {answer}"
            );
            leave(host, held);
        }
        requests
    }

    /// Asks by datagrams, one after the other.
    fn visit_by_datagrams(&mut self, host: usize) -> u64 {
        let requests = 1 + self.random.below(20);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = [0; 1024];
        for _ in 0..requests {
            let line = self.line();
            socket.send_to(line.as_bytes(), self.addresses[host]).unwrap();
            let (count, _) = socket
                .recv_from(&mut answer)
                .unwrap_or_else(|error| panic!("h{host}: datagram {line} is not answered: {error}"));
            let answer = String::from_utf8_lossy(&answer[..count]);
            assert!(
                answer.starts_with(&format!("{line} host=h{host} ")),
                "asked {line}: {answer}"
            );
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

/// Ends a connection: after the last answer no more bytes may come.
fn leave(host: usize, held: PersistentConnection) {
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
