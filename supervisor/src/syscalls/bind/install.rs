//! A retained socket takes the place of the program's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imsup_protocol::ToBroker;
use imsup_wire::Transport;
use nix::errno::Errno;

use super::{bind_own, bound, endpoint_of};
use crate::host::Host;
use crate::pending::PendingBind;
use imsup_linux::holders::Place;
use imsup_linux::notify::{Answer, NotificationId};
use imsup_linux::socket::{self, Family, InetSocket, Sharing};
use imsup_linux::takeover;
use imsup_linux::{process, settings, source};

/// Keeps a claimed socket for the next bind of its endpoint. The broker gives a socket only once,
/// so the socket must not be lost if the caller is gone by now.
pub fn keep_claimed(host: &mut Host, socket: OwnedFd) {
    let endpoint = InetSocket::inspect(socket.as_fd()).and_then(|kind| endpoint_of(&host.identity, &kind));
    if let (Some(endpoint), Ok(inode)) = (endpoint, socket::inode(socket.as_fd())) {
        host.retained.add_waiting(endpoint, socket, inode);
    }
}

/// The last possibility of an address in use that nobody of this host has: a published port with
/// the same number, on the machine's wildcard. The broker shares it (SO_REUSEPORT) with sockets of
/// this user that ask for that; the kernel prefers a listener on the exact address
/// (net/ipv4/inet_hashtables.c), so neither takes the other's connections.
pub(super) fn beside_published(host: &mut Host, tid: i32, bind: &PendingBind) -> Answer {
    let socket = bind.socket.as_fd();
    let was_shared = Sharing::Port.is_set(socket);
    let result = Sharing::Port.set(socket, true).and_then(|()| bind_own(host, tid, bind));
    if result.is_err() && !was_shared {
        let _ = Sharing::Port.set(socket, false);
    }
    result.into()
}

/// Puts a waiting retained socket in the place of the program's own; EADDRINUSE if no socket waits.
pub(super) fn install(host: &mut Host, id: NotificationId, tid: i32, bind: &PendingBind) -> Answer {
    let place = Place {
        tid: process::thread_group(tid).unwrap_or(tid),
        number: bind.number,
    };
    let result = (|| {
        let retained = host
            .retained
            .take(bind.endpoint, place)
            .ok_or(Errno::EADDRINUSE)
            .and_then(socket::duplicate)?;
        fit(retained.as_fd(), bind);
        settings::copy(bind.socket.as_fd(), retained.as_fd())?;
        if bind.endpoint.transport == Transport::Tcp {
            // The broker sets this option on the program's own sockets too. Otherwise connections
            // in TIME_WAIT would keep the next `up` from the port.
            let _ = Sharing::Address.set(retained.as_fd(), true);
        }
        if !is_still_there(host, tid, bind) {
            return Err(Errno::EBADF);
        }
        let cloexec = process::is_cloexec(tid, bind.number);
        host.listener.replace_fd(id, bind.number, retained.as_fd(), cloexec)?;
        Ok(retained)
    })();
    match result {
        Ok(retained) => {
            if bind.endpoint.transport == Transport::Tcp
                && InetSocket::inspect(retained.as_fd()).is_some_and(|kind| kind.family != bind.family)
            {
                // The next boot has a listener of the right family.
                let endpoint = bind.endpoint;
                host.link.send(&ToBroker::OtherFamily { endpoint }, Vec::new());
            }
            if let (Ok((waiting, _)), Ok(inode)) = (
                takeover::accept_queue(retained.as_fd()),
                socket::inode(retained.as_fd()),
            ) {
                host.handovers.give(bind.endpoint, inode, waiting);
            }
            bound(host, tid, &retained, bind);
            Answer::Value(0)
        }
        Err(errno) => Answer::errno(errno),
    }
}

/// Converts a retained datagram socket to the family of the program's own socket: its addresses are
/// in the form of that family.
fn fit(retained: BorrowedFd<'_>, bind: &PendingBind) {
    if bind.endpoint.transport == Transport::Udp && socket::peer_address(retained).is_ok() {
        // An earlier socket of the program, which talked to one client.
        let _ = source::disconnect(retained);
    }
    let is_other = InetSocket::inspect(retained).is_some_and(|kind| kind.family == Family::V6);
    if bind.endpoint.transport == Transport::Udp
        && bind.family == Family::V4
        && is_other
        && let Err(errno) = source::become_v4(retained)
    {
        tracing::warn!(%errno, endpoint = %bind.endpoint, "a retained datagram socket stays one of IPv6");
    }
}

/// True if the descriptor number still refers to the socket. While the call waited for the broker,
/// another thread may have closed the descriptor and opened another file. The other file must not
/// be replaced. Natively the call would hold a reference to the socket, and succeed on a closed
/// socket. A gap of a few microseconds between this check and the replacement cannot be closed: the
/// kernel replaces any descriptor.
fn is_still_there(host: &mut Host, tid: i32, bind: &PendingBind) -> bool {
    match host.socket(tid, bind.number) {
        Ok(now) => socket::cookie(now.as_fd()) == socket::cookie(bind.socket.as_fd()),
        Err(errno) => errno == Errno::EPERM,
    }
}
