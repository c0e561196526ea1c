//! The remembered state of a socket without a copy ([`crate::mirror`]): the socket is connected,
//! listens, was accepted or comes from elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use crate::host::{Descriptors, Host};
use crate::sockets::Asked;
use imsup_linux::notify::Notification;
use imsup_linux::{process, traffic};

/// The socket's addresses, and the program's requests for the socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) local: SocketAddr,
    pub(super) peer: Option<SocketAddr>,
    pub(super) asked: Asked,
    /// The socket's cookie, if the state was remembered and may be outdated.
    cookie: Option<u64>,
}

impl Known {
    /// True if the socket is still connected to its peer. (The kernel finds a connection by its
    /// addresses: about 10 us.)
    pub(super) fn is_connected(&self) -> bool {
        match (self.cookie, self.peer) {
            (Some(cookie), Some(peer)) => traffic::is_connected(self.local, peer, cookie),
            (None, peer) => peer.is_some(),
            (Some(_), None) => false,
        }
    }
}

/// The known state of the socket that is the call's first argument; `None` if the kernel's own
/// answer is right.
///
/// State that was remembered when the copy was given up costs no further call. A socket that never
/// had a copy is looked up in the kernel's table of TCP connections, which takes about 0.5 ms. The
/// look-up only happens if the host has bound an address of its own localhost: no other address is
/// shown differently.
pub(super) fn known(host: &Host, call: &Notification) -> Option<Known> {
    let Descriptors::Mirrored(mirror) = &host.descriptors else {
        return None;
    };
    let inode = process::socket_of(call.tid, call.fd(0)).ok()?;
    if !host.listener.is_valid(call.id) {
        return None;
    }
    let remembered = mirror.remembered(inode);
    let asked = remembered.map_or_else(Asked::default, |socket| host.sockets.get(socket.cookie));
    match remembered {
        // The copy was given up before the kernel connected the socket: its address is a VIP, or
        // 127.0.0.1, and is shown unchanged.
        Some(socket) if socket.local.port() == 0 => None,
        Some(socket) if socket.peer.is_some() || asked.bound.is_some() || asked.peer.is_some() => Some(Known {
            local: socket.local,
            peer: socket.peer,
            asked,
            cookie: Some(socket.cookie),
        }),
        None if !mirror.bound_to_localhost && host.own_connections.is_empty() => None,
        _ => {
            let identity = &host.identity;
            let own = [
                identity.vip(),
                identity.localhost(),
                identity.v6_shadow(),
                Ipv4Addr::LOCALHOST,
            ];
            let (local, peer) = traffic::addresses_of(inode, &own)?;
            Some(Known {
                local,
                peer,
                asked,
                cookie: None,
            })
        }
    }
}
