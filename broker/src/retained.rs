//! The sockets that the broker retains, and the hosts of the sockets.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use imsup_wire::Endpoint;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slotmap::{SecondaryMap, SlotMap};

use crate::ids::{HostId, SocketId};
use crate::keeper::{FdStore, What};
use crate::tokens::Source;

/// A socket that outlives the program. Several sockets of a host may have the same endpoint
/// (SO_REUSEPORT).
#[derive(Debug)]
pub(crate) struct Retained {
    endpoint: Endpoint,
    host: HostId,
    /// Shared only with the store, which drops its reference when this is taken out.
    socket: Arc<OwnedFd>,
    tentative: bool,
    /// True if the running program listens on the socket.
    listening: bool,
    /// True if the socket has taken over from the sockets at its endpoint, whose program is being
    /// ended.
    successor: bool,
    /// The supervisor that runs has a duplicate.
    handed: bool,
    /// Connections are accepted by the kernel (and datagrams kept).
    open: bool,
    /// True if the program has bound its port with another family.
    misfit: bool,
    watched: bool,
}

impl Retained {
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Whose it is.
    pub(crate) fn host(&self) -> HostId {
        self.host
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// True if the program that runs listens on it.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening
    }

    /// True if connections are accepted by the kernel (and datagrams kept).
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// True if what comes waits in it, since no program listens on it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.open && !self.listening
    }

    /// True if the supervisor that runs has a duplicate on which its program does not listen.
    pub(crate) fn is_only_handed(&self) -> bool {
        self.handed && !self.listening
    }

    /// True if neither the supervisor that runs has a duplicate, nor its program one of its own.
    pub(crate) fn is_free(&self) -> bool {
        !self.handed && !self.listening
    }

    /// True if it has taken the place of those at its endpoint, whose program is being ended.
    pub(crate) fn is_successor(&self) -> bool {
        self.successor
    }

    /// True if the program has bound its port with another family.
    pub(crate) fn is_misfit(&self) -> bool {
        self.misfit
    }

    /// The supervisor that runs has a duplicate from now on.
    pub(crate) fn hand(&mut self) {
        self.handed = true;
    }

    /// The program listens on it; as a `successor` if those before it go with the program.
    pub(crate) fn listen(&mut self, successor: bool) {
        self.successor = successor;
        self.listening = true;
        self.handed = true;
        self.open = true;
    }

    /// The program is gone.
    pub(crate) fn release(&mut self) {
        self.listening = false;
        self.handed = false;
        self.successor = false;
    }

    /// Notes whether connections are accepted by the kernel.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// True if the socket was made for a caller that could not wait, before the program listened.
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

