//! A Unix stream socket that carries frames with their descriptors, after a hello of each side
//! ([`crate::version`]).
//!
//! Works on blocking and non-blocking sockets alike. [`Channel::flush`] sends frames that the
//! kernel did not accept yet; a frame that has not arrived is `None`.

use std::collections::VecDeque;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError, MAX_FRAME_FDS};
use crate::version::{self, Disagreement, HELLO_BYTES, HelloError, OURS, Versions};

const READ_BYTES: usize = 16 * 1024;

/// Most frames sent by one call (sendmsg(2), UIO_MAXIOV allows 1,024).
const SENT_TOGETHER: usize = 512;

/// Most descriptors kept for messages that have not been taken; a peer that sends more is cut off.
const MAX_UNCLAIMED_FDS: usize = 4 * MAX_FRAME_FDS;

/// Why a channel can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer did not begin with a hello.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The peer speaks other versions, and was sent the hello of this side.
    #[error(transparent)]
    Versions(#[from] Disagreement),
    /// The peer sent something that is not a message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The peer sent descriptors without the messages that need them, or messages without their
    /// descriptors.
    #[error("descriptors and messages do not fit each other")]
    Descriptors,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// One end of a connection between imsup's processes.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    incoming: Vec<u8>,
    incoming_fds: VecDeque<OwnedFd>,
    outgoing: VecDeque<(Vec<u8>, usize, Vec<OwnedFd>)>,
    eof: bool,
    side: Side,
    ours: Versions,
    /// Whether this side's hello was sent, or is among the outgoing.
    said_hello: bool,
    /// The version agreed on, once the peer's hello has come.
    agreed: Option<u16>,
}

/// The side that speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// This side.
    Connected,
    /// The peer.
    Accepted,
}

impl Channel {
    /// A channel over a socket by which this process has connected to the peer: this process speaks
    /// first. The socket keeps its blocking mode.
    pub fn connected(socket: UnixStream) -> Self {
        Self::new(socket, Side::Connected, OURS)
    }

    /// A channel over a socket by which the peer has connected to this process: the peer speaks
    /// first. The socket keeps its blocking mode.
    pub fn accepted(socket: UnixStream) -> Self {
        Self::new(socket, Side::Accepted, OURS)
    }

    fn new(socket: UnixStream, side: Side, ours: Versions) -> Self {
        Self {
            socket,
            incoming: Vec::new(),
            incoming_fds: VecDeque::new(),
            outgoing: VecDeque::new(),
            eof: false,
            side,
            ours,
            said_hello: false,
            agreed: None,
        }
    }

    /// The version that both sides speak; `None` until the peer's hello has been received.
    pub fn version(&self) -> Option<u16> {
        self.agreed
    }

