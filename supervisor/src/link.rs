//! The connection to the broker, which may go away and come back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::control::Opening;
use imsup_protocol::{ToBroker, ToSupervisor};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The connection to the broker. Sending never waits; without a broker it does nothing.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    channel: Option<Channel>,
    /// What can wait, but not longer than what is said after it.
    deferred: Option<ToBroker>,
    /// Whether a broker comes by itself after this one; not looked at while this one is there.
    next_comes: bool,
}

impl Link {
    /// Connects and sends the first message. The connection blocks until [`Link::go_on`].
    ///
    /// # Errors
    /// What connect(2) says (ENOENT and ECONNREFUSED where no broker runs), or why the message could not be sent. EACCES for
    /// a broker of another user.
    pub fn open(path: PathBuf, hello: ToBroker) -> Result<Self, ChannelError> {
        let channel = introduced(UnixStream::connect(&path)?, hello)?;
        Ok(Self {
            path,
            channel: Some(channel),
            deferred: None,
            next_comes: true,
        })
    }

    /// Connects to the next broker. Nothing blocks: a broker that is stopped accepts nobody, and connect(2) would wait for room in its queue.
    ///
    /// # Errors
    /// As [`Link::open`]; EAGAIN for a broker whose queue is full.
    pub fn reopen(&mut self, hello: ToBroker) -> Result<(), ChannelError> {
        self.channel = Some(introduced(connect_at_once(&self.path)?, hello)?);
        // The first message has said what came of it.
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
        channel.receive()?.ok_or(ChannelError::Closed)
    }

    /// Descriptors that came with a message.
    ///
    /// # Errors
    /// [`ChannelError::Descriptors`] where fewer came.
    pub fn take_fds(&mut self, count: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        self.channel.as_mut().ok_or(ChannelError::Closed)?.take_fds(count)
    }

    /// Whether the broker has closed the connection, or has died: POLLHUP of poll(2), which comes at once (net/unix/af_unix.c, unix_release_sock).
    pub fn has_hung_up(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        let mut polled = [PollFd::new(&socket, PollFlags::empty())];
        let now = Timespec::default();
        rustix::event::poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    /// From now on nothing blocks.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn go_on(&mut self) -> Result<(), ChannelError> {
        if let Some(channel) = &self.channel {
            channel.socket().set_nonblocking(true)?;
        }
        Ok(())
    }

    /// Sends a message, or keeps it until [`Link::flush`]; drops it where there is no broker.
    pub fn send(&mut self, message: &ToBroker, fds: Vec<OwnedFd>) {
        self.send_deferred();
        self.send_now(message, fds);
    }

    /// Gives the broker a duplicate of the listener of the program's trapped calls, if there is a descriptor for that. With it they wait for the program's
    /// end if this process is killed, which closes its files (kernel/exit.c, exit_files) before its child hears of that (exit_notify,
    /// PR_SET_PDEATHSIG(2const)). Once it is sent, it outlives this process in the broker's queue.
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

    /// Sends a message later: right before the next one, or with [`Link::send_deferred`].
    pub fn defer(&mut self, message: ToBroker) {
        self.send_deferred();
        self.deferred = Some(message);
    }

    /// Sends what was deferred.
    pub fn send_deferred(&mut self) {
        if let Some(message) = self.deferred.take() {
            self.send_now(&message, Vec::new());
        }
    }

    fn send_now(&mut self, message: &ToBroker, fds: Vec<OwnedFd>) {
        if let Some(channel) = &mut self.channel
            && channel.send(message, fds).is_err()
        {
            // What was sent is told again to the next broker, as far as it is still true.
            self.channel = None;
        }
    }

    /// The last message: waits until it is sent.
    pub fn finish(mut self, message: &ToBroker) {
        self.send_deferred();
        if let Some(channel) = &mut self.channel {
            let _ = channel.socket().set_nonblocking(false);
            let _ = channel.send(message, Vec::new());
        }
    }

    /// From now on everything blocks again, for so long at most.
    ///
    /// # Errors
    /// What fcntl(2) and setsockopt(2) say; [`ChannelError::Closed`] where there is no broker.
    pub fn wait_again(&mut self, longest: Duration) -> Result<(), ChannelError> {
        let channel = self.channel.as_ref().ok_or(ChannelError::Closed)?;
        channel.socket().set_nonblocking(false)?;
        channel.socket().set_read_timeout(Some(longest))?;
        channel.socket().set_write_timeout(Some(longest))?;
        Ok(())
    }

    /// Whether the broker says that it has taken all that it was told. Where everything blocks, it is waited for.
    pub fn is_acknowledged(&mut self) -> bool {
        self.send(&ToBroker::Acknowledge, Vec::new());
        while let Some(message) = self.receive() {
            if message == ToSupervisor::Acknowledged {
                return true;
            }
        }
        false
    }

    /// The next message; `None` where none has come.
    pub fn receive(&mut self) -> Option<ToSupervisor> {
        match self.channel.as_mut()?.receive() {
            Ok(message) => message,
            Err(_) => {
                self.channel = None;
                None
            }
        }
    }

    /// Sends what was kept.
    pub fn flush(&mut self) {
        if let Some(channel) = &mut self.channel
            && channel.flush().is_err()
        {
            self.channel = None;
        }
    }

    /// Whether something is kept.
    pub fn wants_write(&self) -> bool {
        self.channel.as_ref().is_some_and(Channel::wants_write)
    }

    /// The socket to poll; `None` while there is no broker.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(|channel| channel.socket().as_fd())
    }

    /// There is no broker; whether the next one comes by itself.
    pub fn lost(&mut self, next_comes: bool) {
        self.next_comes = next_comes;
    }

    /// Whether a question is answered: by the broker, or by the next one, which comes by itself.
    pub fn is_answered(&self) -> bool {
        self.channel.is_some() || self.next_comes
    }

    /// Where the broker's socket is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
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
    let mut channel = Channel::new(stream);
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
    use std::os::unix::net::UnixListener;

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
