//! Every event that would have made one of its threads runnable wakes a sleeper, and no other event
//! does.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::{self, PersistentConnection, ask_datagram};
use common::random::Random;
use common::watch::Watch;
use common::{AS_IN_A_CONTAINER, Event, LIMIT, Project, control, wait_until};
use rustix::net::sockopt;

const KINDS: [&str; 13] = [
    "edge", "oneshot", "nested", "prefork", "accept", "fork", "threads", "pool", "poll", "select", "sigio", "splice",
    "musl",
];

/// A host for each kind of server, named after it.
fn every_kind(idle_after: &str) -> String {
    let mut compose = format!("x-imsup: {{ idle_after: {idle_after} }}\nservices:\n");
    for kind in KINDS {
        let program = match kind {
            "musl" => "@guests@/servers-musl, edge",
            _ => &format!("@guests@/servers, {kind}"),
        };
        compose += &format!("  {kind}: {{ command: [{program}, \"8080\"], expose: [\"8080\"] }}\n");
    }
    compose
}

/// The causes of a host's wakes, in order: kind, sender, port.
fn woken(watch: &Watch, host: &str) -> Vec<(String, String, u64)> {
    let wakes = watch.of(host, "wake");
    wakes
        .into_iter()
        .map(|event| {
            let port = event.json["port"].as_u64().unwrap_or(0);
            (event.cause.unwrap_or_default(), event.by.unwrap_or_default(), port)
        })
        .collect()
}

/// They sleep by order, each once its client has been answered: a client that is delayed between
/// its connect and its request would wake a host twice that had fallen asleep by itself in between.
#[test]
fn each_kind_of_server_wakes_on_its_own_signals_and_on_no_others() {
    wake_on_their_own_signals("kinds", &[]);
}

#[test]
fn they_do_where_their_threads_hand_descriptors_over() {
    wake_on_their_own_signals("kinds-handed", &AS_IN_A_CONTAINER);
}

fn wake_on_their_own_signals(label: &str, variables: &[(&str, &str)]) {
    let project = Project::up_with(label, &every_kind("1h"), variables);
    let watch = project.watch();
    let hosts = project.ps();
    let address = |kind: &str| SocketAddr::from((hosts[kind].address, 8080));
    let suspend = |kind: &str| control::suspend(&project, kind).unwrap_or_else(|why| panic!("{kind}: {why}"));
    let mut held: BTreeMap<&str, PersistentConnection> = KINDS
        .into_iter()
        .map(|kind| {
            let mut held = PersistentConnection::connect(address(kind));
            held.ask("first");
            (kind, held)
        })
        .collect();
    for kind in KINDS {
        suspend(kind);
    }
    for kind in KINDS {
        held.get_mut(kind).unwrap().ask("held");
        watch.wait(kind, "wake", 1);
    }
    let mut later = Vec::new();
    for kind in KINDS {
        suspend(kind);
        let mut new = PersistentConnection::connect(address(kind));
        new.ask("new");
        later.push(new);
        watch.wait(kind, "wake", 2);
    }
    // No host was woken for another one meanwhile, nor is by falling asleep.
    for kind in KINDS {
        suspend(kind);
        watch.wait(kind, "suspend", 3);
    }
    let hosts = project.ps();
    for (kind, new) in KINDS.into_iter().zip(&later) {
        let expected = [
            ("data".to_owned(), held[kind].local(), 8080),
            ("connection".to_owned(), new.local(), 8080),
        ];
        assert_eq!(woken(&watch, kind), expected, "{kind}");
        let host = &hosts[kind];
        assert_eq!((host.state.as_str(), host.boots), ("suspended", 1), "{kind}");
        assert_eq!(host.json["wakes"], 2, "{kind}");
    }
}

