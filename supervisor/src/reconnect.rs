//! A supervisor outlives its broker, waits for the next broker, and introduces itself.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imsup_linux::clock::Stamp;
use imsup_protocol::channel::ChannelError;
use imsup_protocol::message::{Adoption, Role};
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::{HostName, Usage};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fs::FlockOperation;

use crate::host::Host;
use crate::host::closed_listeners;
use crate::link::Link;
use crate::sleep::Sleep;
use imsup_linux::socket;

/// A broker's socket exists a moment before the broker listens.
const RETRY: Duration = Duration::from_millis(20);
const RETRIES: u32 = 100;

/// True if the project has a keeper, which starts the next broker: a keeper holds `keeper.lock`
/// with flock. `socket` is the broker's socket.
pub fn next_comes(socket: &Path) -> bool {
    let Ok(lock) = File::open(keeper_lock(socket)) else {
        return false;
    };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

fn keeper_lock(socket: &Path) -> PathBuf {
    socket.with_file_name("keeper.lock")
}

/// The most brokers to try for one introduction: the keeper starts as many a minute.
pub const BROKERS: u32 = 5;

/// How long the next broker may take, on a busy machine.
pub const NEXT_BROKER: Duration = Duration::from_secs(30);

/// True if any broker takes the sender of this message. A boot belongs to the broker that requested
/// the boot, until the boot runs a program.
pub fn is_for_any(hello: &ToBroker) -> bool {
    !matches!(
        hello,
        ToBroker::Hello {
            role: Role::Launched { .. },
            adoption: None,
            ..
        }
    )
}

/// The time for a broker to make its files anew after a removal.
const REMAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects and sends the introduction, for a caller that knows that there is a broker. If the
/// broker has died, the call waits for the broker that the keeper starts. If the broker's files
/// were removed, the call waits for new files.
///
/// Blocking: before the loop.
///
/// # Errors
/// As [`Link::open`].
pub fn open(socket: &Path, hello: &ToBroker) -> Result<Link, ChannelError> {
    let begun = Instant::now();
    let comes = |error: &ChannelError| {
        is_absent(error)
            && (is_removed(error, socket) && begun.elapsed() < REMAKE_TIMEOUT
                || is_for_any(hello) && next_comes(socket) && begun.elapsed() < NEXT_BROKER)
    };
    loop {
        match Link::open(socket.to_owned(), hello.clone()) {
            Err(error) if comes(&error) => std::thread::sleep(RETRY),
            opened => return opened,
        }
    }
}

/// True if an error means that the broker has died. A dying broker may be between connect(2) and
/// the first message.
fn is_absent(error: &ChannelError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    match error {
        ChannelError::Closed => true,
        ChannelError::Io(error) => matches!(
            error.kind(),
            BrokenPipe | ConnectionRefused | ConnectionReset | NotFound
        ),
        ChannelError::Codec(_) | ChannelError::Hello(_) | ChannelError::Versions(_) | ChannelError::Descriptors => {
            false
        }
    }
}

/// True if the broker's files have been removed.
fn is_removed(error: &ChannelError, socket: &Path) -> bool {
    let not_found = matches!(error, ChannelError::Io(error) if error.kind() == std::io::ErrorKind::NotFound);
    not_found || !keeper_lock(socket).exists()
}

/// The supervisor's introduction.
#[derive(Debug)]
pub struct Introduction {
    /// The message to the first broker.
    pub hello: ToBroker,
    /// The name that the first broker gave to the host.
    pub host: HostName,
    /// The program's first process.
    pub pid: u32,
    /// The start time of the program's first process.
    pub started: Stamp,
}

/// The wait for the next broker.
#[derive(Debug)]
pub struct Reconnect {
    introduction: Introduction,
    watch: Option<Inotify>,
    next_try: Option<Instant>,
    tries_left: u32,
    /// A broker has no place for this host; the next broker is not asked.
    given_up: bool,
}

/// The outcome of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// There is a broker again, and it took this host.
    Connected,
    /// None yet.
    Waiting,
    /// The next broker has no place for this host: the host is no longer in the broker's file.
    Rejected,
}

/// Watches for entries made or removed in a directory, and for the directory's own removal; `None`
/// if the directory is missing. The directory's own removal alone would be reported too late. The
/// kernel does not report the removal while a file of the directory is open, such as the lock of a
/// host (pinned in supervisor/linux/tests/kernel/removed.rs).
fn watch_for_changes(directory: &Path) -> Option<Inotify> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    let mask = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    watch.add_watch(directory, mask).ok()?;
    Some(watch)
}

