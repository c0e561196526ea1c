//! SIGINT and SIGTERM: every wait of the benchmarks ends with an error, and on the way out
//! everything is cleaned up.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

static PIPE: OnceLock<UnixStream> = OnceLock::new();

/// Has both signals noted from now on.
///
/// # Errors
/// No socket pair can be made.
pub fn install() -> Result<()> {
    let (read, write) = UnixStream::pair().context("making a pipe for signals")?;
    signal_hook::low_level::pipe::register(SIGINT, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, write)?;
    // Never read: after a signal it stays readable, and every later wait ends too.
    let _ = PIPE.set(read);
    Ok(())
}

/// An error after a signal.
///
/// # Errors
/// A signal came.
pub fn check() -> Result<()> {
    wait(None, Duration::ZERO).map(drop)
}

/// Waits until `fd` is readable or hung up: true, or `timeout` is over: false.
///
/// # Errors
/// A signal came.
pub fn readable(fd: impl AsFd, timeout: Duration) -> Result<bool> {
    wait(Some(fd.as_fd()), timeout)
}

/// Waits for `duration`.
///
/// # Errors
/// A signal came.
pub fn pause(duration: Duration) -> Result<()> {
    wait(None, duration).map(drop)
}

/// Waits until `fd` is readable, despite signals: for cleaning up after a signal.
pub fn readable_regardless(fd: impl AsFd, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.is_ok_and(|count| count > 0),
        }
    }
}

fn wait(fd: Option<std::os::fd::BorrowedFd<'_>>, timeout: Duration) -> Result<bool> {
    let deadline = Instant::now() + timeout;
    let mut polled = Vec::with_capacity(2);
    if let Some(pipe) = PIPE.get() {
        polled.push(PollFd::new(pipe, PollFlags::IN));
    }
    let signals = polled.len();
    if let Some(fd) = fd {
        polled.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a time-out that is too long")?;
        match poll(&mut polled, Some(&left)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno).context("waiting"),
        }
        if polled.iter().take(signals).any(|pipe| !pipe.revents().is_empty()) {
            bail!("interrupted");
        }
        return Ok(polled.iter().skip(signals).any(|fd| !fd.revents().is_empty()));
    }
}
