//! A supervisor outlives its broker: it waits for the next one and introduces itself.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use imsup_wire::message::Adoption;
use imsup_wire::{HostName, ToBroker, ToSupervisor};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fs::FlockOperation;

use crate::doors;
use crate::host::Host;
use crate::kernel::socket;
use crate::sleep::Sleep;

/// A broker's socket exists a moment before it listens.
const RETRY: Duration = Duration::from_millis(20);
const RETRIES: u32 = 100;

/// Whether the project has a keeper, which starts the next broker: it holds this file with flock. `socket` is the broker's.
pub fn next_comes(socket: &Path) -> bool {
    let Ok(lock) = File::open(socket.with_file_name("keeper.lock")) else {
        return false;
    };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Who we are.
#[derive(Debug)]
pub struct Introduction {
    /// What we said to the first broker.
    pub hello: ToBroker,
    /// The name it gave us.
    pub host: HostName,
    /// The program's first process.
    pub pid: u32,
    /// When it was started.
    pub started: SystemTime,
}

/// The wait for the next broker.
#[derive(Debug)]
pub struct Reconnect {
    introduction: Introduction,
    watch: Option<Inotify>,
    next_try: Option<Instant>,
    tries_left: u32,
    /// A broker has no place for us; the next one is not asked.
    given_up: bool,
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// There is a broker again, and it took us.
    Connected,
    /// None yet.
    Waiting,
    /// The next broker has no place for us: the host is no longer in its file.
    Rejected,
}

impl Reconnect {
    /// Nothing to wait for yet.
    pub fn new(introduction: Introduction) -> Self {
        Self {
            introduction,
            watch: None,
            next_try: None,
            tries_left: 0,
            given_up: false,
        }
    }

    /// Waits for no other broker: one has rejected us, and would again each time we ask.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Watches the directory of the broker's socket, and tries at once: the next one may be there already.
    pub fn begin(&mut self, host: &Host) {
        if self.given_up {
            return;
        }
        self.watch = host.link.path().parent().and_then(|directory| {
            let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
            let created = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            watch.add_watch(directory, created).ok()?;
            Some(watch)
        });
        self.try_soon();
    }

    /// What to poll.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Something was made in the directory.
    pub fn noticed(&mut self) {
        if let Some(watch) = &self.watch {
            let _ = watch.read_events();
        }
        self.try_soon();
    }

    fn try_soon(&mut self) {
        self.next_try = Some(Instant::now());
        self.tries_left = RETRIES;
    }

    /// When to try next.
    pub fn next_try(&self) -> Option<Instant> {
        self.next_try
    }

    /// Tries, where it is time.
    pub fn try_now(&mut self, host: &mut Host, sleep: &Sleep) -> Attempt {
        if self.next_try.is_none_or(|at| at > Instant::now()) {
            return Attempt::Waiting;
        }
        self.tries_left = self.tries_left.saturating_sub(1);
        self.next_try = (self.tries_left > 0).then(|| Instant::now() + RETRY);
        if host.link.reopen(self.hello(host, sleep)).is_err() {
            return Attempt::Waiting;
        }
        self.watch = None;
        self.next_try = None;
        Attempt::Connected
    }

    /// Takes the answer of the next broker; hands over what the program listens on.
    pub fn welcomed(host: &mut Host, sleep: &mut Sleep, message: &ToSupervisor) -> Attempt {
        let ToSupervisor::Welcome {
            retained,
            sleep: policy,
            awake,
            ..
        } = message
        else {
            return Attempt::Rejected;
        };
        sleep.set_policy(policy.clone(), *awake);
        host.resolvers.regain_broker();
        // Sockets it retains for us are of no use: ours are in place.
        let _ = host.link.take_fds(retained.len());
        let sockets: Vec<_> = host
            .retained
            .listening()
            .filter_map(|(endpoint, socket)| Some((endpoint, socket::duplicate(socket).ok()?)))
            .collect();
        for (endpoint, socket) in sockets {
            host.link.send(&ToBroker::Listening { endpoint }, vec![socket]);
        }
        doors::tell_next_broker(host);
        if host.start.settled {
            host.link.send(&ToBroker::Settled, Vec::new());
        }
        Attempt::Connected
    }

    fn hello(&self, host: &Host, sleep: &Sleep) -> ToBroker {
        let mut hello = self.introduction.hello.clone();
        if let ToBroker::Hello {
            host: name,
            adoption: place,
            ..
        } = &mut hello
        {
            *name = Some(self.introduction.host.clone());
            let started = self.introduction.started.duration_since(SystemTime::UNIX_EPOCH);
            *place = Some(Adoption {
                index: host.identity.index,
                pid: self.introduction.pid,
                started_us: u64::try_from(started.unwrap_or_default().as_micros()).unwrap_or(u64::MAX),
                ready: host.start.is_over(),
                suspended_us: sleep.suspended_us(),
                usage: sleep.usage(),
            });
        }
        hello
    }
}
