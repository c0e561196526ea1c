//! A retained socket takes the place of the program's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imsup_protocol::ToBroker;
use imsup_wire::Transport;
use nix::errno::Errno;

use super::{bind_own, bound, endpoint_of};
use crate::held::HeldBind;
use crate::host::Host;
use imsup_linux::holders::Place;
use imsup_linux::notify::{Answer, NotificationId};
use imsup_linux::socket::{self, Family, InetSocket, Sharing};
use imsup_linux::succession;
use imsup_linux::{process, settings, source};

/// Keeps a claimed socket for the next bind of its endpoint. The broker gives it once, so it must not be lost where the caller
/// is gone by now.
pub fn keep_claimed(host: &mut Host, socket: OwnedFd) {
    let endpoint = InetSocket::inspect(socket.as_fd()).and_then(|kind| endpoint_of(&host.identity, &kind));
    if let (Some(endpoint), Ok(inode)) = (endpoint, socket::inode(socket.as_fd())) {
        host.retained.add_waiting(endpoint, socket, inode);
    }
}

/// The last possibility of an address in use that nobody of this host has: a published port with the same number, on the
/// machine's wildcard. The broker shares it (SO_REUSEPORT) with sockets of this user that ask for that; the kernel prefers a
/// listener on the exact address (net/ipv4/inet_hashtables.c), so neither takes the other's connections.
pub(super) fn beside_published(host: &mut Host, tid: i32, bind: &HeldBind) -> Answer {
    let socket = bind.socket.as_fd();
    let was_shared = Sharing::Port.is_set(socket);
    let result = Sharing::Port.set(socket, true).and_then(|()| bind_own(host, tid, bind));
    if result.is_err() && !was_shared {
        let _ = Sharing::Port.set(socket, false);
    }
    result.into()
}

/// Puts a socket that waits for the program in the place of its own; EADDRINUSE where none waits.
pub(super) fn install(host: &mut Host, id: NotificationId, tid: i32, bind: &HeldBind) -> Answer {
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
            // As the broker sets it on what the program has made: or connections in TIME_WAIT would keep the next `up` from the port.
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
                // The next boot has one that fits.
                let endpoint = bind.endpoint;
                host.link.send(&ToBroker::OtherFamily { endpoint }, Vec::new());
            }
            if let (Ok((waiting, _)), Ok(inode)) = (
                succession::accept_queue(retained.as_fd()),
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

/// Gives a retained datagram socket the family that the program has made its own with: its addresses are in the form of that.
fn fit(retained: BorrowedFd<'_>, bind: &HeldBind) {
    if bind.endpoint.transport == Transport::Udp && socket::peer_address(retained).is_ok() {
        // An earlier one of the program's, which talked to one client.
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

/// Whether the number still is the socket's. Another thread may have closed it meanwhile, and opened something else, since the call may have waited for the
/// broker; what is there now must not be replaced. Natively the call would hold the socket, and succeed on one that is gone. Between this and the replacement
/// is a moment, a few microseconds, that nothing can close: the kernel replaces a descriptor whatever it is.
fn is_still_there(host: &mut Host, tid: i32, bind: &HeldBind) -> bool {
    match host.socket(tid, bind.number) {
        Ok(now) => socket::cookie(now.as_fd()) == socket::cookie(bind.socket.as_fd()),
        Err(errno) => errno == Errno::EPERM,
    }
}
