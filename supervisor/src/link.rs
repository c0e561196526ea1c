//! The connection to the broker, which may go away and come back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::control::Opening;
use imsup_protocol::version::Disagreement;
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::ErrorKind;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The connection to the broker. Sending never waits; without a broker, messages are dropped.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    channel: Option<Channel>,
    /// A message that can wait, but only until the next message.
    deferred: Option<ToBroker>,
    /// True if the keeper starts another broker after this broker. Not updated while this broker is
    /// connected.
    next_comes: bool,
}

impl Link {
    /// Connects and sends the first message. The connection blocks until [`Link::go_on`].
    ///
    /// Blocking: before the loop, which connects by [`Link::reopen`].
    ///
    /// # Errors
    /// Errors of connect(2) (ENOENT and ECONNREFUSED if no broker runs) and of sending the message.
    /// EACCES if the broker belongs to another user.
    pub fn open(path: PathBuf, hello: ToBroker) -> Result<Self, ChannelError> {
        let channel = introduced(UnixStream::connect(&path)?, hello)?;
        Ok(Self {
            path,
            channel: Some(channel),
            deferred: None,
            next_comes: true,
        })
    }

    /// Connects to the next broker. Nothing blocks: a broker that is stopped accepts nobody, and
    /// connect(2) would wait for room in its queue.
    ///
    /// # Errors
    /// As [`Link::open`]; EAGAIN for a broker whose queue is full.
    pub fn reopen(&mut self, hello: ToBroker) -> Result<(), ChannelError> {
        self.channel = Some(introduced(connect_at_once(&self.path)?, hello)?);
        // The first message has already reported the outcome of the deferred message.
        self.deferred = None;
        self.next_comes = true;
        Ok(())
    }

    /// Waits for the answer to the first message.
    ///
    /// # Errors
    /// Any [`ChannelError`].
    pub fn welcome(&mut self) -> Result<ToSupervisor, ChannelError> {
        let channel = self.channel.as_mut().ok_or(ChannelError::Closed)?;
        hear(channel)?.ok_or(ChannelError::Closed)
    }

    /// Descriptors that came with a message.
    ///
    /// # Errors
    /// [`ChannelError::Descriptors`] if fewer descriptors came.
    pub fn take_fds(&mut self, count: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        self.channel.as_mut().ok_or(ChannelError::Closed)?.take_fds(count)
    }

    /// Whether the broker has closed the connection, or has died: POLLHUP of poll(2), which comes
    /// at once (net/unix/af_unix.c, unix_release_sock).
    pub fn has_hung_up(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        let mut polled = [PollFd::new(&socket, PollFlags::empty())];
        let now = Timespec::default();
        rustix::event::poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Makes all further operations non-blocking.
    ///
    /// # Errors
    /// Errors of fcntl(2).
    pub fn go_on(&mut self) -> Result<(), ChannelError> {
        if let Some(channel) = &self.channel {
            channel.socket().set_nonblocking(true)?;
        }
        Ok(())
    }

    /// Sends a message, or keeps the message until [`Link::flush`]. Drops the message if there is
    /// no broker.
    pub fn send(&mut self, message: &ToBroker, fds: Vec<OwnedFd>) {
        self.send_deferred();
        self.send_now(message, fds);
    }

    /// Gives the broker a duplicate of the listener of the program's trapped calls, if there is a
    /// descriptor for the duplicate. With the duplicate, trapped calls wait for the program's end
    /// if this process is killed. The kernel closes this process's files (kernel/exit.c,
    /// exit_files) before its child gets the signal (exit_notify, PR_SET_PDEATHSIG(2const)). Once
    /// sent, the duplicate outlives this process in the broker's queue.
    pub fn share_notify_listener(&mut self, listener: BorrowedFd<'_>) {
        let Some(channel) = &mut self.channel else { return };
        let shared = listener
            .try_clone_to_owned()
            .map_err(ChannelError::Io)
            .and_then(|copy| channel.send_or_forget(&ToBroker::NotifyListener, vec![copy]));
        if let Err(error) = shared {
            tracing::debug!(%error, "calls of the program fail for a moment if its supervisor is killed");
        }
    }

    /// Sends a message later: right before the next message, or with [`Link::send_deferred`].
    pub fn defer(&mut self, message: ToBroker) {
        self.send_deferred();
        self.deferred = Some(message);
    }

    /// Sends the deferred message.
    pub fn send_deferred(&mut self) {
        if let Some(message) = self.deferred.take() {
            self.send_now(&message, Vec::new());
        }
    }

    fn send_now(&mut self, message: &ToBroker, fds: Vec<OwnedFd>) {
        if let Some(channel) = &mut self.channel
            && channel.send(message, fds).is_err()
        {
            // The next broker is told again of all that is still true.
            self.channel = None;
        }
    }

    /// Sends the last message, and waits until the message is sent.
    pub fn finish(mut self, message: &ToBroker) {
        self.send_deferred();
        if let Some(channel) = &mut self.channel {
            let _ = channel.socket().set_nonblocking(false);
            let _ = channel.send(message, Vec::new());
        }
    }

    /// Makes all further operations blocking again, with this longest wait.
    ///
    /// # Errors
    /// Errors of fcntl(2) and setsockopt(2); [`ChannelError::Closed`] if there is no broker.
    pub fn wait_again(&mut self, longest: Duration) -> Result<(), ChannelError> {
        let channel = self.channel.as_ref().ok_or(ChannelError::Closed)?;
        channel.socket().set_nonblocking(false)?;
        channel.socket().set_read_timeout(Some(longest))?;
        channel.socket().set_write_timeout(Some(longest))?;
        Ok(())
    }

    /// True if the broker confirms that it has received all messages. Waits for the confirmation if
    /// the connection is blocking.
    pub fn is_acknowledged(&mut self) -> bool {
        self.send(&ToBroker::Acknowledge, Vec::new());
        while let Some(message) = self.receive() {
            if message == ToSupervisor::Acknowledged {
                return true;
            }
        }
        false
    }

    /// The next message; `None` if no message has come.
    pub fn receive(&mut self) -> Option<ToSupervisor> {
        match hear(self.channel.as_mut()?) {
            Ok(message) => message,
            Err(_) => {
                self.channel = None;
                None
            }
        }
    }

    /// Sends the kept messages.
    pub fn flush(&mut self) {
        if let Some(channel) = &mut self.channel
            && channel.flush().is_err()
        {
            self.channel = None;
        }
    }

    /// True if any message is kept.
    pub fn wants_write(&self) -> bool {
        self.channel.as_ref().is_some_and(Channel::wants_write)
    }

    /// The socket to poll; `None` while there is no broker.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(|channel| channel.socket().as_fd())
    }

