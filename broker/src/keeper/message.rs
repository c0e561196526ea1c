//! Messages of a file descriptor store: the text of sd_notify(3), one message a packet, with at
//! most one descriptor, except for [`Message::StoreAll`].
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

/// The longest message.
const MAX_BYTES: usize = 8192;

/// The longest name (sd_pid_notify_with_fds(3)).
const MAX_NAME_BYTES: usize = 255;

/// The largest number of descriptors in a message. The kernel takes up to 253 (SCM_MAX_FD,
/// unix(7)); names of 60 bytes fit [`MAX_BYTES`] then.
pub(super) const MOST_TOGETHER: usize = 128;

/// What [`Message::Hello`] begins with.
const HELLO: &str = "X_IMSUP_VERSIONS=";

/// What [`Message::StoreAll`] begins with.
const STORE_ALL: &str = "X_IMSUP_STORE=1";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The versions that the sender speaks ([`imsup_protocol::version`]). No word of systemd's, as
    /// [`Message::RetakeLock`].
    Hello(Versions),
    /// Keep the descriptor that comes with this under a name.
    Store(String),
    /// Keep the descriptors that come with this, each under the name at the same place. No word of
    /// systemd's, which knows one name for all descriptors of a message; the same as a
    /// [`Message::Store`] for each, without a packet and a wake-up of the receiver for each.
    StoreAll(Vec<String>),
    /// Close the descriptors stored under a name.
    Remove(String),
    /// Close the descriptor of this message, after all earlier messages were carried out.
    Barrier,
    /// The broker serves. To the next broker: that was all.
    Ready,
    /// The project is taken down, or never came up: close all descriptors.
    Stopping,
    /// The broker ends so that another takes its place: that is no death.
    HandOver,
    /// Lock a new file, since the locked file was removed. This message is not systemd's, so its
    /// name begins as sd_notify(3) asks for.
    RetakeLock,
}

impl Message {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Hello(versions) => format!("{HELLO}{}-{}", versions.lowest(), versions.highest()),
            Self::Store(name) => format!("FDSTORE=1\nFDNAME={name}"),
            Self::StoreAll(names) => format!("{STORE_ALL}\n{}", names.join("\n")),
            Self::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
            Self::Barrier => "BARRIER=1".to_owned(),
            Self::Ready => "READY=1".to_owned(),
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::HandOver => "X_IMSUP_HAND_OVER=1".to_owned(),
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
            STORE_ALL => Some(Self::StoreAll(rest.lines().map(str::to_owned).collect())),
            "FDSTOREREMOVE=1" => name.map(Self::Remove),
            "BARRIER=1" => Some(Self::Barrier),
            "READY=1" => Some(Self::Ready),
            "STOPPING=1" => Some(Self::Stopping),
            "X_IMSUP_HAND_OVER=1" => Some(Self::HandOver),
            "X_IMSUP_RETAKE_LOCK=1" => Some(Self::RetakeLock),
            _ => None,
        }
    }
}

/// Two connected sockets, the ends of which are told (SOCK_SEQPACKET, unix(7)).
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Descriptors that one message stores.
#[derive(Debug, Default)]
pub(super) struct Together<'a> {
    names: Vec<String>,
    name_bytes: usize,
    fds: Vec<BorrowedFd<'a>>,
}

impl<'a> Together<'a> {
    /// Whether the message has room for another one, whatever its name.
    pub(super) fn has_room(&self) -> bool {
        // The names are separated.
        let bytes = STORE_ALL.len() + self.names.len() + self.name_bytes;
        self.names.len() < MOST_TOGETHER && bytes + MAX_NAME_BYTES < MAX_BYTES
    }

    /// Adds one.
    pub(super) fn add(&mut self, name: &str, fd: BorrowedFd<'a>) {
        self.names.push(name.to_owned());
        self.name_bytes += name.len();
        self.fds.push(fd);
    }

    /// Sends the message, if it stores any.
    pub(super) fn send(&self, socket: impl AsFd) -> Result<(), Errno> {
        match &self.names[..] {
            [] => Ok(()),
            [name] => send(socket, &Message::Store(name.clone()), &self.fds),
            names => send(socket, &Message::StoreAll(names.to_vec()), &self.fds),
        }
    }
}

/// Sends a message. A non-blocking socket that is full says EAGAIN; ETOOMANYREFS: too many
/// descriptors of this user are under way (unix(7)).
pub(super) fn send(socket: impl AsFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_TOGETHER))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
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

/// The next message, with its descriptors; `None` at the end of the connection.
pub(super) fn receive(socket: impl AsFd) -> Result<Option<(Message, Vec<OwnedFd>)>, Errno> {
    loop {
        let mut bytes = [0; MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_TOGETHER))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            // The other end was closed with unread messages of ours; its own messages follow
            // (net/unix/af_unix.c, unix_release_sock).
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            received => received?.bytes,
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if received == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&bytes[..received]).ok();
        if let Some(message) = text.and_then(Message::parse) {
            return Ok(Some((message, fds)));
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
            (
                Message::StoreAll(vec![name.clone(), "cluster 1".to_owned()]),
                "X_IMSUP_STORE=1\ntcp 127.77.3.2 6379 17\ncluster 1",
            ),
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
        send(&ours, &Message::Ready, &[]).unwrap();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        send(&theirs, &Message::Store("one".to_owned()), &[file.as_fd()]).unwrap();
        rustix::net::send(&theirs, b"STATUS=unknown", SendFlags::empty()).unwrap();
        send(&theirs, &Message::Stopping, &[]).unwrap();
        drop(theirs);
        let (message, fds) = receive(&ours).unwrap().unwrap();
        assert_eq!(message, Message::Store("one".to_owned()));
        assert_eq!(
            rustix::fs::fstat(&fds[0]).unwrap().st_rdev,
            rustix::fs::fstat(&file).unwrap().st_rdev
        );
        assert_eq!(receive(&ours).unwrap().unwrap().0, Message::Stopping);
        assert!(receive(&ours).unwrap().is_none());
        assert_eq!(send(&ours, &Message::Ready, &[]), Err(Errno::PIPE));
    }

    #[test]
    fn the_largest_message_arrives_whole() {
        for length in [MAX_NAME_BYTES, 1] {
            let (ours, theirs) = pair().unwrap();
            let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
            let mut together = Together::default();
            while together.has_room() {
                together.add(&"x".repeat(length), file.as_fd());
            }
            together.send(&ours).unwrap();
            let names = together.names;
            let (received, fds) = receive(&theirs).unwrap().unwrap();
            assert_eq!((received, fds.len()), (Message::StoreAll(names.clone()), names.len()));
            assert!(names.len() == MOST_TOGETHER || length == MAX_NAME_BYTES);
        }
    }
}
