//! Sockets for programs whose resolver compares the sender of an answer with the asked server
//! (musl, c-ares). An answer must come from that very address, port 53, which an ordinary user
//! cannot bind, and which is not this machine's.
//!
//! A process of ours ([`namespace`]) has a network namespace in which every address is local. The
//! name server has sockets on port 53 of this namespace, and answers from the address that was
//! asked. A supervisor replaces a program's socket by an unbound socket of the namespace. A socket
//! keeps the namespace, whichever process has the socket (pinned in
//! supervisor/linux/tests/kernel/resolvers.rs). The process is started when the first program asks
//! a name server.

pub(crate) mod namespace;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use imsup_protocol::channel::{Channel, ChannelError};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use crate::ids::SessionId;
use crate::keeper::{FdStore, What};
use crate::launcher::Launcher;
use crate::names::NameServerHandle;

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// How long the process may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// After this number of ends without a result in between, the process is not started again.
const MAX_FAILURES: u32 = 3;

/// The number of namespaces of earlier brokers in which the name server still answers: a program
/// whose question was open when its broker died asks again by the same socket.
const NAMESPACES: u32 = 4;

/// The sockets given to a supervisor at once. A resolver takes a socket for each question; AF_INET6
/// sockets are for servers with IPv6 addresses, or for musl with both families.
const BATCH: Wanted = Wanted { v4: 8, v6: 4 };

/// The first word of the process: whether there is IPv6, with the name server's sockets; or why
/// there is no namespace.
type Opened = Result<bool, String>;

/// A request to the process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Wanted {
    v4: u8,
    v6: u8,
}

/// The answer, which carries this number of descriptors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Made {
    v4: u8,
    v6: u8,
}

/// Sockets for a single supervisor; none if none can be made.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) v4: u8,
    pub(crate) v6: u8,
    /// The AF_INET sockets first.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// A reply of the thread.
#[derive(Debug)]
pub(crate) enum Reply {
    /// There is a namespace for resolvers, with these sockets of the name server's.
    Namespace(Vec<OwnedFd>),
    /// Sockets for the supervisor that has waited longest.
    Sockets(Batch),
    /// The process that makes those has ended; never any are made if it is `for_good`.
    Ended { for_good: bool },
}

/// The process, and the thread that talks to the process, so that the loop waits for neither.
#[derive(Debug)]
struct Running {
    requests: Sender<()>,
    process: OwnedFd,
    thread: JoinHandle<()>,
}

/// The maker of sockets, started at the first need.
#[derive(Debug, Default)]
pub(crate) struct Resolvers {
    name_server: Option<NameServerHandle>,
    /// The number of the latest namespace.
    latest: u32,
    running: Option<Running>,
    /// No namespace can be made here.
    useless: bool,
    /// The number of ends of the process since its last result.
    failures: u32,
    /// Sessions of supervisors that want sockets, longest waiting first.
    waiting: VecDeque<SessionId>,
}

impl Resolvers {
    /// A supervisor wants sockets.
    pub(crate) fn wait(&mut self, session: SessionId) {
        self.waiting.push_back(session);
    }

    /// The supervisor that has waited longest waits no more.
    pub(crate) fn next_waiting(&mut self) -> Option<SessionId> {
        self.waiting.pop_front()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A session is gone.
    pub(crate) fn leave(&mut self, session: SessionId) {
        self.waiting.retain(|waiting| *waiting != session);
    }

    /// Sets the handle to add sockets to the name server.
    pub(crate) fn serve_by(&mut self, name_server: NameServerHandle) {
        self.name_server = Some(name_server);
    }

    /// Goes on in the namespaces of earlier brokers, where unanswered questions wait.
    pub(crate) fn restore(&mut self, store: &mut FdStore) {
        let is_meant = |what: &What| matches!(what, What::Resolvers { .. });
        let mut found: Vec<(u32, OwnedFd)> = Vec::new();
        for (what, socket) in store.take_all(is_meant) {
            if let What::Resolvers { namespace } = what {
                found.push((namespace, socket));
            }
        }
        self.latest = found.iter().map(|(namespace, _)| *namespace).max().unwrap_or(0);
        for (namespace, socket) in found {
            if is_recent(namespace, self.latest) {
                self.answer(namespace, socket, store);
            }
        }
    }

    /// The process has made a namespace, with these sockets of the name server's.
    pub(crate) fn made(&mut self, sockets: Vec<OwnedFd>, store: &mut FdStore) {
        self.latest += 1;
        for socket in sockets {
            self.answer(self.latest, socket, store);
        }
    }

    fn answer(&self, namespace: u32, socket: OwnedFd, store: &mut FdStore) {
        store.keep_copy(What::Resolvers { namespace }, &socket);
        if let Some(name_server) = &self.name_server {
            name_server.add(socket);
        }
    }

    /// Asks for a batch, which `tell` is told ([`Reply::Sockets`]); false if none will come.
    pub(crate) fn ask(
        &mut self,
        launcher: &mut dyn Launcher,
        project: &str,
        tell: impl Fn(Reply) + Send + 'static,
    ) -> bool {
        if let Some(running) = &self.running {
            // A failure means that the process has ended. The loop message about the end is on its
            // way, after which all waiting supervisors are asked for anew. Another process started
            // here would be ended by that message.
            let _ = running.requests.send(());
            return true;
        }
        if self.name_server.is_none() || self.useless {
            return false;
        }
        match start(launcher, project, tell) {
            Ok(running) => self.running.insert(running).requests.send(()).is_ok(),
            Err(error) => {
                tracing::debug!(%error, "no process can make sockets for resolvers");
                self.failures += 1;
                self.useless = self.failures >= MAX_FAILURES;
                false
            }
        }
    }

    /// The process has made a batch.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The process has ended, and with the process the thread.
    pub(crate) fn ended(&mut self, for_good: bool) {
        self.failures += 1;
        self.useless |= for_good || self.failures >= MAX_FAILURES;
        self.end();
    }

    /// Ends the process and the thread.
    pub(crate) fn end(&mut self) {
        let Some(Running {
            requests,
            process,
            thread,
        }) = self.running.take()
        else {
            return;
        };
        drop(requests);
        let _ = pidfd_send_signal(&process, Signal::KILL);
        // Blocking: after the loop, for a process that was killed and its thread. The loop may have
        // reaped the process already.
        let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED);
        let _ = thread.join();
    }
}

