//! The broker's side of the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imsup_linux::pidfd::open_process;
use imsup_protocol::version::{self, OURS};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::attempts::Attempts;
use super::link::{Link, Recipe, Unsent, hello};
use super::message::{self, Message};
use super::names::What;
use super::restored::{self, Restored};
use crate::launcher::Launcher;
use crate::tokens::Source;
use imsup_compose::cluster::Cluster;

/// How soon a message is sent again that the kernel did not take for the number of descriptors
/// under way.
pub(crate) const AGAIN: Duration = Duration::from_millis(5);

/// The time-out of an answer of the keeper; a keeper that was stopped is killed and replaced.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The stored descriptors, and the connection to the keeper. Without a keeper no descriptor is
/// kept.
#[derive(Debug, Default)]
pub(crate) struct FdStore {
    recipe: Option<Recipe>,
    /// All descriptors for the keeper, to be given to a next keeper as well.
    kept: BTreeMap<String, Arc<OwnedFd>>,
    link: Option<Link>,
    attempts: Attempts,
    /// Descriptors of the last broker that the keeper has and this broker has not used yet.
    inherited: BTreeMap<String, OwnedFd>,
    /// Names of inherited descriptors that were taken, and are about to be kept again.
    taken: BTreeSet<String>,
    /// The number of descriptors that the keeper was told to close, and the number certainly
    /// closed.
    forgotten: u64,
    closed: u64,
    /// Questions to the keeper, by number, with the number of descriptors forgotten before.
    barriers: BTreeMap<u32, Barrier>,
    next_barrier: u32,
    /// True if an earlier broker has died.
    follows: bool,
    serves: bool,
}

/// A question to the keeper: the keeper answers by closing the other end.
#[derive(Debug)]
struct Barrier {
    end: OwnedFd,
    forgotten: u64,
    asked: Instant,
}

impl FdStore {
    /// A store for a keeper of this recipe, which is started later.
    pub(crate) fn new(recipe: Option<Recipe>) -> Self {
        let mut store = Self::default();
        store.recipe = recipe;
        store
    }

