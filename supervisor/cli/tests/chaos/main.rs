//! Chaos. Clients ask, each request with an id of its own; servers write each id down before the
//! answer. Meanwhile imsup's processes and programs are killed, stopped and continued, hosts
//! suspended, ended and restarted, and the disk filled.
//!
//! Every answered request is written, once; no request hangs; and a failed request had been
//! accepted by a program that was ended. Afterwards imsup is as before. `IMSUP_TEST_SEED` repeats a
//! run's faults (not their instants), `IMSUP_CHAOS_FAULTS` sets their number, `IMSUP_CHAOS_ONLY`
//! their kinds (`KillBroker,Stop`), `IMSUP_CHAOS_KEEP` the place for the servers' files of a failed
//! run.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod faults;
mod ledger;
mod pace;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use clients::{Broken, Client, GuestClient, Shared};
use common::holdings::Observed;
use common::random::Random;
use common::{Project, client, wait_until};
use disk::Disk;
use faults::{Chaos, published, sockets_of};
use ledger::Ledger;
use pace::Pace;
use verdict::{Loss, Outcome, Request, Route, World};

/// `steady` is not harmed by processes that stop for a while, and shows that the others work on.
const COMPOSE: &str = r#"
x-imsup: { idle_after: 20ms }
services:
  steady: { command: ["@guests@/ledger", serve, epoll, "8080", "@dir@/steady"], expose: ["8080"], x-imsup: { idle_after: never } }
  web: { command: ["@guests@/ledger", serve, epoll, "8080", "@dir@/web"], ports: ["127.0.0.1::8080"] }
  back: { command: ["@guests@/ledger", serve, threads, "8080", "@dir@/back"], expose: ["8080"], x-imsup: { terminate_after: 50ms } }
  brief: { command: ["@guests@/ledger", serve, threads, "8080", "@dir@/brief"], expose: ["8080"], x-imsup: { idle_after: 10ms, terminate_after: 0s } }
  front: { command: ["@guests@/ledger", forward, "8080", "@dir@/front", back, "8080"], expose: ["8080"] }
  musl: { command: ["@guests@/ledger-musl", forward, "8080", "@dir@/musl", web, "8080"], expose: ["8080"], x-imsup: { terminate_after: 50ms } }
  idler: { command: ["@guests@/ledger", serve, epoll, "8080", "@dir@/idler"], expose: ["8080"], x-imsup: { idle_after: never } }
"#;

const HARMED: [&str; 5] = ["web", "back", "brief", "front", "musl"];
const TERMINATED: [&str; 3] = ["back", "brief", "musl"];
const ALL: [&str; 7] = ["steady", "web", "back", "brief", "front", "musl", "idler"];

/// The clients that are threads: their host, whether they keep connections, and their longest rest
/// in milliseconds.
const CLIENTS: [(&str, bool, u64); 11] = [
    ("steady", true, 5),
    ("steady", false, 5),
    ("web", true, 20),
    ("web", false, 5),
    ("back", true, 20),
    ("back", false, 60),
    ("brief", false, 80),
    ("front", true, 20),
    ("front", false, 60),
    ("musl", false, 80),
    ("musl", true, 80),
];

/// Clients that run as hosts.
const GUESTS: [(&str, &[&str]); 3] = [("back", &["run"]), ("front", &["run"]), ("web", &["exec", "idler"])];

/// imsup's processes while no program runs.
const PROCESSES: [&str; 4] = ["broker", "keeper", "resolvers", "zygote"];

const FAULTS: u64 = 20;

#[test]
fn what_is_answered_is_written_and_what_fails_was_accepted_by_a_program_that_ended() {
    let Some(disk) = Disk::own() else { return };
    let mut random = Random::new(Random::seed());
    let project = Project::new("chaos", COMPOSE);
    std::os::unix::fs::symlink(disk.path(), project.path("state")).unwrap();
    project.ok(&["up", "-d"]);
    let next = BTreeMap::from([("front", "back"), ("musl", "web")]);
    let shared = Shared::new(published(&project, "web"));

    warm_up(&project);
    settle(&project);
    let first_broker = project.broker();
    let before = Observed::start("the broker", first_broker);
    let keeper = Observed::start("the keeper", project.keeper());

    let clients = clients(&shared, &project, &mut random);
    let guests = guests(&shared, &project);
    let mut chaos = Chaos {
        project: &project,
        shared: &shared,
        disk: &disk,
        hosts: &HARMED,
        all: &ALL,
        terminated: &TERMINATED,
        steady: vec![0, 1],
        kept: sockets_of(project.keeper()),
        random,
        pace: Pace::default(),
        losses: Mutex::default(),
        counts: BTreeMap::new(),
    };
    let Seen { requests, broken, went } = harm(&mut chaos, clients, guests);
    eprintln!(
        "{} requests: {:?}; done, and nothing to do it to: {:?}",
        requests.len(),
        summary(&requests),
        chaos.counts
    );
    let losses = chaos.losses.into_inner().unwrap();
    let ledgers: BTreeMap<_, _> = ALL.map(|host| (host, Ledger::read(&project.path(host)))).into();
    let world = World {
        ledgers: &ledgers,
        next: &next,
        losses: &losses,
    };
    let mut faults: Vec<String> = went.err().into_iter().collect();
    faults.extend(verdict::judge(&world, &requests));
    faults.extend(broken.iter().filter_map(|broken| unexcused(broken, &losses)));
    if let (false, Ok(directory)) = (faults.is_empty(), std::env::var("IMSUP_CHAOS_KEEP")) {
        for host in ALL {
            std::fs::copy(project.path(host), format!("{directory}/{host}.ledger")).unwrap();
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults: {:#?}\nlosses: {losses:#?}",
        faults.len(),
        &faults[..faults.len().min(20)]
    );

    warm_up(&project);
    settle(&project);
    let broker = project.broker();
    if broker == first_broker {
        before.expect_no_more("chaos", MEMORY_BYTES);
    } else {
        before.expect_no_more_in(broker, "chaos", MEMORY_BYTES);
    }
    keeper.expect_no_more_in(project.keeper(), "chaos", MEMORY_BYTES);
    project.down();
}

/// The clients that are threads of the test.
fn clients<'a>(shared: &'a Shared, project: &Project, random: &mut Random) -> Vec<Client<'a>> {
    let hosts = project.ps();
    let direct = CLIENTS.map(|(host, keeps, rest)| (host, keeps, rest, Route::Direct));
    let published = [true, false].map(|keeps| ("web", keeps, 20, Route::Published));
    let all = direct.into_iter().chain(published);
    all.map(|(host, keeps, rest, route)| Client {
        number: shared.register(),
        shared,
        host,
        route,
        address: (hosts[host].address, 8080).into(),
        keeps,
        rest: Duration::from_millis(rest),
        random: Random::new(random.below(u64::MAX)),
    })
    .collect()
}

