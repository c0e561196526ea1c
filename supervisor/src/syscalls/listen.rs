//! listen(2).

use std::net::SocketAddr;
use std::os::fd::AsFd;

use imsup_wire::Transport;
use nix::errno::Errno;

use super::bind::{bind_wildcard_now, endpoint_of, note_listen_target, retain, wildcard_of};
use super::{Verdict, conflict, socket_of, vet};
use crate::host::Host;
use imsup_linux::guard;
use imsup_linux::holders::Place;
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket::{self, InetSocket};

/// Handles listen(2): carries the call out, and hands a duplicate of the socket to the broker,
/// which retains the duplicate.
pub(super) fn listen(host: &mut Host, call: &Notification) -> Verdict {
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    if kind.transport != Transport::Tcp {
        return Answer::Continue.into();
    }
    if kind.is_unbound()
        && let Err(errno) = bind_wildcard_now(host, &socket, kind.family)
    {
        return errno.into();
    }
    let asked = socket::cookie(socket.as_fd())
        .ok()
        .and_then(|cookie| host.sockets.get(cookie).bound);
    let local = socket::local_address(socket.as_fd());
    if let (Some(asked), Some(local)) = (asked, local) {
        // Sockets that were bound with SO_REUSEADDR may not both listen.
        let is_shadow = socket::as_v4(local).is_some_and(|local| *local.ip() == host.identity.v6_shadow());
        let address = SocketAddr::new(asked.ip(), local.port());
        if conflict::is_taken(host, socket.as_fd(), Transport::Tcp, address, is_shadow) {
            return Errno::EADDRINUSE.into();
        }
    }
    vet::note_user(host, &socket);
    let is_guarded = local
        .and_then(socket::as_v4)
        .filter(|local| host.identity.owns(*local.ip()))
        .is_some_and(|local| guard::keep_neighbours_out(socket.as_fd(), *local.ip()));
    if let Err(errno) = socket::listen(socket.as_fd(), call.int(1)) {
        if is_guarded {
            guard::let_neighbours_in(socket.as_fd());
        }
        return errno.into();
    }
    host.handovers.share_no_more(socket.as_fd());
    host.note_step();
    let chosen_by_kernel = asked.map_or(kind.is_unbound(), |asked| asked.port() == 0);
    if asked.is_none()
        && kind.is_unbound()
        && let Ok(cookie) = socket::cookie(socket.as_fd())
    {
        // The program is shown the wildcard, as if it had bound the wildcard.
        host.sockets.update(cookie, |entry| entry.bound = Some(kind.local));
    }
    let wildcard = match asked {
        Some(asked) => wildcard_of(asked),
        None => Some(kind.family.wildcard()),
    };
    let bound = InetSocket::inspect(socket.as_fd()).and_then(|kind| endpoint_of(&host.identity, &kind));
    if let Some(endpoint) = bound {
        host.handovers.listens(endpoint);
    }
    match bound {
        // The kernel chooses another port next time: the port cannot be known in advance, so the
        // socket is not retained.
        Some(endpoint) if chosen_by_kernel => {
            host.start.listening = true;
            note_listen_target(host, endpoint, wildcard);
        }
        Some(endpoint) => {
            let place = Place {
                tid: call.tid,
                number: call.fd(0),
            };
            retain(host, endpoint, &socket, wildcard, call.int(1), place);
        }
        None => {}
    }
    // The retained socket replaces the copy from now on. A copy would go on listening after the
    // program has closed the socket.
    host.give_up_copy(socket.as_fd());
    Answer::Value(0).into()
}
