//! The zygote: a started `imsup` that only has to fork (fork(2)) to become the supervisor of a
//! booted host. To execute a supervisor takes as long as the rest of a boot: linking, the first
//! touch of memory, filters to compile. The zygote's replies are read as events. A zygote that was
//! stopped, or is swapped out, delays no boot: supervisors are executed meanwhile.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use imsup_linux::clock::Clocks;
use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::zygote::{SpawnReply, SpawnRequest};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::child::pidfd_of;
use crate::own_program;
use crate::tokens::Source;

/// The time to reply before a supervisor is executed instead. A reply takes some 0.3 ms. A zygote
/// that was stopped, is swapped out, or gets no processor takes longer, and is not asked again
/// before the reply.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_millis(250);

/// The time to reply before the zygote is replaced.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of zygotes in a row that may end without an answer before no more are started. A
/// single zygote may have been killed by a user.
const MOST_SILENT: u32 = 3;

/// The zygote of this broker, started at the first use.
#[derive(Debug)]
pub(super) struct Zygote {
    executable: PathBuf,
    registry: Registry,
    running: Option<Running>,
    /// How many in a row never answered, or could not be started.
    silent: u32,
    /// The time of the next planned look at the zygote.
    planned: Option<Instant>,
}

/// The zygote's reply to the request of a boot.
#[derive(Debug)]
pub(super) struct BootReply {
    /// The boot's token.
    pub(super) boot: u64,
    /// The zygote's reply.
    pub(super) reply: Reply,
    /// [`Reply::Late`] was told of this boot before.
    pub(super) was_late: bool,
}

/// See [`BootReply`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    /// This process is the supervisor.
    Made(u32),
    /// There is no supervisor, nor will there be a supervisor that counts.
    None,
    /// There is no reply in [`REPLY_TIMEOUT`]. Another reply comes still.
    Late,
}

#[derive(Debug)]
struct Asked {
    boot: u64,
    since: Instant,
    /// [`Reply::Late`] was told.
    late: bool,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    process: OwnedFd,
    channel: Channel,
    /// The boots without a reply yet, in order.
    asked: VecDeque<Asked>,
    has_answered: bool,
    /// The zygote could not be asked, and is being ended.
    is_broken: bool,
}

impl Zygote {
    /// No zygote yet; the replies will be events ([`Source::Zygote`]).
    pub(super) fn new(executable: PathBuf, registry: Registry) -> Self {
        Self {
            executable,
            registry,
            running: None,
            silent: 0,
            planned: None,
        }
    }

    /// Starts the zygote if none runs; returns the process of a started zygote. If the start fails,
    /// supervisors are executed.
    pub(super) fn start(&mut self, project: &str) -> Option<u32> {
        if self.running.is_some() || self.silent >= MOST_SILENT {
            return None;
        }
        match Running::start(&self.executable, project, &self.registry) {
            Ok(running) => Some(self.running.insert(running).pid),
            Err(error) => {
                tracing::debug!(%error, "there is no zygote: hosts boot more slowly");
                self.silent = MOST_SILENT;
                None
            }
        }
    }

    /// Asks the zygote for a supervisor; false if the zygote cannot be asked, or has not replied in
    /// time to an earlier request.
    pub(super) fn ask(&mut self, mut request: SpawnRequest, fds: Vec<OwnedFd>) -> bool {
        let is_usable = |running: &&mut Running| !running.is_broken && !running.is_late();
        let Some(running) = self.running.as_mut().filter(is_usable) else {
            return false;
        };
        let expires_us = Clocks::read()
            .boot_us
            .saturating_add(i64::try_from(REPLY_TIMEOUT.as_micros()).unwrap_or(i64::MAX));
        request.expires_us = Some(expires_us);
        match running.channel.send(&request, fds) {
            Ok(()) => {}
            // Nothing was sent.
            Err(ChannelError::Codec(_)) => return false,
            Err(error) => {
                tracing::debug!(%error, "the zygote cannot be asked");
                // The zygote's end is an event.
                running.is_broken = true;
                let _ = pidfd_send_signal(&running.process, Signal::KILL);
                return false;
            }
        }
        running.asked.push_back(Asked {
            boot: request.boot,
            since: Instant::now(),
            late: false,
        });
        true
    }