/// Both ends of file and resets are signals, and the server's own end arrives at once: imsup keeps
/// no duplicate.
#[test]
fn an_end_of_file_and_a_reset_wake() {
    let project = Project::up("ends", &every_kind("100ms"));
    let watch = project.watch();
    let hosts = project.ps();
    // The SIGIO server learns of an end by the same signal as of data, `splice` has no buffer of
    // its own: all must see it.
    let mut closing = Vec::new();
    for kind in KINDS {
        let mut held = PersistentConnection::connect((hosts[kind].address, 8080).into());
        held.ask("first");
        let mut reset = PersistentConnection::connect((hosts[kind].address, 8080).into());
        reset.ask("first");
        closing.push((kind, held, reset));
    }
    for (kind, held, reset) in closing {
        let wakes = watch.asleep(&project, kind);
        let local = held.local();
        held.stream().shutdown(Shutdown::Write).unwrap();
        held.expect_end();
        let wake = watch.wait(kind, "wake", wakes + 1);
        assert_eq!(wake.cause.as_deref(), Some("data"), "{kind}");
        assert_eq!(wake.by, Some(local), "{kind}");
        let wakes = watch.asleep(&project, kind);
        sockopt::set_socket_linger(reset.stream(), Some(Duration::ZERO)).unwrap();
        drop(reset);
        let wake = watch.wait(kind, "wake", wakes + 1);
        assert_eq!(wake.cause.as_deref(), Some("data"), "{kind}");
    }
}

/// A server that waits for its client to read sleeps, too, and room in the socket's buffer wakes
/// it. A server that is blocked in write(2) does not sleep: the call would return early.
#[test]
fn a_blocked_writer_sleeps_and_goes_on_when_its_client_reads() {
    const BYTES: usize = 30_000_000;
    let sleepers = ["edge", "oneshot", "prefork", "pool", "poll", "select"];
    let blocked = ["fork", "threads"];
    let project = Project::up("writers", &every_kind("100ms"));
    let watch = project.watch();
    let hosts = project.ps();
    let mut writers: Vec<(&str, TcpStream)> = sleepers
        .into_iter()
        .chain(blocked)
        .map(|kind| {
            let mut stream = client::connect((hosts[kind].address, 8080).into()).unwrap();
            writeln!(stream, "big {BYTES}").unwrap();
            (kind, stream)
        })
        .collect();
    for kind in sleepers {
        watch.wait(kind, "suspend", 1);
    }
    for kind in blocked {
        wait_until("why to say that it writes", || {
            project.ok(&["why", kind]).contains("in the middle of a transfer")
        });
        // The host may have slept before the request came.
        assert_eq!(project.host(kind).state, "running", "{kind}");
    }
    for (kind, stream) in &mut writers {
        let mut all = vec![0; BYTES];
        stream
            .read_exact(&mut all)
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert!(all.iter().all(|byte| *byte == b'x'), "{kind}");
        let line = client::talk(stream, "after").unwrap();
        assert!(line.starts_with(&format!("big {BYTES} host={kind}")), "{line}");
        if sleepers.contains(kind) {
            assert_eq!(watch.wait(kind, "wake", 1).cause.as_deref(), Some("data"), "{kind}");
        } else {
            watch.wait(kind, "suspend", 1);
        }
    }
}

/// Suspends and resumes a host at random instants until dropped.
struct Orders<'a> {
    done: &'a AtomicBool,
}

impl Drop for Orders<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

fn order_at_random(project: &Project, host: &str, mut random: Random, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        // An order is refused while a request is being answered, and if a request comes first.
        let _ = control::suspend(project, host);
        std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(2)));
        if random.one_in(4) {
            control::resume(project, host).expect("a host that runs or sleeps can be resumed");
        }
    }
}

/// Waits until this host was woken more often than `times`. Events may come later than the answers
/// that they led to.
#[track_caller]
fn expect_often(watch: &Watch, host: &str, cause: &str, times: usize) {
    watch.wait_for(&format!("more than {times} wakes of {host} by {cause}"), |events| {
        (wakes_by(events, host, cause) > times).then_some(())
    });
    eprintln!("{host}: {} wakes", watch.count(host, "wake"));
}

fn wakes_by(events: &[Event], host: &str, cause: &str) -> usize {
    let wakes = events.iter().filter(|event| event.is(host, "wake"));
    wakes.filter(|wake| wake.cause.as_deref() == Some(cause)).count()
}

/// Rounds of a race.
const ROUNDS: usize = 200;

