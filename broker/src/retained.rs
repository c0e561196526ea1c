//! The sockets that the broker retains, and for whom.

use std::os::fd::{AsRawFd, OwnedFd};

use imsup_wire::Endpoint;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use crate::hosts::HostId;
use crate::tokens::{Kind, token};

/// One retained socket's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketId(pub(crate) u32);

/// A socket that outlives the program that uses it. Several of one host may have one endpoint (SO_REUSEPORT).
#[derive(Debug)]
pub(crate) struct Retained {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: HostId,
    pub(crate) socket: OwnedFd,
    /// Made for a caller that could not wait, before the program listened.
    pub(crate) tentative: bool,
    /// The program that runs listens on it.
    pub(crate) listening: bool,
    /// It has taken the place of those at its endpoint, whose program is being ended.
    pub(crate) successor: bool,
    /// The supervisor that runs has a duplicate.
    pub(crate) handed: bool,
    /// Connections are accepted by the kernel (and datagrams kept).
    pub(crate) open: bool,
    /// The program has bound its port with another family.
    pub(crate) misfit: bool,
    watched: bool,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    table: Vec<Option<Retained>>,
    free: Vec<u32>,
}

impl Sockets {
    /// Keeps a socket.
    pub(crate) fn insert(&mut self, host: HostId, endpoint: Endpoint, socket: OwnedFd) -> SocketId {
        let retained = Retained {
            endpoint,
            host,
            socket,
            tentative: false,
            listening: false,
            successor: false,
            handed: false,
            open: true,
            misfit: false,
            watched: false,
        };
        if let Some(place) = self.free.pop() {
            self.table[place as usize] = Some(retained);
            return SocketId(place);
        }
        self.table.push(Some(retained));
        SocketId(u32::try_from(self.table.len() - 1).expect("descriptors are fewer than 2^32"))
    }

    /// The socket with this id.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Retained> {
        self.table.get(id.0 as usize)?.as_ref()
    }

    /// The socket with this id.
    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Retained> {
        self.table.get_mut(id.0 as usize)?.as_mut()
    }

    /// Takes a socket out.
    pub(crate) fn remove(&mut self, id: SocketId, registry: &Registry) -> Option<Retained> {
        self.unwatch(id, registry);
        let retained = self.table.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        Some(retained)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// Asks to be told of what comes, and of what is there already.
    pub(crate) fn watch(&mut self, id: SocketId, registry: &Registry) {
        let Some(retained) = self.get_mut(id) else { return };
        if retained.watched {
            return;
        }
        let descriptor = retained.socket.as_raw_fd();
        match registry.register(
            &mut SourceFd(&descriptor),
            token(Kind::Socket, id.0),
            Interest::READABLE,
        ) {
            Ok(()) => retained.watched = true,
            Err(error) => tracing::error!(endpoint = %retained.endpoint, %error, "a retained socket cannot be watched"),
        }
    }

    /// Leaves the socket to the program. The registration belongs to the open file, which the program shares, so it
    /// would otherwise report every connection that the program gets.
    pub(crate) fn unwatch(&mut self, id: SocketId, registry: &Registry) {
        let Some(retained) = self.get_mut(id) else { return };
        if !retained.watched {
            return;
        }
        retained.watched = false;
        let descriptor = retained.socket.as_raw_fd();
        if let Err(error) = registry.deregister(&mut SourceFd(&descriptor)) {
            tracing::warn!(endpoint = %retained.endpoint, %error, "a retained socket is still watched");
        }
    }
}