    /// The outcomes of requested boots.
    pub(super) fn hear(&mut self) -> Vec<BootReply> {
        let mut heard = Vec::new();
        let Some(running) = self.running.as_mut() else {
            return heard;
        };
        let error = loop {
            match running.hear() {
                Ok(Some((asked, reply))) => {
                    if reply.is_ok() {
                        self.silent = 0;
                        running.has_answered = true;
                    }
                    let reply = match reply {
                        Ok(pid) => Reply::Made(pid),
                        Err(errno) => {
                            tracing::debug!(error = %io::Error::from_raw_os_error(errno), "the zygote has not forked");
                            Reply::None
                        }
                    };
                    heard.push(asked.said(reply));
                }
                Ok(None) if running.is_overdue() => break ChannelError::Io(io::ErrorKind::TimedOut.into()),
                Ok(None) => {
                    heard.extend(running.note_late());
                    return heard;
                }
                Err(error) => break error,
            }
        };
        tracing::debug!(%error, "the zygote does not answer");
        self.silent += u32::from(!running.has_answered);
        heard.extend(running.asked.drain(..).map(|asked| asked.said(Reply::None)));
        self.drop_running();
        heard
    }

    /// The time until a reply is late, if no earlier look is planned.
    pub(super) fn due(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let due = self.running.as_ref()?.due()?;
        if self.planned.is_some_and(|planned| planned > now && planned <= due) {
            return None;
        }
        self.planned = Some(due);
        Some(due.saturating_duration_since(now))
    }

    /// Kills the zygote, and waits for the end.
    pub(super) fn end(&mut self) {
        let Some(running) = &self.running else { return };
        let _ = pidfd_send_signal(&running.process, Signal::KILL);
        // Blocking: after the loop, for a process that was killed. The loop may have reaped it
        // already.
        let _ = waitid(WaitId::PidFd(running.process.as_fd()), WaitIdOptions::EXITED);
        self.drop_running();
    }

    fn drop_running(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = self
                .registry
                .deregister(&mut SourceFd(&running.channel.socket().as_raw_fd()));
        }
    }
}

impl Running {
    fn start(executable: &Path, project: &str, registry: &Registry) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&ours.as_raw_fd()), Source::Zygote.into(), interest)?;
        let child = own_program::command(executable)
            .args(["zygote", "--project", project])
            .env_remove("NOTIFY_SOCKET")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self {
            pid: child.id(),
            process: pidfd_of(child)?,
            channel: Channel::connected(ours),
            asked: VecDeque::new(),
            has_answered: false,
            is_broken: false,
        })
    }

    /// The next reply, with the request.
    fn hear(&mut self) -> Result<Option<(Asked, SpawnReply)>, ChannelError> {
        if let Some(reply) = self.channel.receive::<SpawnReply>()? {
            let asked = self.asked.pop_front().ok_or(ChannelError::Closed)?;
            return Ok(Some((asked, reply)));
        }
        self.channel.flush()?;
        Ok(None)
    }

    /// Whether a boot goes on without the zygote.
    fn is_late(&self) -> bool {
        self.asked.front().is_some_and(|asked| asked.late)
    }

    fn is_overdue(&self) -> bool {
        let first = self.asked.front();
        first.is_some_and(|asked| asked.since.elapsed() >= REPLACE_TIMEOUT)
    }

    /// The boots for which a reply has become late.
    fn note_late(&mut self) -> Vec<BootReply> {
        let has_become = |asked: &&mut Asked| !asked.late && asked.since.elapsed() >= REPLY_TIMEOUT;
        let late = self.asked.iter_mut().filter(has_become).map(|asked| {
            asked.late = true;
            BootReply {
                boot: asked.boot,
                reply: Reply::Late,
                was_late: false,
            }
        });
        late.collect()
    }

    /// When the next reply becomes late, or the first overdue.
    fn due(&self) -> Option<Instant> {
        let in_time = self.asked.iter().find(|asked| !asked.late);
        let late = in_time.map(|asked| asked.since + REPLY_TIMEOUT);
        let overdue = self.asked.front().map(|asked| asked.since + REPLACE_TIMEOUT);
        late.into_iter().chain(overdue).min()
    }
}

impl Asked {
    fn said(self, reply: Reply) -> BootReply {
        BootReply {
            boot: self.boot,
            reply,
            was_late: self.late,
        }
    }
}