/// The most rounds, if orders to sleep are slow to come (a busy machine).
const MOST_ROUNDS: usize = 20 * ROUNDS;

/// True while a race goes on: for [`ROUNDS`] rounds, and until the host was woken often in it.
fn goes_on(round: usize, watch: &Watch, host: &str, cause: &str) -> bool {
    round < ROUNDS || (round < MOST_ROUNDS && wakes_by(&watch.events(), host, cause) <= ROUNDS / 10)
}

const RACERS: [&str; 8] = [
    "edge", "prefork", "threads", "poll", "pool", "oneshot", "nested", "musl",
];

/// Clients that send at random instants around a suspend: before the check, in between, after it.
#[test]
fn a_byte_at_any_instant_of_a_suspend_is_answered() {
    const CLIENTS: usize = 2;
    let project = Project::up("race", &every_kind("1h"));
    let watch = project.watch();
    let hosts = project.ps();
    let mut random = Random::new(Random::seed());
    for kind in RACERS {
        let address: SocketAddr = (hosts[kind].address, 8080).into();
        let mut held: Vec<PersistentConnection> =
            (0..CLIENTS).map(|_| PersistentConnection::connect(address)).collect();
        held[0].ask("boot");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let orders = Random::new(random.below(u64::MAX));
            scope.spawn(|| order_at_random(&project, kind, orders, &done));
            let ordering = Orders { done: &done };
            std::thread::scope(|scope| {
                for one in &mut held {
                    let (mut random, watch) = (Random::new(random.below(u64::MAX)), &watch);
                    scope.spawn(move || {
                        for round in (0..).take_while(|round| goes_on(*round, watch, kind, "data")) {
                            one.ask(&format!("round {round}"));
                            std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(20)));
                        }
                    });
                }
            });
            drop(ordering);
        });
        expect_often(&watch, kind, "data", ROUNDS / 10);
        assert_eq!(project.host(kind).boots, 1, "{kind}");
    }
}

#[test]
fn a_connection_at_any_instant_of_a_suspend_is_answered() {
    let project = Project::up("race-new", &every_kind("1h"));
    let watch = project.watch();
    let hosts = project.ps();
    let mut random = Random::new(Random::seed());
    for kind in ["prefork", "accept", "fork", "threads", "edge"] {
        let address: SocketAddr = (hosts[kind].address, 8080).into();
        PersistentConnection::connect(address).ask("boot");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let orders = Random::new(random.below(u64::MAX));
            scope.spawn(|| order_at_random(&project, kind, orders, &done));
            let ordering = Orders { done: &done };
            for round in (0..).take_while(|round| goes_on(*round, &watch, kind, "connection")) {
                PersistentConnection::connect(address).ask(&format!("round {round}"));
                std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(20)));
            }
            drop(ordering);
        });
        expect_often(&watch, kind, "connection", ROUNDS / 10);
        assert_eq!(project.host(kind).boots, 1, "{kind}");
    }
}

/// While a program's family is unknown, accept(2) is trapped: a host that is ordered to sleep
/// meanwhile does not sleep in that call.
#[test]
fn who_boots_a_host_that_is_to_sleep_is_answered() {
    const HOSTS: usize = 48;
    let hosts: Vec<String> = (0..HOSTS).map(|number| format!("h{number}")).collect();
    let mut compose = "x-imsup: { idle_after: 1h }\nservices:\n".to_owned();
    for (host, kind) in hosts.iter().zip(["edge", "poll", "pool", "threads"].iter().cycle()) {
        // Families are learned by command and environment.
        compose += &format!(
            "  {host}: {{ command: [\"@guests@/servers\", {kind}, \"8080\"], environment: {{ NUMBER: \"{host}\" }}, expose: [\"8080\"] }}\n"
        );
    }
    let project = Project::up("first", &compose);
    let addresses = project.ps();
    for some in hosts.chunks(8) {
        std::thread::scope(|scope| {
            for host in some {
                let (done, project) = (AtomicBool::new(false), &project);
                let address = (addresses[host].address, 8080).into();
                scope.spawn(move || {
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            while !done.load(Ordering::Relaxed) {
                                // A host that sleeps in the middle of it is not woken.
                                let _ = control::suspend(project, host);
                            }
                        });
                        let orders = Orders { done: &done };
                        assert_eq!(PersistentConnection::connect(address).ask("boot").value("host"), *host);
                        drop(orders);
                    });
                });
            }
        });
    }
}

