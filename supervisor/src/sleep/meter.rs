//! The resources used by a host: CPU time, and memory over time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use imsup_wire::Usage;

use super::tree::ProcessTree;
use imsup_linux::{cpu, pageout};

/// The account of one run of a host's program.
#[derive(Debug)]
pub struct Meter {
    last: HashMap<i32, Duration>,
    /// The CPU time of processes that are gone.
    gone: Duration,
    memory_byte_ms: u128,
    resident_bytes: u64,
    sampled: Instant,
    /// The CPU time when the host was suspended.
    when_suspended: Duration,
}

impl Meter {
    /// An account that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            last: HashMap::new(),
            gone: Duration::ZERO,
            memory_byte_ms: 0,
            resident_bytes: 0,
            sampled: now,
            when_suspended: Duration::ZERO,
        }
    }

    /// Reads the resources used by each of these processes, and adds the values to the account.
    pub fn sample(&mut self, now: Instant, pids: &[i32]) -> Vec<(i32, Duration)> {
        let cpu: Vec<_> = pids
            .iter()
            .filter_map(|pid| Some((*pid, cpu::process_cpu(*pid)?)))
            .collect();
        let next: HashMap<i32, Duration> = cpu.iter().copied().collect();
        for (pid, used) in &self.last {
            if next.get(pid).is_none_or(|now| now < used) {
                self.gone += *used;
            }
        }
        self.last = next;
        self.measure_memory(now, pids);
        cpu
    }

    /// Reads the memory size of the processes. The size of the last look counts until now.
    pub fn measure_memory(&mut self, now: Instant, pids: &[i32]) {
        let elapsed = now.saturating_duration_since(self.sampled);
        self.memory_byte_ms += self.since_sample(elapsed);
        self.sampled = now;
        self.resident_bytes = pids.iter().map(|pid| pageout::resident(*pid)).sum();
    }

    fn since_sample(&self, elapsed: Duration) -> u128 {
        u128::from(self.resident_bytes) * elapsed.as_micros() / 1000
    }

    /// The resources used until now.
    pub fn usage(&self, now: Instant, tree: &ProcessTree) -> Usage {
        self.usage_of(now, tree.cpu().unwrap_or_default())
    }

    /// The resources used until the suspension of a host.
    pub fn usage_suspended(&mut self, now: Instant, tree: &ProcessTree) -> Usage {
        let usage = self.usage(now, tree);
        self.when_suspended = usage.cpu;
        usage
    }

    /// The resources used until the wake. No value is read, since a reading takes as long as the
    /// wake.
    pub fn usage_woken(&self, now: Instant) -> Usage {
        self.usage_of(now, self.when_suspended)
    }

    fn usage_of(&self, now: Instant, accounted: Duration) -> Usage {
        let seen = self.gone + self.last.values().sum::<Duration>();
        Usage {
            cpu: accounted.max(seen),
            memory_byte_ms: self.memory_byte_ms + self.since_sample(now.saturating_duration_since(self.sampled)),
            resident_bytes: self.resident_bytes,
        }
    }
}