impl Reconnect {
    /// No broker to wait for yet.
    pub fn new(introduction: Introduction) -> Self {
        Self {
            introduction,
            watch: None,
            next_try: None,
            tries_left: 0,
            given_up: false,
        }
    }

    /// Stops waiting for other brokers: a broker has rejected this host, and would do so at each
    /// new attempt.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether a broker that would take us comes by itself.
    pub fn next_comes(&self, host: &Host) -> bool {
        !self.given_up && next_comes(host.link.path())
    }

    /// Tries at once: the next broker may be there already. [`Reconnect::watch_directory`] is to
    /// follow.
    pub fn begin(&mut self) {
        if !self.given_up {
            self.try_soon();
        }
    }

    /// Watches the directory of the broker's socket, or the nearest existing parent directory.
    pub fn watch_directory(&mut self, host: &Host) {
        let directory = host.link.path().parent().filter(|_| !self.given_up);
        if let Some(directory) = directory {
            self.watch = directory.ancestors().find_map(watch_for_changes);
        }
    }

    /// An entry was made in the directory, or the directory was removed.
    /// [`Reconnect::watch_directory`] is to follow.
    pub fn noticed(&mut self, host: &Host) {
        // An entry in a parent directory is not the broker's.
        if host.link.path().parent().is_some_and(Path::exists) {
            self.begin();
        }
    }

    /// The descriptor to poll.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    fn try_soon(&mut self) {
        self.next_try = Some(Instant::now());
        self.tries_left = RETRIES;
    }

    /// When to try next.
    pub fn next_try(&self) -> Option<Instant> {
        self.next_try
    }

    /// Makes an attempt, if due.
    pub fn try_now(&mut self, host: &mut Host, sleep: &Sleep) -> Attempt {
        if self.next_try.is_none_or(|at| at > Instant::now()) {
            return Attempt::Waiting;
        }
        self.tries_left = self.tries_left.saturating_sub(1);
        self.next_try = (self.tries_left > 0).then(|| Instant::now() + RETRY);
        match host.link.reopen(self.hello(host, sleep)) {
            Ok(()) => {}
            Err(error) => {
                // Nothing tells when a broker whose queue is full accepts again.
                if matches!(&error, ChannelError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
                    self.tries_left = RETRIES;
                    self.next_try = Some(Instant::now() + RETRY);
                }
                return Attempt::Waiting;
            }
        }
        // Before the broker's reply: calls fail if broker and supervisor die at the same time.
        host.link.share_notify_listener(host.listener.as_fd());
        self.watch = None;
        self.next_try = None;
        Attempt::Connected
    }

    /// Takes the reply of the next broker, and sends the sockets that the program listens on.
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
        // Sockets that the broker retains for this host are of no use: the host's own are in place.
        let _ = host.link.take_fds(retained.len());
        tell_sockets(host, sleep.terminated(), sleep.usage());
        for uid in host.strangers.all_it_binds_as() {
            host.link.send(&ToBroker::Binds { uid }, Vec::new());
        }
        closed_listeners::tell_next_broker(host);
        if host.start.settled {
            host.link.send(&ToBroker::Settled, Vec::new());
        }
        Attempt::Connected
    }

    /// The introduction to the next broker.
    pub fn hello(&self, host: &Host, sleep: &Sleep) -> ToBroker {
        let mut hello = self.introduction.hello.clone();
        if let ToBroker::Hello {
            host: name,
            adoption: place,
            ..
        } = &mut hello
        {
            *name = Some(self.introduction.host.clone());
            *place = Some(Adoption {
                index: host.identity.index,
                pid: self.introduction.pid,
                started_us: self.introduction.started.wall_us(),
                ready: host.start.is_over(),
                suspended_us: sleep.suspended_us(),
                usage: sleep.usage(),
            });
        }
        hello
    }
}

/// Tells the next broker of the sockets that the program listens on, or of the sockets that
/// replaced these while the program is being terminated.
pub fn tell_sockets(host: &mut Host, terminated: Option<Duration>, usage: Usage) {
    if let Some(slept) = terminated {
        host.link.send(&ToBroker::Terminating { slept, usage }, Vec::new());
    }
    let sockets: Vec<_> = host
        .retained
        .listening()
        .filter_map(|(endpoint, socket)| Some((endpoint, socket::duplicate(socket).ok()?)))
        .collect();
    for (endpoint, socket) in sockets {
        host.link.send(&ToBroker::Listening { endpoint }, vec![socket]);
    }
}