/// The clients that run as hosts.
fn guests<'a>(shared: &'a Shared, project: &'a Project) -> Vec<GuestClient<'a>> {
    let client = |(host, by)| GuestClient {
        number: shared.register(),
        shared,
        project,
        host,
        by,
    };
    GUESTS.map(client).into()
}

/// The clients' observations, and whether all faults were done.
struct Seen {
    requests: Vec<Request>,
    broken: Vec<Broken>,
    went: Result<(), String>,
}

/// Has clients ask while harm is done.
fn harm(chaos: &mut Chaos, clients: Vec<Client>, guests: Vec<GuestClient>) -> Seen {
    let shared = chaos.shared;
    let (mut requests, mut broken) = (Vec::new(), Vec::new());
    let went = std::thread::scope(|scope| {
        let clients = clients.into_iter().map(|client| scope.spawn(move || client.work()));
        let clients: Vec<_> = clients.collect();
        let guests = guests.into_iter().map(|guest| scope.spawn(move || guest.work()));
        let guests: Vec<_> = guests.collect();
        // The clients end in any case.
        let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| chaos.go(how_many())));
        shared.stop();
        for client in clients {
            requests.extend(client.join().unwrap());
        }
        for guest in guests {
            let (asked, failed) = guest.join().unwrap();
            requests.extend(asked);
            broken.extend(failed);
        }
        went
    });
    Seen {
        requests,
        broken,
        went: went.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// The memory that a broker may have gathered: its events (`endurance.rs`), and malloc(3)'s
/// reserve.
const MEMORY_BYTES: u64 = 8 << 20;

fn how_many() -> u64 {
    let given = std::env::var("IMSUP_CHAOS_FAULTS").ok();
    given.map_or(FAULTS, |text| text.parse().expect("IMSUP_CHAOS_FAULTS is a number"))
}

/// Boots every host once, and has names looked up: imsup starts a process for that when there is
/// the first question.
#[track_caller]
fn warm_up(project: &Project) {
    for host in ALL {
        let answer = client::ask_line(project.at(host, 8080), &format!("warm-up.{host}")).unwrap();
        assert!(!answer.contains("failed"), "{answer}");
    }
}

/// Ends all programs; imsup's own processes are there as before.
#[track_caller]
fn settle(project: &Project) {
    project.ok(&["stop"]);
    // The leftovers of a supervisor, held by a process that outlives it, are gone after some 20 ms.
    let mut present = Vec::new();
    wait_until("all but imsup's own processes to end", || {
        let before = std::mem::replace(&mut present, kinds(project));
        if present != before {
            eprintln!("of the project's processes these are left: {present:?}");
        }
        present == PROCESSES
    });
}

/// The kinds of imsup's processes that run now.
fn kinds(project: &Project) -> Vec<String> {
    let processes = project.processes().into_iter();
    let mut kinds: Vec<String> = processes
        .map(|process| process.command.split(' ').nth(1).unwrap_or_default().to_owned())
        .collect();
    kinds.sort();
    kinds
}

fn summary(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut summary = BTreeMap::new();
    for request in requests {
        let kind = match &request.outcome {
            Outcome::Answered { .. } => "answered".to_owned(),
            Outcome::NextFailed { error, .. } => format!("next: {error}"),
            Outcome::Failed(error) => error.clone(),
            Outcome::Hung => "hung".to_owned(),
        };
        *summary.entry(kind).or_default() += 1;
    }
    summary
}

/// A running guest ends for the same reasons as its host.
fn unexcused(broken: &Broken, losses: &[Loss]) -> Option<String> {
    let mut meanwhile = losses
        .iter()
        .filter(|loss| loss.begin <= broken.end && broken.begin <= loss.end);
    let excused = meanwhile.any(|loss| broken.identity.is_some_and(|host| loss.hosts.contains(&host)));
    (!excused).then(|| broken.why.clone())
}
