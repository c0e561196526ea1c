//! A process's holdings: memory, descriptors, threads.

use std::fs;
use std::time::{Duration, Instant};

use super::LIMIT;

/// Descriptors that may come and go: sockets for the next questions to a name server, as many of
/// each family (`resolvers::MOST`), and where `IMSUP_WITHOUT` has the supervisor keep copies of the
/// program's sockets, which it sweeps up once there are 64 more (`mirror::FEW`), or an eighth of
/// the descriptors that the program has.
fn mirrored() -> usize {
    let without = std::env::var("IMSUP_WITHOUT").unwrap_or_default();
    let stock = 2 * 16;
    stock + if without.contains("pidfd_getfd") { 128 } else { 0 }
}

/// The holdings of a process.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    /// Memory that is no file's, in bytes: heap and stacks.
    anonymous: u64,
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup (Linux 4.14)");
        let field = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kilobytes = field
            .and_then(|field| field.split_whitespace().next())
            .expect("Anonymous");
        let entries = |kind: &str| fs::read_dir(format!("/proc/{pid}/{kind}")).unwrap().count();
        Self {
            anonymous: kilobytes.parse::<u64>().unwrap() * 1024,
            descriptors: entries("fd"),
            threads: entries("task"),
        }
    }
}

/// One process, and its first holdings.
pub struct Observed {
    name: &'static str,
    pid: u32,
    before: Holdings,
}

impl Observed {
    pub fn start(name: &'static str, pid: u32) -> Self {
        let before = Holdings::of(pid);
        eprintln!("{name}: {before:?}");
        Self { name, pid, before }
    }

    /// Fails if the process holds more than before, apart from this many bytes.
    ///
    /// A pending call whose caller was killed is noticed within a tick: descriptors are awaited;
    /// a leak stays.
    #[track_caller]
    pub fn expect_no_more(&self, after: &str, bytes: u64) {
        self.expect_no_more_in(self.pid, after, bytes);
    }

    /// The same for a process that has taken its place.
    #[track_caller]
    pub fn expect_no_more_in(&self, pid: u32, after: &str, bytes: u64) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = Holdings::of(pid);
            let grown = now.anonymous.saturating_sub(self.before.anonymous);
            let same = now.descriptors <= self.before.descriptors + mirrored() && now.threads <= self.before.threads;
            if same && grown <= bytes {
                eprintln!("{} after {after}: {now:?}, {grown} bytes more", self.name);
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} after {after}: {now:?}, before: {:?}; {bytes} bytes more are allowed",
                self.name,
                self.before
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
