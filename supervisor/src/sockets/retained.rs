//! The sockets retained for a host, and what its program listens on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imsup_linux::holders::Place;
use imsup_wire::{Endpoint, Transport};

/// A socket retained for an endpoint of this host.
#[derive(Debug)]
struct Slot {
    socket: OwnedFd,
    inode: u64,
    /// True if the program was given the socket, or made the socket itself.
    installed: bool,
    /// True if the program listened on the socket.
    listened: bool,
    /// The backlog that the program asked for.
    backlog: i32,
    /// The place at which the program was last seen to have the socket. `None` for a socket that
    /// the program never had.
    place: Option<Place>,
}

/// A retained socket that the program has, or had at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The socket's inode number.
    pub inode: u64,
    /// The place at which the program was last seen to have the socket.
    pub place: Place,
    /// True if the program listened on the socket, or receives datagrams.
    pub listened: bool,
    /// The backlog that the program asked for.
    pub backlog: i32,
}

impl Slot {
    fn given(&self) -> Option<Given> {
        Some(Given {
            inode: self.inode,
            place: self.place.filter(|_| self.installed)?,
            listened: self.listened,
            backlog: self.backlog,
        })
    }
}

/// A socket that replaces a socket that the program listens on.
#[derive(Debug)]
pub struct Successor {
    /// Where.
    pub endpoint: Endpoint,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets retained for this host, and the endpoints on which the host listens.
#[derive(Debug, Default)]
pub struct Retained {
    slots: BTreeMap<Endpoint, Vec<Slot>>,
    /// Successors that took in connections and were not needed after all.
    successors: BTreeMap<Endpoint, OwnedFd>,
    /// The endpoints of sockets that the program reaches as 127.0.0.1 or ::1: the VIP for the
    /// wildcard, or the host's own localhost. True if reached as ::1.
    listen_targets: BTreeMap<Endpoint, bool>,
    /// The number of listen targets at which the closed listen targets are forgotten.
    most_listen_targets: usize,
}

/// Listen targets remembered before any is looked at again. Programs that open a port for each task
/// (passive FTP) would else fill the table with all ports there are.
const LISTEN_TARGETS: usize = 256;

impl Retained {
    /// Adds a socket that waits for the program to bind its endpoint, if the socket is not known
    /// already.
    pub fn add_waiting(&mut self, endpoint: Endpoint, socket: OwnedFd, inode: u64) {
        let slots = self.slots.entry(endpoint).or_default();
        if slots.iter().all(|slot| slot.inode != inode) {
            slots.push(Slot {
                socket,
                inode,
                installed: false,
                listened: false,
                backlog: 0,
                place: None,
            });
        }
    }

    /// Adds a socket that the program listens on: its own socket or a given socket. False if the
    /// program listened on the socket before.
    pub fn add_listening(
        &mut self,
        endpoint: Endpoint,
        socket: OwnedFd,
        inode: u64,
        backlog: i32,
        place: Place,
    ) -> bool {
        let slots = self.slots.entry(endpoint).or_default();
        match slots.iter_mut().find(|slot| slot.inode == inode) {
            Some(slot) => {
                slot.backlog = backlog;
                slot.place = Some(place);
                !std::mem::replace(&mut slot.listened, true)
            }
            None => {
                slots.push(Slot {
                    socket,
                    inode,
                    installed: true,
                    listened: true,
                    backlog,
                    place: Some(place),
                });
                true
            }
        }
    }

    /// Whether the program was seen to listen, or receive datagrams, at `endpoint` with another
    /// socket than this.
    pub fn has_another(&self, endpoint: Endpoint, inode: u64) -> bool {
        let slots = self.slots.get(&endpoint);
        slots.is_some_and(|slots| slots.iter().any(|slot| slot.listened && slot.inode != inode))
    }

    /// A socket that waits for a bind of `endpoint`, to be installed at `place`.
    pub fn take(&mut self, endpoint: Endpoint, place: Place) -> Option<&OwnedFd> {
        let slots = self.slots.get_mut(&endpoint)?;
        let slot = slots.iter_mut().find(|slot| !slot.installed)?;
        slot.installed = true;
        slot.place = Some(place);
        Some(&slot.socket)
    }

    /// The sockets at `endpoint` that the program has, or had at the last look.
    pub fn given_at(&self, endpoint: Endpoint) -> Vec<Given> {
        let slots = self.slots.get(&endpoint).into_iter().flatten();
        slots.filter_map(Slot::given).collect()
    }

    /// The same, at all endpoints.
    pub fn given(&self) -> impl Iterator<Item = (Endpoint, Given)> {
        self.slots
            .iter()
            .flat_map(|(endpoint, slots)| slots.iter().filter_map(|slot| Some((*endpoint, slot.given()?))))
    }

    /// True if the program has a retained socket at any endpoint, or had one at the last look.
    pub fn has_given(&self) -> bool {
        self.given().next().is_some()
    }