/// The same without orders: a host that falls asleep by itself, and a client that knows how long
/// that takes.
#[test]
fn a_byte_at_any_instant_of_falling_asleep_is_answered() {
    const ROUNDS: usize = 20;
    let project = Project::up("falling", &every_kind("50ms"));
    let watch = project.watch();
    let hosts = project.ps();
    let mut random = Random::new(Random::seed());
    std::thread::scope(|scope| {
        for kind in RACERS {
            let (mut random, watch) = (Random::new(random.below(u64::MAX)), &watch);
            let address = (hosts[kind].address, 8080).into();
            scope.spawn(move || {
                let mut held = PersistentConnection::connect(address);
                held.ask("boot");
                for round in 0..ROUNDS {
                    let wakes = watch.slept_again(kind, 0);
                    held.ask(&format!("asleep {round}"));
                    let answered = Instant::now();
                    watch.slept_again(kind, wakes + 1);
                    let takes = answered.elapsed();
                    held.ask(&format!("awake {round}"));
                    std::thread::sleep(random.between(takes * 3 / 4, takes * 5 / 4));
                    held.ask(&format!("falling asleep {round}"));
                }
            });
        }
    });
}

const DATAGRAMS: &str = r#"
x-imsup: { idle_after: 20ms }
services:
  time: { command: ["@guest@", --udp, "5353", --reply, echo], expose: ["5353/udp"] }
  other: { command: ["@guest@", --udp, "5353"], expose: ["5353/udp"] }
"#;

#[test]
fn a_datagram_wakes() {
    let project = Project::up("datagrams", DATAGRAMS);
    let watch = project.watch();
    let (address, other) = (project.at("time", 5353), project.at("other", 5353));
    ask_datagram(address);
    ask_datagram(other);
    watch.wait("other", "suspend", 1);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let mut random = Random::new(Random::seed());
    for round in 1..=100 {
        if round == 1 {
            watch.wait("time", "suspend", 1);
        } else {
            std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(60)));
        }
        let question = format!("datagram {round}\n");
        client.send_to(question.as_bytes(), address).unwrap();
        let mut buffer = [0; 100];
        let (count, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..count], from),
            (question.as_bytes(), address),
            "round {round}"
        );
    }
    let wake = watch.wait("time", "wake", 1);
    assert_eq!(wake.cause.as_deref(), Some("datagram"));
    assert_eq!(wake.by, Some(client.local_addr().unwrap().to_string()));
    assert_eq!(watch.count("other", "wake"), 0);
}

#[test]
fn a_published_port_wakes() {
    // An address of this process's own: a port of 127.0.0.1 that is free now may be taken when the
    // broker binds it.
    let [.., high, low] = std::process::id().to_be_bytes();
    let free = SocketAddr::from(([127, 88, high, low], 8080));
    let project = Project::up(
        "published",
        &format!(
            r#"
x-imsup: {{ idle_after: 50ms }}
services:
  web: {{ command: ["@guests@/servers", edge, "8080"], ports: ["{free}:8080"] }}
"#
        ),
    );
    let watch = project.watch();
    let mut held = PersistentConnection::connect(free);
    let pid = held.ask("first").pid();
    let wakes = watch.asleep(&project, "web");
    assert_eq!(
        held.ask("held").pid(),
        pid,
        "a relayed connection is held like any other"
    );
    let wake = watch.wait("web", "wake", wakes + 1);
    assert_eq!(wake.cause.as_deref(), Some("data"));
    let wakes = watch.asleep(&project, "web");
    assert_eq!(PersistentConnection::connect(free).ask("new").pid(), pid);
    let wake = watch.wait("web", "wake", wakes + 1);
    assert_eq!(wake.cause.as_deref(), Some("connection"));
}