/// The table. Its sockets are also kept by the keeper.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// The store of all descriptors that outlive this broker.
    pub(crate) store: FdStore,
    table: SlotMap<SocketId, Retained>,
    /// Those of each host, in the order in which they came.
    of_hosts: SecondaryMap<HostId, Vec<SocketId>>,
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
        let id = self.table.insert(retained);
        match self.of_hosts.get_mut(host) {
            Some(ids) => ids.push(id),
            None => drop(self.of_hosts.insert(host, vec![id])),
        }
        id
    }

    /// The ids of a host's sockets.
    pub(crate) fn ids(&self, host: HostId) -> &[SocketId] {
        self.of_hosts.get(host).map(Vec::as_slice).unwrap_or_default()
    }

    /// A host's sockets.
    pub(crate) fn of(&self, host: HostId) -> impl Iterator<Item = &Retained> {
        self.ids(host).iter().filter_map(|id| self.table.get(*id))
    }

    /// The first socket of a host that is so.
    pub(crate) fn find(&self, host: HostId, is_so: impl Fn(&Retained) -> bool) -> Option<SocketId> {
        let mut ids = self.ids(host).iter().copied();
        ids.find(|id| self.table.get(*id).is_some_and(&is_so))
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
        if let Some(ids) = self.of_hosts.get_mut(retained.host) {
            ids.retain(|known| *known != id);
        }
        self.store.forget(retained.what(), &retained.socket);
        Some(retained)
    }

    /// Replaces a socket that is not watched, and returns the old socket.
    pub(crate) fn replace(&mut self, id: SocketId, socket: OwnedFd) -> Option<Arc<OwnedFd>> {
        let retained = self.table.get_mut(id)?;
        let old = std::mem::replace(&mut retained.socket, Arc::new(socket));
        retained.misfit = false;
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
            // Under the new name first: the socket is never without a name.
            self.store.keep(retained.what(), Arc::clone(&retained.socket));
            self.store.forget(before, &retained.socket);
        }
    }

    /// Lets go of all.
    pub(crate) fn clear(&mut self) {
        self.table.clear();
        self.of_hosts.clear();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Asks for events of connections or datagrams, both new and waiting.
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

    /// The program of a host has bound this port with another family.
    pub(crate) fn set_misfit(&mut self, host: HostId, endpoint: Endpoint) {
        for place in 0..self.ids(host).len() {
            let id = self.of_hosts[host][place];
            if let Some(kept) = self.get_mut(id).filter(|kept| kept.endpoint == endpoint) {
                kept.misfit = true;
            }
        }
    }

    /// Watches those of a host on which no program listens.
    pub(crate) fn watch_all(&mut self, host: HostId, registry: &Registry) {
        for place in 0..self.ids(host).len() {
            let id = self.of_hosts[host][place];
            if self.get(id).is_some_and(|kept| !kept.listening) {
                self.watch(id, registry);
            }
        }
    }

    /// Leaves all sockets of a host alone.
    pub(crate) fn unwatch_all(&mut self, host: HostId, registry: &Registry) {
        for place in 0..self.ids(host).len() {
            self.unwatch(self.of_hosts[host][place], registry);
        }
    }

    /// Leaves the socket to the program. The registration belongs to the open file, which is shared
    /// with the program, so every connection of the program would otherwise be reported.
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_removed_socket_is_found_by_neither_its_id_nor_its_host() {
        let mut hosts = SlotMap::<HostId, ()>::with_key();
        let (host, other) = (hosts.insert(()), hosts.insert(()));
        let poll = mio::Poll::new().unwrap();
        let mut sockets = Sockets::default();
        let endpoint = Endpoint::tcp(Ipv4Addr::LOCALHOST, 80);
        let keep = |sockets: &mut Sockets, host| {
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            sockets.insert(host, endpoint, false, socket.into())
        };
        let gone = keep(&mut sockets, host);
        sockets.watch(gone, poll.registry());
        assert_eq!(sockets.find(host, |kept| kept.is_waiting()), Some(gone));
        assert!(sockets.remove(gone, poll.registry()).is_some());
        let next = keep(&mut sockets, other);
        assert!(sockets.get(gone).is_none() && sockets.get_mut(gone).is_none());
        assert!(
            sockets.remove(gone, poll.registry()).is_none(),
            "its slot is another's now"
        );
        assert_eq!((sockets.ids(host), sockets.ids(other)), (&[][..], &[next][..]));
        assert_eq!(sockets.len(), 1);
    }

    #[test]
    fn what_a_program_leaves_waits_for_the_next() {
        let host = SlotMap::<HostId, ()>::with_key().insert(());
        let mut sockets = Sockets::default();
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let id = sockets.insert(host, Endpoint::tcp(Ipv4Addr::LOCALHOST, 80), true, socket.into());
        let kept = sockets.get_mut(id).unwrap();
        assert!(kept.is_waiting() && kept.is_free());
        kept.hand();
        assert!(kept.is_only_handed() && !kept.is_free());
        kept.listen(true);
        assert!(kept.is_open() && kept.is_successor() && !kept.is_waiting() && !kept.is_only_handed());
        kept.release();
        assert!(kept.is_waiting() && kept.is_free() && !kept.is_successor());
    }
}