    /// The socket with this inode number, if the program has or had the socket.
    pub fn find_given(&self, inode: u64) -> Option<(Endpoint, Given)> {
        self.given().find(|(_, given)| given.inode == inode)
    }

    /// The program has this socket elsewhere by now.
    pub fn moved(&mut self, inode: u64, place: Place) {
        if let Some(slot) = self.slots.values_mut().flatten().find(|slot| slot.inode == inode) {
            slot.place = Some(place);
        }
    }

    /// The program has closed this socket.
    pub fn remove(&mut self, endpoint: Endpoint, inode: u64) -> Option<OwnedFd> {
        let slots = self.slots.get_mut(&endpoint)?;
        let position = slots.iter().position(|slot| slot.inode == inode)?;
        let slot = slots.remove(position);
        if slots.is_empty() {
            self.slots.remove(&endpoint);
        }
        Some(slot.socket)
    }

    /// The program has closed this socket, which was given to the program and not listened on. The
    /// next bind gets the socket, with the clients that wait in it.
    pub fn wait_again(&mut self, inode: u64) {
        if let Some(slot) = self.slots.values_mut().flatten().find(|slot| slot.inode == inode) {
            slot.installed = false;
            slot.place = None;
        }
    }

    /// Takes out the sockets that wait for a bind of `endpoint` and for which `which` is true.
    pub fn remove_waiting(&mut self, endpoint: Endpoint, which: impl Fn(&OwnedFd) -> bool) -> Vec<OwnedFd> {
        let Some(slots) = self.slots.get_mut(&endpoint) else {
            return Vec::new();
        };
        let removed: Vec<Slot> = slots
            .extract_if(.., |slot| !slot.installed && which(&slot.socket))
            .collect();
        if slots.is_empty() {
            self.slots.remove(&endpoint);
        }
        removed.into_iter().map(|slot| slot.socket).collect()
    }

    /// The retained socket with this inode number, if any.
    pub fn by_inode(&self, inode: u64) -> Option<&OwnedFd> {
        let slots = self.slots.values().flatten();
        slots
            .into_iter()
            .find(|slot| slot.inode == inode)
            .map(|slot| &slot.socket)
    }

    /// Whether a socket waits for a bind of `endpoint`.
    pub fn is_waiting(&self, endpoint: Endpoint) -> bool {
        self.slots
            .get(&endpoint)
            .is_some_and(|slots| slots.iter().any(|slot| !slot.installed))
    }

    /// Whether any socket is retained for `endpoint`.
    pub fn knows(&self, endpoint: Endpoint) -> bool {
        self.slots.contains_key(&endpoint)
    }

    /// True if this socket was installed in place of the program's own, and the program has not
    /// listened on the socket.
    pub fn waits_for_listen(&self, inode: u64) -> bool {
        let mut slots = self.slots.values().flatten();
        slots.any(|slot| slot.inode == inode && slot.installed && !slot.listened)
    }

    /// How many sockets there are.
    pub fn count(&self) -> usize {
        self.slots.values().map(Vec::len).sum()
    }

    /// Remembers that the program listens on this wildcard, or on its own localhost. `endpoint` is
    /// the listen target. Once there are many entries, `is_bound` is called for each: a close(2) is
    /// not seen.
    pub fn note_listen_target(
        &mut self,
        endpoint: Endpoint,
        wildcard: Option<IpAddr>,
        is_bound: impl Fn(Endpoint) -> bool,
    ) {
        if self.listen_targets.len() >= self.most_listen_targets.max(LISTEN_TARGETS) {
            self.listen_targets.retain(|known, _| is_bound(*known));
            self.most_listen_targets = 2 * self.listen_targets.len();
        }
        *self.listen_targets.entry(endpoint).or_default() |= wildcard.is_none_or(|ip| ip.is_ipv6());
    }

    /// Forgets a listen target after the close of its socket.
    pub fn forget_listen_target(&mut self, endpoint: Endpoint) {
        self.listen_targets.remove(&endpoint);
    }

    /// True if a listener of the program resolves to `endpoint`. The listener may be closed by now.
    pub fn is_listen_target(&self, endpoint: Endpoint) -> bool {
        self.listen_targets.contains_key(&endpoint)
    }

    /// True if the listener at `endpoint` takes connections to `::1` too.
    pub fn is_dual_stack(&self, endpoint: Endpoint) -> bool {
        self.listen_targets.get(&endpoint).is_some_and(|v6| *v6)
    }

    /// The sockets that the program listens on.
    pub fn listening(&self) -> impl Iterator<Item = (Endpoint, &OwnedFd)> {
        self.all_listening().map(|(endpoint, slot)| (endpoint, &slot.socket))
    }

    /// The same sockets, by inode number.
    pub fn listening_by_inode(&self) -> impl Iterator<Item = (u64, &OwnedFd)> {
        self.all_listening().map(|(_, slot)| (slot.inode, &slot.socket))
    }