    /// Goes on with the store of the broker that died.
    pub(crate) fn restore(&mut self, restored: Restored) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&restored.keeper, true)?;
        let peer = nix::sys::socket::getsockopt(&restored.keeper, nix::sys::socket::sockopt::PeerCredentials);
        self.link = Some(Link {
            process: peer.ok().and_then(|peer| open_process(peer.pid()).ok()),
            socket: restored.keeper,
            unsent: VecDeque::from([hello()]),
        });
        self.inherited = restored.fds;
        self.follows = true;
        Ok(())
    }

    /// Whether this broker's sockets are kept.
    pub(crate) fn is_in_use(&self) -> bool {
        self.recipe.is_some()
    }

    /// Starts the keeper, unless there is a keeper, and sends the kept descriptors. False if no
    /// keeper can be started, which is logged.
    pub(crate) fn start(&mut self, launcher: &mut dyn Launcher, registry: &Registry) -> bool {
        if self.link.is_none() {
            let Some(recipe) = &self.recipe else { return false };
            if self.attempts.next(Instant::now()).is_none() {
                tracing::error!(
                    "the project's keeper was ended too often, and is not started again: if the broker dies, connections that wait are reset"
                );
                self.recipe = None;
                self.kept.clear();
                return false;
            }
            match Link::start(recipe, launcher) {
                Ok(link) => self.link = Some(link),
                Err(error) => {
                    self.give_up(&error);
                    return false;
                }
            }
            // A killed keeper has closed all descriptors.
            self.closed = self.forgotten;
            let names = self.kept.keys().cloned().map(Unsent::Store);
            let ready = self.serves.then_some(Unsent::Other(Message::Ready, None));
            if let Some(link) = &mut self.link {
                link.unsent.extend(names.chain(ready));
            }
        }
        let Some(link) = &self.link else { return false };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let watched = registry.register(&mut SourceFd(&link.socket.as_raw_fd()), Source::Keeper.into(), interest);
        if let Err(error) = watched {
            tracing::error!(%error, "the keeper is not watched");
        }
        self.flush();
        true
    }

    /// Does without a keeper.
    pub(crate) fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the project has no keeper: if the broker dies, connections that wait are reset");
        self.recipe = None;
        self.kept.clear();
    }

    /// Keeps the cluster, for the next broker.
    pub(crate) fn keep_cluster(&mut self, cluster: &Cluster) -> io::Result<()> {
        if !self.is_in_use() {
            return Ok(());
        }
        let fd = match self.take(What::Cluster).pop() {
            Some(fd) => fd,
            None => restored::write(cluster)?,
        };
        self.keep(What::Cluster, Arc::new(fd));
        self.flush();
        Ok(())
    }

    /// Has a descriptor kept. Until [`Self::ready`], descriptors of a project that comes up for the
    /// first time are sent together, since nobody has been told that the project is up.
    pub(crate) fn keep(&mut self, what: What, fd: Arc<OwnedFd>) {
        if !self.is_in_use() {
            return;
        }
        let name = what.name(&fd);
        self.kept.insert(name.clone(), fd);
        if self.taken.remove(&name) {
            return;
        }
        let is_coming_up = !self.serves && !self.follows;
        if let Some(link) = &mut self.link {
            link.unsent.push_back(Unsent::Store(name));
            if !is_coming_up || link.unsent.len().is_multiple_of(message::MOST_TOGETHER) {
                self.flush();
            }
        }
    }

    /// Has a duplicate of a descriptor kept, for descriptors that others own.
    pub(crate) fn keep_copy(&mut self, what: What, fd: impl AsFd) {
        if !self.is_in_use() {
            return;
        }
        match fd.as_fd().try_clone_to_owned() {
            Ok(copy) => self.keep(what, Arc::new(copy)),
            Err(error) => tracing::error!(%what, %error, "this is not kept for the next broker"),
        }
    }

    /// Has the keeper close a descriptor that is about to be closed here. The descriptor stays open
    /// in the keeper until [`Self::has_closed_all`].
    pub(crate) fn forget(&mut self, what: What, fd: &OwnedFd) {
        let name = what.name(fd);
        if self.kept.remove(&name).is_some() {
            self.remove(name);
        }
    }

    fn remove(&mut self, name: String) {
        if let Some(link) = &mut self.link {
            let before = link.unsent.len();
            link.unsent
                .retain(|unsent| !matches!(unsent, Unsent::Store(waiting) if *waiting == name));
            // The keeper never received the descriptor.
            if link.unsent.len() < before {
                return;
            }
            self.forgotten += 1;
            self.say(Unsent::Other(Message::Remove(name), None));
        }
    }

    /// The descriptors of this kind that an earlier broker had kept, and that are not taken yet.
    pub(crate) fn take(&mut self, what: What) -> Vec<OwnedFd> {
        let is_it = |name: &String| What::of(name) == Some(what);
        let prefix = format!("{what} ");
        let names: Vec<String> = self
            .inherited
            .range(prefix.clone()..)
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(&prefix))
            .filter(is_it)
            .collect();
        names.into_iter().filter_map(|name| self.take_name(name)).collect()
    }

    /// All of an earlier broker's that are meant.
    pub(crate) fn take_all(&mut self, is_meant: impl Fn(&What) -> bool) -> Vec<(What, OwnedFd)> {
        let named = self
            .inherited
            .keys()
            .filter_map(|name| Some((name.clone(), What::of(name)?)));
        let meant: Vec<(String, What)> = named.filter(|(_, what)| is_meant(what)).collect();
        let taken = meant.into_iter();
        taken
            .filter_map(|(name, what)| Some((what, self.take_name(name)?)))
            .collect()
    }

    fn take_name(&mut self, name: String) -> Option<OwnedFd> {
        let fd = self.inherited.remove(&name)?;
        self.taken.insert(name);
        Some(fd)
    }

    /// Closes descriptors of an earlier broker that this broker does not need.
    pub(crate) fn drop_inherited(&mut self) {
        let unused = std::mem::take(&mut self.inherited).into_keys();
        let unkept = std::mem::take(&mut self.taken);
        for name in unused.chain(unkept) {
            tracing::debug!(name, "the next broker has no use for this");
            self.remove(name);
        }
    }

    /// Tells the keeper that the broker serves, and waits for some seconds at most until the keeper
    /// has all descriptors.
    pub(crate) fn ready(&mut self) {
        self.serves = true;
        self.attempts.succeeded();
        // Files may have been removed while there was no broker.
        self.retake_lock();
        self.say(Unsent::Other(Message::Ready, None));
        if !self.hears_all() {
            tracing::warn!("the project's keeper does not answer");
        }
    }

    /// Waits for some seconds at most until the keeper has carried out all messages.
    fn hears_all(&mut self) -> bool {
        let Ok((end, other)) = pipe() else { return true };
        self.say(Unsent::Other(Message::Barrier, Some(other)));
        let deadline = Instant::now() + TIMEOUT;
        while let Some(link) = self.link.as_ref().filter(|link| !link.unsent.is_empty()) {
            if Instant::now() > deadline {
                break;
            }
            // ETOOMANYREFS is seen as no event.
            wait(&link.socket, PollFlags::OUT, AGAIN);
            self.flush();
        }
        self.link.is_none() || wait(&end, PollFlags::IN, deadline.saturating_duration_since(Instant::now()))
    }

    /// Has another cluster kept, for a broker that takes the place of this one as soon as this one
    /// ends.
    ///
    /// # Errors
    /// The keeper does not answer within some seconds, and has the cluster that it had.
    pub(crate) fn hand_over(&mut self, cluster: &Cluster) -> io::Result<()> {
        let is_cluster = |name: &&String| What::of(name) == Some(What::Cluster);
        let old: Vec<String> = self.kept.keys().filter(is_cluster).cloned().collect();
        let fd = Arc::new(restored::write(cluster)?);
        // The next broker has one of them, whatever the keeper hears before this one ends.
        self.keep(What::Cluster, fd);
        for name in old {
            self.kept.remove(&name);
            self.remove(name);
        }
        self.say(Unsent::Other(Message::HandOver, None));
        match self.hears_all() {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether there is a keeper.
    pub(crate) fn has_keeper(&self) -> bool {
        self.link.is_some()
    }

    /// Has the keeper lock a new file, if the locked file was removed.
    pub(crate) fn retake_lock(&mut self) {
        self.say(Unsent::Other(Message::RetakeLock, None));
    }

    /// True if the keeper has closed all descriptors that it was told to close.
    pub(crate) fn has_closed_all(&self) -> bool {
        self.link.is_none() || self.closed >= self.forgotten
    }

    /// Asks the keeper whether it has done all it was told. Once it has, an event with the number
    /// comes ([`Source::Barrier`]); `None` where nothing will.
    pub(crate) fn ask(&mut self, registry: &Registry) -> Option<u32> {
        self.link.as_ref()?;
        let (end, other) = pipe().ok()?;
        let number = self.next_barrier;
        registry
            .register(
                &mut SourceFd(&end.as_raw_fd()),
                Source::Barrier(number).into(),
                Interest::READABLE,
            )
            .ok()?;
        self.next_barrier = self.next_barrier.wrapping_add(1);
        let barrier = Barrier {
            end,
            forgotten: self.forgotten,
            asked: Instant::now(),
        };
        self.barriers.insert(number, barrier);
        self.say(Unsent::Other(Message::Barrier, Some(other)));
        Some(number)
    }

    /// The keeper has carried out all messages sent before this question.
    pub(crate) fn answered(&mut self, number: u32, registry: &Registry) {
        if let Some(barrier) = self.barriers.remove(&number) {
            let _ = registry.deregister(&mut SourceFd(&barrier.end.as_raw_fd()));
            self.closed = self.closed.max(barrier.forgotten);
        }
    }

    /// The time left to the keeper for the oldest question that has not timed out.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let left = |barrier: &Barrier| TIMEOUT.checked_sub(barrier.asked.elapsed());
        self.barriers.values().filter_map(left).min()
    }

    /// Kills a keeper that has not answered for long. The end is noticed as any other.
    pub(crate) fn end_if_stuck(&mut self) {
        // The answer may be there, but not read yet, since this broker itself was stopped.
        let is_stuck = |barrier: &Barrier| {
            barrier.asked.elapsed() >= TIMEOUT && !wait(&barrier.end, PollFlags::IN, Duration::ZERO)
        };
        let stuck = self.barriers.values().any(is_stuck);
        let process = self.link.as_ref().and_then(|link| link.process.as_ref());
        if let Some(process) = process.filter(|_| stuck) {
            tracing::warn!("the project's keeper does not answer; it is replaced");
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// The keeper's socket has become ready: false if the keeper has ended.
    pub(crate) fn on_event(&mut self, registry: &Registry) -> bool {
        self.flush();
        let Some(link) = &self.link else { return true };
        loop {
            if !wait(&link.socket, PollFlags::IN, Duration::ZERO) {
                return true;
            }
            match message::receive(&link.socket) {
                Ok(Some((Message::Hello(theirs), _))) => {
                    // It hears the same, and ends.
                    if let Err(error) = version::agree(OURS, theirs) {
                        tracing::error!(%error, "the project's keeper keeps nothing");
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let _ = registry.deregister(&mut SourceFd(&link.socket.as_raw_fd()));
        self.link = None;
        false
    }

    /// True if a message is to be sent later, at a time without an event.
    pub(crate) fn has_unsent(&self) -> bool {
        self.link.as_ref().is_some_and(|link| !link.unsent.is_empty())
    }

    fn say(&mut self, unsent: Unsent) {
        if let Some(link) = &mut self.link {
            link.unsent.push_back(unsent);
            self.flush();
        }
    }

    /// Sends as many messages as the socket takes.
    pub(crate) fn flush(&mut self) {
        if let Some(link) = &mut self.link {
            link.flush(&self.kept);
        }
    }

    /// Ends the keeper, which closes all descriptors.
    pub(crate) fn stop(&mut self) {
        self.kept.clear();
        self.inherited.clear();
        let Some(Link { socket, process, .. }) = self.link.take() else {
            return;
        };
        self.recipe = None;
        let _ = rustix::io::ioctl_fionbio(&socket, true);
        if message::send(&socket, &Message::Stopping, &[]).is_err()
            && let Some(process) = &process
        {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        let Some(process) = process else { return };
        if !wait(&process, PollFlags::IN, TIMEOUT) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            wait(&process, PollFlags::IN, TIMEOUT);
        }
    }
}

impl Drop for FdStore {
    /// A project that cannot be brought up is not tried again. If the broker fails later, the
    /// keeper sees the end of the connection and tries again.
    fn drop(&mut self) {
        if !self.serves && !self.follows {
            self.stop();
        }
    }
}

/// Both ends of a pipe: the reader is told when the other end is closed.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

/// Waits until a descriptor is ready; false after the time-out.
///
/// Blocking: for no time, but before the loop ([`FdStore::ready`]), at its end
/// ([`FdStore::hand_over`]) and after it ([`FdStore::stop`]).
fn wait(fd: impl AsFd, flags: PollFlags, time: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    matches!(poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::keeper::Successor;

    fn store_with(keeper: OwnedFd) -> FdStore {
        rustix::io::ioctl_fionbio(&keeper, true).unwrap();
        let mut store = FdStore::new(Some(Recipe {
            project: "shop".to_owned(),
            successor: Successor { arguments: Vec::new() },
            descriptor_limit: None,
        }));
        store.link = Some(Link {
            socket: keeper,
            process: None,
            unsent: VecDeque::new(),
        });
        store
    }

    /// Messages beyond the socket's room are kept here, in order; a descriptor that was dropped by
    /// then is never sent.
    #[test]
    fn what_the_keeper_has_no_room_for_it_is_sent_later() {
        let (ours, theirs) = message::pair().unwrap();
        let mut store = store_with(ours);
        store.serves = true;
        let fd = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let namespace = |namespace| What::Resolvers { namespace };
        let mut count = 0;
        while !store.has_unsent() {
            store.keep(namespace(count), Arc::clone(&fd));
            count += 1;
        }
        for more in 0..3 {
            store.keep(namespace(count + more), Arc::clone(&fd));
        }
        store.forget(namespace(count), &fd);
        assert!(store.has_closed_all(), "the keeper never had it");
        store.forget(namespace(0), &fd);
        assert!(!store.has_closed_all());

        let mut received = Vec::new();
        while store.has_unsent() || wait(&theirs, PollFlags::IN, Duration::ZERO) {
            let (message, fds) = message::receive(&theirs).unwrap().unwrap();
            let stored = match message {
                Message::Store(name) => vec![name],
                Message::StoreAll(names) => names,
                other => {
                    received.push(other);
                    Vec::new()
                }
            };
            assert_eq!(fds.len(), stored.len());
            received.extend(stored.into_iter().map(Message::Store));
            store.flush();
        }
        let stored = (0..count).chain(count + 1..count + 3);
        let mut expected: Vec<Message> = stored
            .map(|number| Message::Store(namespace(number).name(&fd)))
            .collect();
        expected.push(Message::Remove(namespace(0).name(&fd)));
        assert_eq!(received, expected);
    }

    /// As many as a message takes are sent at once, the rest at the latest when the broker serves.
    #[test]
    fn while_a_project_comes_up_its_descriptors_are_sent_together() {
        let (ours, theirs) = message::pair().unwrap();
        let mut store = store_with(ours);
        let fd = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        for namespace in 0..u32::try_from(message::MOST_TOGETHER).unwrap() + 2 {
            store.keep(What::Resolvers { namespace }, Arc::clone(&fd));
        }
        let next = || match message::receive(&theirs).unwrap().unwrap() {
            (Message::StoreAll(names), fds) => (names.len(), fds.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(next(), (message::MOST_TOGETHER, message::MOST_TOGETHER));
        assert!(!wait(&theirs, PollFlags::IN, Duration::ZERO));
        store.flush();
        assert_eq!(next(), (2, 2));
        store.serves = true;
    }
}