impl Drop for Running {
    /// The loop reaps the process.
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use imsup_wire::ProgramSpec;
    use mio::Poll;

    use super::*;

    /// A zygote that the test plays, and the other end of the socket.
    fn zygote() -> (Zygote, Channel) {
        let poll = Poll::new().unwrap();
        let mut zygote = Zygote::new(PathBuf::new(), poll.registry().try_clone().unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let child = std::process::Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        zygote.running = Some(Running {
            pid: child.id(),
            process: pidfd_of(child).unwrap(),
            channel: Channel::connected(ours),
            asked: VecDeque::new(),
            has_answered: false,
            is_broken: false,
        });
        (zygote, Channel::accepted(theirs))
    }

    fn ask(zygote: &mut Zygote, boot: u64) -> bool {
        let request = SpawnRequest {
            program: ProgramSpec::new(["true"]),
            host: "web".parse().unwrap(),
            boot,
            expires_us: None,
        };
        zygote.ask(request, Vec::new())
    }

    fn heard(zygote: &mut Zygote) -> Vec<(u64, String, bool)> {
        let said = zygote.hear().into_iter();
        said.map(|said| (said.boot, format!("{:?}", said.reply), said.was_late))
            .collect()
    }

    fn age(zygote: &mut Zygote, by: Duration) {
        for asked in &mut zygote.running.as_mut().unwrap().asked {
            asked.since = asked.since.checked_sub(by).unwrap();
        }
    }

    fn said(boot: u64, reply: &str, was_late: bool) -> (u64, String, bool) {
        (boot, reply.to_owned(), was_late)
    }

    #[test]
    fn a_late_reply_is_told_apart_and_ends_the_lateness() {
        let (mut zygote, mut other) = zygote();
        assert!(ask(&mut zygote, 1));
        assert_eq!(heard(&mut zygote), []);
        age(&mut zygote, REPLY_TIMEOUT);
        assert_eq!(heard(&mut zygote), [said(1, "Late", false)]);
        assert_eq!(heard(&mut zygote), [], "once");
        assert!(!ask(&mut zygote, 2), "it owes a reply");
        let reply: SpawnReply = Ok(7);
        other.send(&reply, Vec::new()).unwrap();
        assert_eq!(heard(&mut zygote), [said(1, "Made(7)", true)]);
        assert!(ask(&mut zygote, 3));
    }

    #[test]
    fn a_request_expires_when_its_reply_would_be_late() {
        let (mut zygote, mut other) = zygote();
        let before_us = Clocks::read().boot_us;
        assert!(ask(&mut zygote, 1));
        let request: SpawnRequest = other.receive().unwrap().unwrap();
        assert!(request.expires_us.unwrap() >= before_us + 250_000);
        let reply: SpawnReply = Err(62);
        other.send(&reply, Vec::new()).unwrap();
        assert_eq!(heard(&mut zygote), [said(1, "None", false)]);
    }

    #[test]
    fn one_that_stays_silent_is_dropped_with_all_it_was_asked() {
        let (mut zygote, _other) = zygote();
        assert!(ask(&mut zygote, 1) && ask(&mut zygote, 2));
        age(&mut zygote, REPLY_TIMEOUT);
        assert_eq!(heard(&mut zygote), [said(1, "Late", false), said(2, "Late", false)]);
        age(&mut zygote, REPLACE_TIMEOUT);
        assert_eq!(heard(&mut zygote), [said(1, "None", true), said(2, "None", true)]);
        assert!(zygote.running.is_none() && !ask(&mut zygote, 3));
    }

    #[test]
    fn looks_are_planned_once() {
        let (mut zygote, _other) = zygote();
        assert_eq!(zygote.due(), None);
        assert!(ask(&mut zygote, 1));
        assert!(zygote.due().unwrap() <= REPLY_TIMEOUT);
        assert!(ask(&mut zygote, 2));
        assert_eq!(zygote.due(), None, "the first look is earlier");
        age(&mut zygote, REPLY_TIMEOUT);
        assert_eq!(zygote.hear().len(), 2);
        // By then the zygote is to be replaced.
        assert!(zygote.due().is_none_or(|time| time > REPLY_TIMEOUT));
    }
}
