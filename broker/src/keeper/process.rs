//! The keeper's process.
//!
//! Blocking: the keeper waits for its broker, for the end of a broker that it has killed, and
//! between two starts of one; it serves nobody else.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use imsup_protocol::version::{self, OURS};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::attempts::{Attempts, MOST, PERIOD};
use super::message::{self, Message, Together};
use crate::paths::Paths;
use crate::{own_program, watch};

/// The parameters of a keeper.
pub struct Keeper {
    /// The project's directories.
    pub paths: Paths,
    /// The path by which the next broker is to be known.
    pub executable: PathBuf,
    /// The arguments that start the next broker.
    pub arguments: Vec<OsString>,
    /// Makes the broker's log the standard error, after the death of the broker that had the log.
    pub log_to_file: fn(&Paths) -> io::Result<()>,
}

/// How a broker's connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The broker announced its end.
    Stopped,
    /// The broker died.
    Died,
    /// Another broker is to take the broker's place.
    HandedOver,
}

/// Holds the descriptors that the broker at the other end of this connection, and later brokers,
/// store. Starts the next broker after a broker's death, until a broker reports that the project is
/// down.
///
/// # Errors
/// The project has a keeper, or the connection to the broker fails.
pub fn keep(keeper: &Keeper, mut broker: OwnedFd) -> io::Result<()> {
    // Ctrl-C in a terminal is for the broker there, which ends orderly. Fails only for the leader
    // of a process group, which has a session of its own already.
    let _ = rustix::process::setsid();
    let mut lock = take_lock(&keeper.paths)?;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let mut store = Store::default();
    let mut attempts = Attempts::default();
    let mut child: Option<Child> = None;
    // If this fails the broker has ended, which is seen next.
    let _ = message::send(&broker, &Message::Hello(OURS), &[]);
    loop {
        let ended = store.serve(&broker, &mut attempts, || retake_lock(&mut lock, &keeper.paths))?;
        if ended == Ended::Stopped {
            return Ok(());
        }
        if let Err(error) = (keeper.log_to_file)(&keeper.paths) {
            tracing::debug!(%error, "the broker's log cannot be written");
        }
        if let Some(mut child) = child.take() {
            // The broker has closed the connection, so the broker ends; a broker stuck in the end
            // would hold the project's lock.
            let _ = child.kill();
            let _ = child.wait();
        }
        let pause = match ended {
            Ended::HandedOver => Some(Duration::ZERO),
            _ => attempts.next(Instant::now()),
        };
        let Some(pause) = pause else {
            tracing::error!(
                "the project's broker died more than {MOST} times within {} s, and is not started again: connections that waited are reset. \
                 'imsup up' brings the project up again, 'imsup down' takes away what is left",
                PERIOD.as_secs()
            );
            return Ok(());
        };
        match ended {
            Ended::HandedOver => tracing::info!("the next broker takes the place of the last"),
            _ => tracing::warn!(
                kept = store.0.len(),
                "the project's broker has died; the next one takes its place"
            ),
        }
        std::thread::sleep(pause);
        match keeper.start() {
            Ok((started, connection)) => {
                child = Some(started);
                broker = connection;
                // A failure means that the broker has ended, which the next call of `serve` sees.
                let _ = store.give(&broker);
            }
            Err(error) => tracing::error!(%error, "the next broker could not be started"),
        }
    }
}

/// Takes the lock by which others know that the next broker comes by itself.
fn take_lock(paths: &Paths) -> io::Result<File> {
    const LOOKS: Duration = Duration::from_secs(1);
    const LOOK: Duration = Duration::from_millis(1);
    let start = Instant::now();
    let path = paths.keeper();
    loop {
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // A process that checks for a keeper holds the lock for an instant.
            Err(Errno::WOULDBLOCK) if start.elapsed() < LOOKS => {
                std::thread::sleep(LOOK);
                continue;
            }
            locked => locked?,
        }
        if watch::is_at(&path, &lock) {
            lock.set_len(0)?;
            writeln!(lock, "{}", std::process::id())?;
            return Ok(lock);
        }
    }
}

/// Locks a new file in place of a file without a path. After a failure the broker asks again.
fn retake_lock(lock: &mut File, paths: &Paths) {
    if watch::is_at(&paths.keeper(), lock) {
        return;
    }
    match take_lock(paths) {
        Ok(new) => *lock = new,
        Err(error) => tracing::debug!(%error, "the keeper's lock cannot be made anew"),
    }
}

impl Keeper {
    /// Starts the next broker.
    fn start(&self) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = message::pair()?;
        // With the raised limit: the kept descriptors may be more than the limit for programs.
        let started = own_program::command(&self.executable)
            .args(&self.arguments)
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()?;
        Ok((started, ours))
    }
}

/// The kept descriptors, by name.
#[derive(Debug, Default)]
pub(super) struct Store(HashMap<String, OwnedFd>);

impl Store {
    /// Carries out a broker's messages until the broker has ended.
    pub(super) fn serve(
        &mut self,
        broker: &OwnedFd,
        attempts: &mut Attempts,
        mut retake_lock: impl FnMut(),
    ) -> io::Result<Ended> {
        let mut has_agreed = false;
        let mut end = Ended::Died;
        loop {
            match message::receive(broker) {
                Ok(Some((Message::Hello(theirs), _))) => {
                    version::agree(OURS, theirs).map_err(io::Error::other)?;
                    has_agreed = true;
                }
                Ok(Some(_)) if !has_agreed => {
                    return Err(io::Error::other(
                        "the broker is of an older imsup: it does not say which versions it speaks",
                    ));
                }
                Ok(Some((Message::Store(name), fds))) => self.0.extend(fds.into_iter().map(|fd| (name.clone(), fd))),
                Ok(Some((Message::StoreAll(names), fds))) => self.0.extend(names.into_iter().zip(fds)),
                Ok(Some((Message::Remove(name), _))) => drop(self.0.remove(&name)),
                Ok(Some((Message::Ready, _))) => attempts.succeeded(),
                Ok(Some((Message::Stopping, _))) => return Ok(Ended::Stopped),
                Ok(Some((Message::RetakeLock, _))) => retake_lock(),
                // The descriptor of a barrier is closed here.
                Ok(Some((Message::Barrier, _))) => {}
                Ok(Some((Message::HandOver, _))) => end = Ended::HandedOver,
                Ok(None) => return Ok(end),
                // Without room, only the descriptors without room are lost (unix(7)); the connection
                // goes on.
                Err(Errno::NOMEM | Errno::NOBUFS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Gives a new broker a duplicate of every descriptor.
    fn give(&self, broker: &OwnedFd) -> Result<(), Errno> {
        give(|| message::send(broker, &Message::Hello(OURS), &[]))?;
        let mut left = self.0.iter().peekable();
        while left.peek().is_some() {
            let mut together = Together::default();
            while let Some((name, fd)) = left.next_if(|_| together.has_room()) {
                together.add(name, fd.as_fd());
            }
            give(|| together.send(broker))?;
        }
        give(|| message::send(broker, &Message::Ready, &[]))
    }
}

/// Sends a message. Waits while too many descriptors are in flight, until the broker has received
/// some.
fn give(send: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match send() {
            Err(Errno::TOOMANYREFS) => std::thread::sleep(super::store::AGAIN),
            result => return result,
        }
    }
}
