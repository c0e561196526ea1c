//! Messages of a file descriptor store: the text of sd_notify(3), one message a packet, with at
//! most one descriptor.
//!
//! Either side begins with [`Message::Hello`], whose text never changes. What a store does not know
//! it disregards, so a new message needs no higher version, unless the sender must know that it is
//! carried out.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imsup_protocol::version::Versions;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

/// The longest message: a name has 255 bytes at most (sd_pid_notify_with_fds(3)).
const MAX_BYTES: usize = 512;

/// What [`Message::Hello`] begins with.
const HELLO: &str = "X_IMSUP_VERSIONS=";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The versions that the sender speaks ([`imsup_protocol::version`]). No word of systemd's, as
    /// [`Message::RetakeLock`].
    Hello(Versions),
    /// Keep the descriptor that comes with this under a name.
    Store(String),
    /// Close the descriptors stored under a name.
    Remove(String),
    /// Close the descriptor of this message, after all earlier messages were carried out.
    Barrier,
    /// The broker serves. To the next broker: that was all.
    Ready,
    /// The project is taken down, or never came up: close all descriptors.
    Stopping,
    /// Lock a new file, since the locked file was removed. This message is not systemd's, so its
    /// name begins as sd_notify(3) asks for.
    RetakeLock,
}

impl Message {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Hello(versions) => format!("{HELLO}{}-{}", versions.lowest(), versions.highest()),
            Self::Store(name) => format!("FDSTORE=1\nFDNAME={name}"),
            Self::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
            Self::Barrier => "BARRIER=1".to_owned(),
            Self::Ready => "READY=1".to_owned(),
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::RetakeLock => "X_IMSUP_RETAKE_LOCK=1".to_owned(),
        }
    }

    /// `None` for messages that a store does not know and ignores.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let name = rest.strip_prefix("FDNAME=").map(str::to_owned);
        if let Some(range) = first.strip_prefix(HELLO) {
            let (lowest, highest) = range.split_once('-')?;
            return Versions::new(lowest.parse().ok()?, highest.parse().ok()?).map(Self::Hello);
        }
        match first {
            "FDSTORE=1" => name.map(Self::Store),
            "FDSTOREREMOVE=1" => name.map(Self::Remove),
            "BARRIER=1" => Some(Self::Barrier),
            "READY=1" => Some(Self::Ready),
            "STOPPING=1" => Some(Self::Stopping),
            "X_IMSUP_RETAKE_LOCK=1" => Some(Self::RetakeLock),
            _ => None,
        }
    }
}

/// Two connected sockets, the ends of which are told (SOCK_SEQPACKET, unix(7)).
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a message. A non-blocking socket that is full says EAGAIN; ETOOMANYREFS: too many
/// descriptors of this user are under way (unix(7)).
pub(super) fn send(socket: impl AsFd, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let text = message.text();
    loop {
        match rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(text.as_bytes())],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// The next message, with its descriptor; `None` at the end of the connection.
pub(super) fn receive(socket: impl AsFd) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    loop {
        let mut bytes = [0; MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            // The other end was closed with unread messages of ours; its own messages follow
            // (net/unix/af_unix.c, unix_release_sock).
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            received => received?.bytes,
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if received == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&bytes[..received]).ok();
        if let Some(message) = text.and_then(Message::parse) {
            return Ok(Some((message, fd)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_sd_notify() {
        let name = "tcp 127.77.3.2 6379 17".to_owned();
        for (message, text) in [
            (Message::Hello(Versions::new(5, 7).unwrap()), "X_IMSUP_VERSIONS=5-7"),
            (Message::Store(name.clone()), "FDSTORE=1\nFDNAME=tcp 127.77.3.2 6379 17"),
            (Message::Remove(name), "FDSTOREREMOVE=1\nFDNAME=tcp 127.77.3.2 6379 17"),
            (Message::Barrier, "BARRIER=1"),
            (Message::Ready, "READY=1"),
            (Message::Stopping, "STOPPING=1"),
            (Message::RetakeLock, "X_IMSUP_RETAKE_LOCK=1"),
        ] {
            assert_eq!(message.text(), text);
            assert_eq!(Message::parse(text), Some(message));
        }
        for text in ["", "FDSTORE=1", "FDSTORE=1\nX=y", "STATUS=well", "X_IMSUP_VERSIONS=7-5"] {
            assert_eq!(Message::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_was_sent_before_the_end_is_received() {
        let (ours, theirs) = pair().unwrap();
        // Unread when the other end is closed: this causes a reset, but the messages of that end
        // still arrive.
        send(&ours, &Message::Ready, None).unwrap();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        send(&theirs, &Message::Store("one".to_owned()), Some(file.as_fd())).unwrap();
        rustix::net::send(&theirs, b"STATUS=unknown", SendFlags::empty()).unwrap();
        send(&theirs, &Message::Stopping, None).unwrap();
        drop(theirs);
        let (message, fd) = receive(&ours).unwrap().unwrap();
        assert_eq!(message, Message::Store("one".to_owned()));
        assert_eq!(
            rustix::fs::fstat(fd.unwrap()).unwrap().st_rdev,
            rustix::fs::fstat(&file).unwrap().st_rdev
        );
        assert_eq!(receive(&ours).unwrap().unwrap().0, Message::Stopping);
        assert!(receive(&ours).unwrap().is_none());
        assert_eq!(send(&ours, &Message::Ready, None), Err(Errno::PIPE));
    }
}