    /// There is no broker. `next_comes` is true if the keeper starts the next broker.
    pub fn lost(&mut self, next_comes: bool) {
        self.next_comes = next_comes;
    }

    /// True if a question will be answered: by the present broker, or by the next broker that the
    /// keeper starts.
    pub fn is_answered(&self) -> bool {
        self.channel.is_some() || self.next_comes
    }

    /// The path of the broker's socket.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// The next message. A broker that speaks other versions takes no supervisor of this build.
fn hear(channel: &mut Channel) -> Result<Option<ToSupervisor>, ChannelError> {
    match channel.receive() {
        Err(ChannelError::Versions(Disagreement { ours, theirs })) => {
            let rejected = ErrorKind::VersionMismatch.because(format!(
                "the project's broker speaks {theirs} of imsup's messages, and this supervisor {ours}: \
                 use one imsup for both (`imsup down`, then `imsup up` with the new one)"
            ));
            Ok(Some(ToSupervisor::Rejected(rejected)))
        }
        received => received,
    }
}

/// A broker is obeyed, so it must be this user's or root's. Root may serve anybody's.
/// A non-blocking connection.
fn connect_at_once(path: &Path) -> std::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The first message says who we are, if we trust whoever is at the other end.
fn introduced(stream: UnixStream, hello: ToBroker) -> Result<Channel, ChannelError> {
    check_owner(&stream)?;
    let mut channel = Channel::connected(stream);
    channel.send(&Opening::Supervisor(hello), Vec::new())?;
    Ok(channel)
}

fn check_owner(stream: &UnixStream) -> std::io::Result<()> {
    let (own, peer) = (geteuid().as_raw(), getsockopt(stream, PeerCredentials)?.uid());
    if own == 0 || peer == 0 || peer == own {
        return Ok(());
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::PermissionDenied,
        format!(
            "it belongs to user {peer}, who is not trusted; set XDG_RUNTIME_DIR or IMSUP_RUNTIME_DIR to a directory of your own"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use imsup_protocol::version::{OURS, Versions};

    use super::*;

    /// Nobody accepts: what does not fit into the queue would wait for ever.
    #[test]
    fn the_next_broker_is_not_waited_for_if_its_queue_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker.sock");
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        // A backlog of 0 has room for one (net/unix/af_unix.c, unix_recvq_full).
        rustix::net::listen(&listener, 0).unwrap();
        let mut link = Link::open(path, ToBroker::Acknowledge).unwrap();
        let full = link.reopen(ToBroker::Acknowledge).unwrap_err();
        let ChannelError::Io(error) = full else {
            panic!("{full}")
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_broker_that_speaks_other_versions_is_one_that_rejects() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut link = Link::open(path, ToBroker::Acknowledge).unwrap();
        let (mut broker, _) = listener.accept().unwrap();
        let newer = Versions::new(OURS.highest() + 1, OURS.highest() + 2).unwrap();
        broker.write_all(&newer.to_hello()).unwrap();
        let ToSupervisor::Rejected(failure) = link.welcome().unwrap() else {
            panic!("it is not welcome");
        };
        assert_eq!(failure.kind, ErrorKind::VersionMismatch);
        for part in [OURS, newer] {
            assert!(failure.message.contains(&part.to_string()), "{failure}");
        }
    }

    #[test]
    fn a_broker_that_closes_the_connection_has_hung_up_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let link = Link::open(path, ToBroker::Acknowledge).unwrap();
        let (broker, _) = listener.accept().unwrap();
        assert!(!link.has_hung_up());
        drop(broker);
        assert!(link.has_hung_up());
    }
}
