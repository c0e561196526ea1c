//! Many clients at the same moment, each at a host of its own.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::nanoseconds;
use super::server::Client;

/// The times from the common start until each client has its reply, shortest first.
///
/// # Errors
/// A client has none.
pub fn at_once(clients: &mut [Client<'_>]) -> Result<Vec<u64>> {
    woken_at_once(clients, || Ok(()))
}

/// The same if the servers must be woken by a command, which begins at the common start.
///
/// # Errors
/// A client has no reply, or the servers could not be woken.
pub fn woken_at_once(clients: &mut [Client<'_>], wake: impl FnOnce() -> Result<()>) -> Result<Vec<u64>> {
    let barrier = Barrier::new(clients.len() + 1);
    let barrier = &barrier;
    let (start, woken, ends) = thread::scope(|scope| {
        let ask = |client: &mut Client<'_>| {
            barrier.wait();
            client.reply(Instant::now())?;
            anyhow::Ok(Instant::now())
        };
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(move || ask(client)))
            .collect();
        let start = Instant::now();
        barrier.wait();
        let woken = wake();
        let ends: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (start, woken, ends)
    });
    woken?;
    let mut times = Vec::with_capacity(ends.len());
    for end in ends {
        let end = end.map_err(|_| anyhow!("a client panicked"))??;
        times.push(nanoseconds(end - start));
    }
    times.sort_unstable();
    Ok(times)
}

/// The value that 95 % do not exceed.
pub fn p95(sorted: &[u64]) -> u64 {
    let rank = (sorted.len() * 95).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_95th_of_a_hundred_is_the_95th() {
        let times: Vec<u64> = (1..=100).collect();
        assert_eq!(p95(&times), 95);
        assert_eq!(p95(&times[..10]), 10);
        assert_eq!(p95(&[]), 0);
    }
}