/// True if a namespace is among the latest.
fn is_recent(namespace: u32, latest: u32) -> bool {
    namespace + NAMESPACES > latest
}

fn start(launcher: &mut dyn Launcher, project: &str, tell: impl Fn(Reply) + Send + 'static) -> io::Result<Running> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(TIMEOUT))?;
    let arguments = ["resolvers", "--project", project].map(OsStr::new);
    let (_, process) = launcher.start_helper(&arguments, theirs.into(), None)?;
    let (requests, asked) = crossbeam_channel::unbounded();
    let channel = Channel::accepted(ours);
    // Without the thread the process ends by itself: the other end of its connection is closed.
    let thread = std::thread::Builder::new()
        .name("resolvers".to_owned())
        .spawn(move || {
            // Before `asked` is dropped: after a failed send, this loop message is certain to come.
            if let Some(ended) = serve(channel, &asked, &tell) {
                let for_good = ended == Ended::ForGood;
                tell(Reply::Ended { for_good });
            }
        })?;
    Ok(Running {
        requests,
        process,
        thread,
    })
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The process was killed, or failed.
    Once,
    /// The process reported that no namespace can be made.
    ForGood,
}

/// Answers each request until no requester is left (`None`), or the process has ended; then returns
/// the kind of end.
// Blocking: a thread of its own.
fn serve(mut channel: Channel, asked: &Receiver<()>, tell: &impl Fn(Reply)) -> Option<Ended> {
    match open(&mut channel) {
        Ok(Ok(sockets)) => tell(Reply::Namespace(sockets)),
        Ok(Err(why)) => {
            tracing::info!(
                %why,
                "programs whose resolver compares the sender of an answer (musl, c-ares) cannot be answered for all names: \
                 this machine allows no network namespace"
            );
            return Some(Ended::ForGood);
        }
        Err(error) => {
            tracing::debug!(%error, "the process that makes sockets for resolvers has ended before it made a namespace");
            return Some(Ended::Once);
        }
    }
    while asked.recv().is_ok() {
        match more(&mut channel) {
            Ok(batch) => tell(Reply::Sockets(batch)),
            Err(error) => {
                tracing::debug!(%error, "the process that makes sockets for resolvers has ended; the next who asks starts another");
                return Some(Ended::Once);
            }
        }
    }
    None
}

/// Takes the first message of the process: the name server's sockets, or the reason why there are
/// none. The outer error means that there was no message.
fn open(channel: &mut Channel) -> Result<Result<Vec<OwnedFd>, String>, ChannelError> {
    let opened: Opened = channel.receive()?.ok_or(ChannelError::Closed)?;
    let has_v6 = match opened {
        Ok(has_v6) => has_v6,
        Err(why) => return Ok(Err(why)),
    };
    channel.take_fds(if has_v6 { 2 } else { 1 }).map(Ok)
}

fn more(channel: &mut Channel) -> Result<Batch, ChannelError> {
    channel.send(&BATCH, Vec::new())?;
    let made: Made = channel.receive()?.ok_or(ChannelError::Closed)?;
    let sockets = channel.take_fds(usize::from(made.v4) + usize::from(made.v6))?;
    Ok(Batch {
        v4: made.v4,
        v6: made.v6,
        sockets,
    })
}
