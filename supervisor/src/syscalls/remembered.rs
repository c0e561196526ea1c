//! What is known of a socket that there is no copy of ([`crate::copies`]): it is connected, listens, was accepted or comes from elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use crate::host::{Descriptors, Host};
use crate::sockets::Asked;
use imsup_linux::notify::Notification;
use imsup_linux::{process, traffic};

/// Its addresses, and what its program asked for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) local: SocketAddr,
    pub(super) peer: Option<SocketAddr>,
    pub(super) asked: Asked,
    /// Its cookie, where this was remembered and may be so no more.
    cookie: Option<u64>,
}

impl Known {
    /// Whether it is still connected to its peer. (The kernel finds it by its addresses: about 10 us.)
    pub(super) fn is_connected(&self) -> bool {
        match (self.cookie, self.peer) {
            (Some(cookie), Some(peer)) => traffic::is_connected(self.local, peer, cookie),
            (None, peer) => peer.is_some(),
            (Some(_), None) => false,
        }
    }
}

/// What is known of the socket that is the call's first argument; `None` where the kernel's own answer is the right one.
///
/// What was remembered when its copy was given up costs nothing more. A socket that never had one is looked up in the kernel's table of TCP
/// connections, which takes about 0.5 ms, and only where the host has bound an address of its own localhost: no other is shown differently.
pub(super) fn known(host: &Host, call: &Notification) -> Option<Known> {
    let Descriptors::Copied(copies) = &host.descriptors else {
        return None;
    };
    let inode = process::socket_of(call.tid, call.fd(0)).ok()?;
    if !host.listener.is_valid(call.id) {
        return None;
    }
    let remembered = copies.remembered(inode);
    let asked = remembered.map_or_else(Asked::default, |socket| host.sockets.get(socket.cookie));
    match remembered {
        // Given up before the kernel connected it: its address is a VIP, or 127.0.0.1, and shown as it is.
        Some(socket) if socket.local.port() == 0 => None,
        Some(socket) if socket.peer.is_some() || asked.bound.is_some() || asked.peer.is_some() => Some(Known {
            local: socket.local,
            peer: socket.peer,
            asked,
            cookie: Some(socket.cookie),
        }),
        None if !copies.bound_to_localhost && host.own_connections.is_empty() => None,
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
