//! Batches of first replies.

use std::time::Instant;

use anyhow::Result;

use super::nanoseconds;
use super::server::Client;
use crate::rounds::Series;

/// A batch of replies: `before` is not timed, `wake` is.
///
/// # Errors
/// A step or a reply failed.
pub fn batch(
    name: &str,
    count: usize,
    client: &mut Client<'_>,
    mut before: impl FnMut() -> Result<()>,
    mut wake: impl FnMut() -> Result<()>,
) -> Result<Series> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        before()?;
        let start = Instant::now();
        wake()?;
        times.push(nanoseconds(client.reply(start)?));
    }
    Ok((name.to_owned(), times))
}

/// Runs a closure, and adds its time.
///
/// # Errors
/// It failed.
pub fn timed(times: &mut Vec<u64>, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    what()?;
    times.push(nanoseconds(start.elapsed()));
    Ok(())
}
