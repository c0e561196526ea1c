//! accept(2) and accept4(2), trapped in a boot in which connections may wait in a retained listener
//! of another family than the program's own ([`crate::handover`]).

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;
use nix::errno::Errno;
use rustix::fs::OFlags;

use super::bind::endpoint_of;
use super::names::write_address;
use super::{Verdict, socket_of};
use crate::handover::{self, Accepted};
use crate::host::{Descriptors, Host};
use crate::mirror::Remembered;
use crate::pending::{LONGEST_ACCEPT, PendingCall, Waiting};
use imsup_linux::memory::ThreadMemory;
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::settings;
use imsup_linux::socket::{self, Family};

/// Handles accept(2): the kernel's own, but while connections are handed over.
pub(super) fn accept(host: &mut Host, call: &Notification) -> Verdict {
    match attempt(host, call) {
        Attempt::Answered(answer) => answer.into(),
        Attempt::Nobody { listener, timeout } => {
            let now = Instant::now();
            Verdict::Pending(Box::new(PendingCall {
                tid: call.tid,
                since: now,
                deadline: now + timeout.unwrap_or(LONGEST_ACCEPT),
                timeout_errno: Errno::EAGAIN as i32,
                waiting: Waiting::Accept { call: *call, listener },
            }))
        }
    }
}

/// Tries a pending accept(2) again; `None` if the call goes on waiting.
pub(super) fn look_again(host: &mut Host, call: &Notification) -> Option<Answer> {
    match attempt(host, call) {
        Attempt::Answered(answer) => Some(answer),
        Attempt::Nobody { .. } => None,
    }
}

enum Attempt {
    Answered(Answer),
    /// No connection is there, and the call waits, up to the socket's time-out.
    Nobody {
        /// The inode of the listener.
        listener: u64,
        timeout: Option<Duration>,
    },
}

impl From<Answer> for Attempt {
    fn from(answer: Answer) -> Self {
        Self::Answered(answer)
    }
}

fn attempt(host: &mut Host, call: &Notification) -> Attempt {
    if host.handovers.is_empty() {
        return Answer::Continue.into();
    }
    let flags = if i64::from(call.number) == libc::SYS_accept4 {
        call.int(3)
    } else {
        0
    };
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Answer::Continue.into();
    }
    let Ok((listener, kind)) = socket_of(host, call) else {
        return Answer::Continue.into();
    };
    let listener = listener.as_fd();
    let endpoint = endpoint_of(&host.identity, &kind).filter(|_| socket::accepts(listener));
    let Some(endpoint) = endpoint else {
        return Answer::Continue.into();
    };
    let given = host.handovers.next_given(endpoint, listener);
    let handover = host.handovers.get_mut(endpoint).filter(|handover| handover.is_begun());
    let connection = match (given, handover) {
        (Some(given), _) => given,
        (None, None) => return Answer::Continue.into(),
        (None, Some(handover)) => match handover.next(listener) {
            Some(next) => next,
            None => {
                host.handovers.accepted(endpoint);
                return nobody(host, endpoint, listener);
            }
        },
    };
    let answer = match give(host, call, listener, kind.family, &connection, flags) {
        Ok(number) => Answer::Value(number.into()),
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOENT)) => {
            // The program has no free descriptor number, or the thread is gone: natively no
            // connection was accepted.
            host.handovers.put_back(endpoint, connection);
            Answer::errno(errno)
        }
        Err(errno) => Answer::errno(errno),
    };
    host.handovers.accepted(endpoint);
    answer.into()
}

fn nobody(host: &mut Host, endpoint: Endpoint, listener: BorrowedFd<'_>) -> Attempt {
    if host.handovers.get_mut(endpoint).is_none() {
        return Answer::Continue.into();
    }
    if socket::status_flags(listener).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)) {
        return Answer::errno(Errno::EAGAIN).into();
    }
    Attempt::Nobody {
        listener: socket::inode(listener).unwrap_or_default(),
        timeout: socket::receive_timeout(listener).ok().flatten(),
    }
}

/// Does the kernel's work for an accepted connection (net/socket.c, do_accept): descriptor number,
/// flags, and address.
fn give(
    host: &mut Host,
    call: &Notification,
    listener: BorrowedFd<'_>,
    family: Family,
    connection: &Accepted,
    flags: i32,
) -> Result<RawFd, Errno> {
    let socket = &connection.socket;
    let peer = match family {
        Family::V4 => canonical(connection.peer),
        Family::V6 => connection.peer,
    };
    if connection.waited {
        if family == Family::V4 && handover::convert(socket.as_fd()).is_err() {
            show_as_v4(host, socket, peer);
        }
        // The connection was made while the listener's options were not known.
        settings::inherit(listener, socket.as_fd())?;
    }
    let wanted = if flags & libc::SOCK_NONBLOCK == 0 {
        OFlags::empty()
    } else {
        OFlags::NONBLOCK
    };
    socket::set_status_flags(socket.as_fd(), OFlags::RDWR | wanted)?;
    if call.args[1] != 0 {
        write_address(&ThreadMemory::of(call.tid), call.args[1], call.args[2], peer)?;
    }
    host.listener
        .give_fd(call.id, socket.as_fd(), flags & libc::SOCK_CLOEXEC != 0)
}

/// The kernel does not convert a connection after the peer has ended its side. The program is shown
/// addresses of its own family all the same.
fn show_as_v4(host: &mut Host, connection: &OwnedFd, peer: SocketAddr) {
    let socket = connection.as_fd();
    let (Ok(cookie), Some(local)) = (socket::cookie(socket), socket::local_address(socket)) else {
        return;
    };
    if let (Descriptors::Mirrored(mirror), Ok(inode)) = (&mut host.descriptors, socket::inode(socket)) {
        let peer = socket::peer_address(socket).ok().flatten();
        mirror.remember(inode, Remembered { cookie, local, peer });
    }
    let local = host.identity.shown_local(canonical(local));
    let peer = host.identity.shown_peer(peer, local);
    host.sockets.update(cookie, |asked| {
        asked.bound = Some(local);
        asked.peer = Some(peer);
    });
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