    /// The socket.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends a message and the descriptors that belong to it, or keeps it until [`Channel::flush`].
    ///
    /// # Errors
    /// [`ChannelError::Codec`] for a message that is too large; otherwise as [`Channel::flush`].
    pub fn send<M: Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        self.queue(message, fds)?;
        self.flush()
    }

    /// Sends a message that may be missed: one that cannot be sent is forgotten, and what the peer
    /// has said can still be read. One that the socket has no room for is kept.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_or_forget<M: Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        self.queue(message, fds)?;
        let sent = self.flush();
        if sent.is_err() {
            self.outgoing.pop_back();
        }
        sent
    }

    /// Keeps a message until [`Channel::flush`], which sends it together with others: a Unix socket
    /// has room for some 280 messages that are sent one by one, however short they are (unix(7);
    /// each counts as a whole buffer), and sender and reader then wait for each other that often.
    ///
    /// # Errors
    /// [`ChannelError::Codec`] for a message that is too large.
    pub fn queue<M: Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        if fds.len() > MAX_FRAME_FDS {
            return Err(ChannelError::Descriptors);
        }
        let frame = codec::encode(message)?;
        // Hello and first frame in one piece: the peer is woken once.
        let bytes = match std::mem::replace(&mut self.said_hello, true) {
            true => frame,
            false => [&self.ours.to_hello(), &frame[..]].concat(),
        };
        self.outgoing.push_back((bytes, 0, fds));
        Ok(())
    }

    /// Sends the hello alone, unless the hello was sent with a message.
    fn say_hello(&mut self) {
        if !std::mem::replace(&mut self.said_hello, true) {
            self.outgoing.push_back((self.ours.to_hello().to_vec(), 0, Vec::new()));
            // After a failure, earlier messages of the peer can still be read; reading finds the
            // end.
            let _ = self.flush();
        }
    }

    /// Takes the peer's hello, if complete.
    fn hear_hello(&mut self) -> Result<(), ChannelError> {
        if self.agreed.is_some() {
            return Ok(());
        }
        match Versions::from_hello(&self.incoming) {
            Ok(None) => Ok(()),
            Ok(Some(theirs)) => {
                self.incoming.drain(..HELLO_BYTES);
                let agreed = version::agree(self.ours, theirs);
                if agreed.is_err() {
                    self.say_hello();
                }
                self.agreed = Some(agreed?);
                Ok(())
            }
            Err(error) => match version::refusal_of_version_4(&self.incoming, self.ours) {
                Some((disagreement, refusal)) if self.side == Side::Accepted => {
                    self.outgoing.push_back((refusal, 0, Vec::new()));
                    let _ = self.flush();
                    Err(disagreement.into())
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Whether something waits to be sent.
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// How many messages wait to be sent.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends what is kept, as far as the socket takes it.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] (EPIPE, ECONNRESET) or [`ChannelError::Io`].
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some((_, _, fds)) = self.outgoing.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FRAME_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(ChannelError::Descriptors);
            }
            // Frames with descriptors of their own begin the next one.
            let later = self.outgoing.iter().skip(1).take_while(|(_, _, fds)| fds.is_empty());
            let data: Vec<IoSlice<'_>> = self
                .outgoing
                .iter()
                .take(1)
                .chain(later)
                .take(SENT_TOGETHER)
                .map(|(frame, sent, _)| IoSlice::new(&frame[*sent..]))
                .collect();
            match rustix::net::sendmsg(&self.socket, &data, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => self.forget_sent(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::Io(errno.into())),
            }
        }
        Ok(())
    }

    /// Forgets the first bytes of what is kept, which are sent, with the descriptors that went with
    /// them.
    fn forget_sent(&mut self, mut count: usize) {
        while let Some((frame, sent, fds)) = self.outgoing.front_mut() {
            if count == 0 {
                return;
            }
            fds.clear();
            let rest = frame.len() - *sent;
            if count < rest {
                *sent += count;
                return;
            }
            count -= rest;
            self.outgoing.pop_front();
        }
    }

    /// Whether [`Channel::receive`] has a message, or an error, without waiting for the socket.
    pub fn has_message(&self) -> bool {
        self.agreed.is_some() && codec::has_frame(&self.incoming)
    }

    /// The next message; `None` where the socket is non-blocking and none is complete. On a
    /// blocking socket it waits.
    ///
    /// # Errors
    /// Any [`ChannelError`]; the channel is then useless.
    pub fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<M>, ChannelError> {
        loop {
            self.hear_hello()?;
            if self.agreed.is_some()
                && let Some(message) = codec::decode(&mut self.incoming)?
            {
                return Ok(Some(message));
            }
            if self.eof {
                return Err(ChannelError::Closed);
            }
            // The peer may wait for the hello of this side.
            if self.agreed.is_some() || self.side == Side::Connected {
                self.say_hello();
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Takes the next `count` descriptors that came with messages already received, in their order.
    ///
    /// # Errors
    /// [`ChannelError::Descriptors`] where the peer did not send as many.
    pub fn take_fds(&mut self, count: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        if count > self.incoming_fds.len() {
            return Err(ChannelError::Descriptors);
        }
        Ok(self.incoming_fds.drain(..count).collect())
    }

    /// Reads once; false where nothing is there yet.
    fn fill(&mut self) -> Result<bool, ChannelError> {
        let start = self.incoming.len();
        self.incoming.resize(start + READ_BYTES, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FRAME_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let result = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut self.incoming[start..])],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let count = result.as_ref().map_or(0, |message| message.bytes);
        self.incoming.truncate(start + count);
        match result {
            Ok(_) => {
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        self.incoming_fds.extend(fds);
                    }
                }
                if self.incoming_fds.len() > MAX_UNCLAIMED_FDS {
                    return Err(ChannelError::Descriptors);
                }
                self.eof = count == 0;
                Ok(true)
            }
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(rustix::io::Errno::CONNRESET) => Err(ChannelError::Closed),
            Err(errno) => Err(ChannelError::Io(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Outcome, ToSupervisor};
    use imsup_wire::ErrorKind;

    /// Both ends of a connection; which of them has connected makes no difference once they have
    /// agreed.
    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        for end in [&a, &b] {
            end.set_nonblocking(true).unwrap();
        }
        let (mut a, mut b) = (Channel::connected(a), Channel::accepted(b));
        let hear = |end: &mut Channel| assert_eq!(end.receive::<ToSupervisor>().unwrap(), None);
        hear(&mut a);
        hear(&mut b);
        hear(&mut a);
        assert_eq!(a.version(), Some(OURS.highest()));
        assert_eq!(a.version(), b.version());
        for end in [&a, &b] {
            end.socket().set_nonblocking(false).unwrap();
        }
        (a, b)
    }

    #[test]
    fn frames_and_descriptors_arrive_together() {
        let (mut a, mut b) = pair();
        let message = ToSupervisor::Claimed { id: 7, found: true };
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        a.send(&message, vec![file]).unwrap();
        assert_eq!(b.receive::<ToSupervisor>().unwrap(), Some(message));
        assert_eq!(b.take_fds(1).unwrap().len(), 1);
        assert!(matches!(b.take_fds(1), Err(ChannelError::Descriptors)));
    }

    #[test]
    fn what_is_forgotten_is_in_nobodys_way() {
        let (mut a, mut b) = pair();
        let rejected = ToSupervisor::Rejected(ErrorKind::NoAddress.because("no place"));
        b.send(&rejected, Vec::new()).unwrap();
        drop(b);
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let message = ToSupervisor::Claimed { id: 7, found: true };
        assert!(matches!(
            a.send_or_forget(&message, vec![file]),
            Err(ChannelError::Closed)
        ));
        assert!(!a.wants_write());
        assert_eq!(a.receive().unwrap(), Some(rejected));
    }

    #[test]
    fn a_full_socket_keeps_what_it_does_not_take() {
        let (mut a, mut b) = pair();
        a.socket().set_nonblocking(true).unwrap();
        let message = ToSupervisor::Rejected(ErrorKind::Other.because("x".repeat(100_000)));
        for _ in 0..20 {
            a.send(&message, Vec::new()).unwrap();
        }
        assert!(a.wants_write(), "2 MB do not fit a socket buffer");
        for _ in 0..20 {
            while a.wants_write() {
                a.flush().unwrap();
                if a.wants_write() {
                    break;
                }
            }
            assert_eq!(b.receive::<ToSupervisor>().unwrap().as_ref(), Some(&message));
        }
    }

    /// How many messages a socket takes before somebody reads.
    fn taken(send: impl Fn(&mut Channel, &ToSupervisor)) -> usize {
        let (mut a, mut b) = pair();
        a.socket().set_nonblocking(true).unwrap();
        let mut sent = 0;
        while !a.wants_write() {
            for _ in 0..SENT_TOGETHER {
                send(&mut a, &ToSupervisor::Claimed { id: sent, found: true });
                sent += 1;
            }
            a.flush().unwrap();
        }
        b.socket().set_nonblocking(true).unwrap();
        let mut taken = 0;
        while let Some(message) = b.receive::<ToSupervisor>().unwrap() {
            assert_eq!(message, ToSupervisor::Claimed { id: taken, found: true });
            taken += 1;
        }
        while a.wants_write() {
            a.flush().unwrap();
            while let Some(message) = b.receive::<ToSupervisor>().unwrap() {
                assert_eq!(message, ToSupervisor::Claimed { id: taken, found: true });
                taken += 1;
            }
        }
        assert_eq!(taken, sent, "all arrive, in their order");
        usize::try_from(sent).unwrap() - SENT_TOGETHER
    }

    #[test]
    fn messages_that_are_sent_together_find_more_room() {
        let each = taken(|channel, message| {
            channel.queue(message, Vec::new()).unwrap();
            // As `send` does, of one that has not been taken, too.
            if channel.queued() == 1 {
                channel.flush().unwrap();
            }
        });
        let together = taken(|channel, message| channel.queue(message, Vec::new()).unwrap());
        assert!(
            together > 10 * each.max(SENT_TOGETHER),
            "{each} one by one, {together} together"
        );
    }

    #[test]
    fn descriptors_arrive_with_their_messages_among_others() {
        let (mut a, mut b) = pair();
        let with_file = [1, 4, 5];
        for id in 0..8 {
            let file: Vec<OwnedFd> = with_file
                .contains(&id)
                .then(|| std::fs::File::open("/dev/null").unwrap().into())
                .into_iter()
                .collect();
            a.queue(&ToSupervisor::Claimed { id, found: true }, file).unwrap();
        }
        a.flush().unwrap();
        for id in 0..8 {
            let message = b.receive::<ToSupervisor>().unwrap();
            assert_eq!(message, Some(ToSupervisor::Claimed { id, found: true }));
            let count = usize::from(with_file.contains(&id));
            assert_eq!(b.take_fds(count).unwrap().len(), count);
        }
        assert!(!b.has_message());
    }

    #[test]
    fn a_closed_peer_is_told_after_its_last_message() {
        let (mut a, mut b) = pair();
        let message = ToSupervisor::Reached {
            id: 1,
            outcome: Outcome::Connect,
        };
        a.send(&message, Vec::new()).unwrap();
        drop(a);
        assert_eq!(b.receive::<ToSupervisor>().unwrap(), Some(message));
        assert!(matches!(b.receive::<ToSupervisor>(), Err(ChannelError::Closed)));
    }
}
