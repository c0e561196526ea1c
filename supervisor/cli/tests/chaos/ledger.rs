//! The notes of the guest `ledger`: its generations (one per start), its accepted connections, and
//! the ids of requests.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::path::Path;

/// CLOCK_MONOTONIC in nanoseconds.
pub type Instant = u64;

/// The present time, comparable with the guest's.
pub fn now() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One start of a host's program.
#[derive(Debug)]
pub struct Generation {
    pub pid: u32,
    pub first: Instant,
    pub last: Instant,
    /// The start of the next generation; the end of time for the latest.
    pub next: Instant,
    /// Threads that were about to accept, by their ids: each may have accepted a connection without
    /// a note.
    accepting: HashMap<u32, Instant>,
}

impl Generation {
    /// The most connections that may have been accepted without a note.
    pub fn may_have_accepted(&self) -> usize {
        self.accepting.len()
    }
}

/// A connection that a generation accepted.
#[derive(Debug)]
pub struct Accepted {
    pub generation: usize,
    pub at: Instant,
}

/// The file of one host.
#[derive(Debug, Default)]
pub struct Ledger {
    pub generations: Vec<Generation>,
    pub accepted: HashMap<Option<SocketAddrV4>, Vec<Accepted>>,
    /// The process that wrote each id, as often as the id was written.
    pub ids: HashMap<String, Vec<u32>>,
}

impl Ledger {
    /// Reads a file; none is there before the host's first boot.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut ledger = Self::default();
        let mut current: HashMap<u32, usize> = HashMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (pid, at) = match words[..] {
                [_, pid, at, ..] => (pid.parse().unwrap(), at.parse().unwrap()),
                _ => panic!("a line of a ledger: '{line}'"),
            };
            if words[0] == "listening" {
                current.insert(pid, ledger.generations.len());
                if let Some(before) = ledger.generations.last_mut() {
                    before.next = at;
                }
                ledger.generations.push(Generation {
                    pid,
                    first: at,
                    last: at,
                    next: Instant::MAX,
                    accepting: HashMap::new(),
                });
                continue;
            }
            let number = *current
                .get(&pid)
                .unwrap_or_else(|| panic!("{pid} did not listen: '{line}'"));
            let generation = &mut ledger.generations[number];
            generation.last = generation.last.max(at);
            let thread = || words[3].parse::<u32>().unwrap();
            match words[0] {
                "accepting" => {
                    generation.accepting.insert(thread(), at);
                }
                "declined" => {
                    generation.accepting.remove(&thread());
                }
                "accepted" => {
                    generation.accepting.remove(&thread());
                    let peer = words[4].parse().ok();
                    ledger
                        .accepted
                        .entry(peer)
                        .or_default()
                        .push(Accepted { generation: number, at });
                }
                "id" => ledger.ids.entry(words[3].to_owned()).or_default().push(pid),
                _ => panic!("a line of a ledger: '{line}'"),
            }
        }
        ledger
    }
}