    /// The stream sockets that the program listens on, with the requested backlogs.
    pub fn listeners(&self) -> impl Iterator<Item = (Endpoint, &OwnedFd, i32)> {
        self.all_listening()
            .filter(|(endpoint, _)| endpoint.transport == Transport::Tcp)
            .map(|(endpoint, slot)| (endpoint, &slot.socket, slot.backlog))
    }

    fn all_listening(&self) -> impl Iterator<Item = (Endpoint, &Slot)> {
        self.slots
            .iter()
            .flat_map(|(endpoint, slots)| slots.iter().filter(|slot| slot.listened).map(|slot| (*endpoint, slot)))
    }

    /// The sockets on which the program listens, or receives datagrams, by inode number.
    pub fn listening_sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let given = self.all_listening().filter(|(_, slot)| slot.place.is_some());
        given.map(|(_, slot)| (slot.inode, slot.socket.as_fd()))
    }

    /// Puts a socket in the place of all that the program listens on at `endpoint`.
    pub fn take_over(&mut self, endpoint: Endpoint, socket: OwnedFd, inode: u64) {
        let slots = self.slots.entry(endpoint).or_default();
        let backlog = slots.first().map_or(0, |slot| slot.backlog);
        slots.clear();
        slots.push(Slot {
            socket,
            inode,
            installed: true,
            listened: true,
            backlog,
            // The program never has this socket.
            place: None,
        });
    }

    /// Keeps a successor that was not needed: clients wait in it.
    pub fn keep_successor(&mut self, endpoint: Endpoint, socket: OwnedFd) {
        self.successors.insert(endpoint, socket);
    }

    /// Whether any was kept.
    pub fn has_successors(&self) -> bool {
        !self.successors.is_empty()
    }

    /// A successor that was kept.
    pub fn take_successor(&mut self, endpoint: Endpoint) -> Option<OwnedFd> {
        self.successors.remove(&endpoint)
    }

    /// All kept successors: they are announced when the program ends, for the next boot.
    pub fn take_successors(&mut self) -> Vec<Successor> {
        let kept = std::mem::take(&mut self.successors).into_iter();
        kept.map(|(endpoint, socket)| Successor { endpoint, socket }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn listen_targets_that_nobody_listens_on_are_forgotten() {
        let mut retained = Retained::default();
        let endpoint = |port| Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), port);
        for port in 1..=10_000 {
            retained.note_listen_target(endpoint(port), None, |known| known.address.port() == 1);
        }
        assert!(retained.is_listen_target(endpoint(1)) && retained.is_listen_target(endpoint(10_000)));
        assert!(retained.listen_targets.len() <= LISTEN_TARGETS);
        for port in 1..=10_000 {
            retained.note_listen_target(endpoint(port), None, |_| true);
        }
        assert_eq!(retained.listen_targets.len(), 10_000);
    }

    #[test]
    fn a_waiting_socket_is_given_once_and_waits_again_where_it_was_not_listened_on() {
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), 80);
        let place = Place { tid: 1, number: 3 };
        let mut retained = Retained::default();
        retained.add_waiting(endpoint, null(), 7);
        assert!(retained.is_waiting(endpoint) && !retained.has_given());
        assert!(retained.take(endpoint, place).is_some());
        assert!(!retained.is_waiting(endpoint) && retained.given_at(endpoint)[0].place == place);
        assert!(retained.take(endpoint, place).is_none(), "the program has it");
        assert_eq!(retained.listening().count(), 0);
        assert!(retained.waits_for_listen(7) && !retained.waits_for_listen(8));
        retained.wait_again(7);
        assert!(retained.is_waiting(endpoint) && !retained.has_given());
        assert!(retained.take(endpoint, place).is_some());
        assert!(
            retained.add_listening(endpoint, null(), 7, 5, place),
            "the first listen"
        );
        assert!(!retained.waits_for_listen(7));
        assert!(
            !retained.add_listening(endpoint, null(), 7, 5, place),
            "a second one changes the backlog"
        );
        assert_eq!(retained.listening().count(), 1);
        assert!(retained.has_another(endpoint, 8) && !retained.has_another(endpoint, 7));
        let moved = Place { tid: 2, number: 4 };
        retained.moved(7, moved);
        assert_eq!(
            retained.find_given(7).map(|(at, given)| (at, given.place)),
            Some((endpoint, moved))
        );
        assert!(retained.remove(endpoint, 8).is_none() && retained.remove(endpoint, 7).is_some());
        assert!(!retained.knows(endpoint) && retained.count() == 0);
    }

    #[test]
    fn a_successor_is_none_that_the_program_has() {
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), 80);
        let mut retained = Retained::default();
        retained.add_listening(endpoint, null(), 7, 5, Place { tid: 1, number: 3 });
        retained.take_over(endpoint, null(), 8);
        assert!(!retained.has_given() && retained.listening().count() == 1);
    }
}
