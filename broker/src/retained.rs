//! The sockets that the broker retains, and for whom.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use imsup_wire::Endpoint;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slotmap::SlotMap;

use crate::ids::{HostId, SocketId};
use crate::keeper::{FdStore, What};
use crate::tokens::Source;

/// A socket that outlives the program that uses it. Several of one host may have one endpoint (SO_REUSEPORT).
#[derive(Debug)]
pub(crate) struct Retained {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: HostId,
    /// Shared with the store alone, which lets go of it when this is taken out.
    pub(crate) socket: Arc<OwnedFd>,
    tentative: bool,
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

impl Retained {
    /// Whether it was made for a caller that could not wait, before the program listened.
    pub(crate) fn is_tentative(&self) -> bool {
        self.tentative
    }

    fn what(&self) -> What {
        What::Retained {
            endpoint: self.endpoint,
            tentative: self.tentative,
        }
    }
}

/// The table. What is in it is kept by the keeper as well.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Where all that outlives this broker is kept.
    pub(crate) store: FdStore,
    table: SlotMap<SocketId, Retained>,
}

impl Sockets {
    /// No socket, and this store.
    pub(crate) fn new(store: FdStore) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    /// Keeps a socket.
    pub(crate) fn insert(&mut self, host: HostId, endpoint: Endpoint, tentative: bool, socket: OwnedFd) -> SocketId {
        let retained = Retained {
            endpoint,
            host,
            socket: Arc::new(socket),
            tentative,
            listening: false,
            successor: false,
            handed: false,
            open: true,
            misfit: false,
            watched: false,
        };
        self.store.keep(retained.what(), Arc::clone(&retained.socket));
        self.table.insert(retained)
    }

    /// The socket with this id.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Retained> {
        self.table.get(id)
    }

    /// The socket with this id.
    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Retained> {
        self.table.get_mut(id)
    }

    /// Takes a socket out.
    pub(crate) fn remove(&mut self, id: SocketId, registry: &Registry) -> Option<Retained> {
        self.unwatch(id, registry);
        let retained = self.table.remove(id)?;
        self.store.forget(retained.what(), &retained.socket);
        Some(retained)
    }

    /// Puts another socket in the place of one that is not watched, and gives that one.
    pub(crate) fn replace(&mut self, id: SocketId, socket: OwnedFd) -> Option<Arc<OwnedFd>> {
        let retained = self.table.get_mut(id)?;
        let old = std::mem::replace(&mut retained.socket, Arc::new(socket));
        self.store.keep(retained.what(), Arc::clone(&retained.socket));
        self.store.forget(retained.what(), &old);
        Some(old)
    }

    /// The program listens on a socket that was tentative.
    pub(crate) fn make_lasting(&mut self, id: SocketId) {
        let Some(retained) = self.table.get_mut(id) else {
            return;
        };
        if retained.tentative {
            let before = retained.what();
            retained.tentative = false;
            // Under its new name first: it is never without one.
            self.store.keep(retained.what(), Arc::clone(&retained.socket));
            self.store.forget(before, &retained.socket);
        }
    }

    /// Lets go of all.
    pub(crate) fn clear(&mut self) {
        self.table.clear();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
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
            Source::Socket(id).into(),
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
