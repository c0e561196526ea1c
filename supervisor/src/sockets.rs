//! What a program asked for its sockets, where that is not what the kernel knows of them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imsup_wire::{Endpoint, Transport};

use imsup_linux::holders::Place;

/// Sockets remembered. Listeners and bound datagram sockets are few; what is forgotten beyond this is only how an
/// address is shown.
const CAPACITY: usize = 4096;

/// What a program asked for one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The address it bound, as it gave it.
    pub bound: Option<SocketAddr>,
    /// It is TCP and bound the wildcard and port 0, which was not carried out yet: whether the socket will listen, connect to a host
    /// or leave the planes is not known before it does.
    pub bind_later: bool,
    /// The peer it connected to, where it was led elsewhere: a name server, `::1`.
    pub peer: Option<SocketAddr>,
}

/// What was asked, by SO_COOKIE: right through dup, fork and SCM_RIGHTS. Close(2) is not seen, so the oldest are forgotten; by themselves, since a program
/// that looks names up for years connects to the name server each time, and its listeners are the oldest sockets that it has.
#[derive(Debug, Default)]
pub struct SocketTable {
    bound: Recent<(Option<SocketAddr>, bool)>,
    peers: Recent<SocketAddr>,
}

impl SocketTable {
    /// What is remembered of a socket.
    pub fn get(&self, cookie: u64) -> Asked {
        let (bound, bind_later) = self.bound.get(cookie).unwrap_or_default();
        Asked {
            bound,
            bind_later,
            peer: self.peers.get(cookie),
        }
    }

    /// Remembers, or changes what is remembered.
    pub fn update(&mut self, cookie: u64, change: impl FnOnce(&mut Asked)) {
        let mut asked = self.get(cookie);
        change(&mut asked);
        let is_bound = asked.bound.is_some() || asked.bind_later;
        self.bound
            .set(cookie, is_bound.then_some((asked.bound, asked.bind_later)));
        self.peers.set(cookie, asked.peer);
    }
}

/// One thing about each of the last sockets. Not a hash table: one of the same size doubles long after it was filled.
#[derive(Debug)]
struct Recent<T> {
    known: BTreeMap<u64, T>,
    oldest_first: VecDeque<u64>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            oldest_first: VecDeque::new(),
        }
    }
}

impl<T: Copy> Recent<T> {
    fn get(&self, cookie: u64) -> Option<T> {
        self.known.get(&cookie).copied()
    }

    fn set(&mut self, cookie: u64, value: Option<T>) {
        let Some(value) = value else {
            if self.known.remove(&cookie).is_some() {
                self.oldest_first.retain(|known| *known != cookie);
            }
            return;
        };
        if self.known.insert(cookie, value).is_none() {
            self.oldest_first.push_back(cookie);
        }
        if self.known.len() > CAPACITY
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// Ports of sockets on the machine's own addresses: localhost leads to them as it is. IPv4 and IPv6 are kept apart, since two sockets
/// may have one port.
#[derive(Debug, Default)]
pub struct NativePorts {
    tcp_v6: PortSet,
    udp_v4: PortSet,
    udp_v6: PortSet,
}

impl NativePorts {
    /// The ports of a transport and family; `None` for TCP over IPv4, which is bound to addresses in the planes only.
    fn of(&mut self, transport: Transport, v6: bool) -> Option<&mut PortSet> {
        match (transport, v6) {
            (Transport::Tcp, true) => Some(&mut self.tcp_v6),
            (Transport::Tcp, false) => None,
            (Transport::Udp, true) => Some(&mut self.udp_v6),
            (Transport::Udp, false) => Some(&mut self.udp_v4),
        }
    }

    /// Whether a connect or datagram to 127.0.0.1 (`::1` if `v6`) with this port is led nowhere else.
    pub fn contains(&self, transport: Transport, v6: bool, port: u16) -> bool {
        match (transport, v6) {
            (Transport::Tcp, true) => self.tcp_v6.contains(port),
            (Transport::Tcp, false) => false,
            (Transport::Udp, true) => self.udp_v6.contains(port),
            (Transport::Udp, false) => self.udp_v4.contains(port),
        }
    }

    /// Adds a port.
    pub fn insert(&mut self, transport: Transport, v6: bool, port: u16) {
        if let Some(ports) = self.of(transport, v6) {
            ports.insert(port);
        }
    }

    /// Takes a port out: it was bound to an address in the planes since.
    pub fn remove(&mut self, transport: Transport, v6: bool, port: u16) {
        if let Some(ports) = self.of(transport, v6) {
            ports.remove(port);
        }
    }
}

/// Connections of the host to itself that were made to its localhost and led to a listener on its VIP: the accepted end is shown
/// localhost as well. Those made last are remembered.
#[derive(Debug, Default)]
pub struct OwnConnections(Recent<bool>);

impl OwnConnections {
    fn key(client: SocketAddrV4, port: u16) -> u64 {
        u64::from(u32::from(*client.ip())) << 32 | u64::from(client.port()) << 16 | u64::from(port)
    }

    /// Remembers a connection from `client` to this port of 127.0.0.1 (of `::1` if `v6`).
    pub fn note(&mut self, client: SocketAddrV4, port: u16, v6: bool) {
        self.0.set(Self::key(client, port), Some(v6));
    }

    /// Forgets it: the same addresses belong to another connection now.
    pub fn forget(&mut self, client: SocketAddrV4, port: u16) {
        self.0.set(Self::key(client, port), None);
    }

    /// Whether a connection from `client` to this port was made to localhost; true for `::1`.
    pub fn get(&self, client: SocketAddrV4, port: u16) -> Option<bool> {
        self.0.get(Self::key(client, port))
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.known.is_empty()
    }
}

/// A set of ports, in 8 KiB whatever it has.
#[derive(Debug)]
struct PortSet(Box<[u64; 1024]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl PortSet {
    /// Whether `port` is in it.
    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// Adds `port`.
    fn insert(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }

    /// Takes `port` out.
    fn remove(&mut self, port: u16) {
        self.0[usize::from(port / 64)] &= !(1 << (port % 64));
    }
}

/// A socket retained for an endpoint of this host.
#[derive(Debug)]
struct Slot {
    socket: OwnedFd,
    inode: u64,
    /// Whether the program was given it, or made it itself.
    installed: bool,
    /// Whether the program listened on it.
    listened: bool,
    /// The backlog that it asked for.
    backlog: i32,
    /// Where the program was last seen to have it. `None` for a socket that the program never had.
    place: Option<Place>,
}

/// A retained socket that the program has, or had when it was last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The socket's inode number.
    pub inode: u64,
    /// Where the program was last seen to have it.
    pub place: Place,
    /// Whether the program listened on it, or receives datagrams.
    pub listened: bool,
    /// The backlog that it asked for.
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

/// A socket that takes the place of one that the program listens on.
#[derive(Debug)]
pub struct Successor {
    /// Where.
    pub endpoint: Endpoint,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets retained for this host, and what it listens on.
#[derive(Debug, Default)]
pub struct Retained {
    slots: BTreeMap<Endpoint, Vec<Slot>>,
    /// Successors that took somebody in and were not needed after all.
    successors: BTreeMap<Endpoint, OwnedFd>,
    /// Where what the program reaches as 127.0.0.1 or ::1 listens: the VIP for the wildcard, or its own localhost; and whether as ::1.
    landings: BTreeMap<Endpoint, bool>,
    /// How many there may be until those that nobody listens on any more are forgotten.
    most_landings: usize,
}

/// Landings remembered before any is looked at again. Programs that open a port for each task (passive FTP) would else fill the table with all ports
/// there are.
const LANDINGS: usize = 256;

impl Retained {
    /// A socket that waits for the program to bind its endpoint, where it is not known already.
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

    /// A socket that the program listens on, its own or one it was given. False where it listened on it before.
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

    /// Whether the program was seen to listen, or receive datagrams, at `endpoint` with another socket than this.
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

    /// The sockets at `endpoint` that the program has, or had when it was last looked.
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

    /// Whether there is such a socket at any endpoint.
    pub fn has_given(&self) -> bool {
        self.given().next().is_some()
    }

    /// The socket with this inode number, if the program has it or had it.
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

    /// The program has closed this socket, which it was given and did not listen on: the next bind gets it, with who waits in it.
    pub fn wait_again(&mut self, inode: u64) {
        if let Some(slot) = self.slots.values_mut().flatten().find(|slot| slot.inode == inode) {
            slot.installed = false;
            slot.place = None;
        }
    }

    /// Takes those out that wait for a bind of `endpoint`, and of which this holds.
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

    /// The socket with this inode number, where it is one of these.
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

    /// Whether this socket was given to the program in the place of its own, and the program has not listened on it.
    pub fn waits_for_listen(&self, inode: u64) -> bool {
        let mut slots = self.slots.values().flatten();
        slots.any(|slot| slot.inode == inode && slot.installed && !slot.listened)
    }

    /// How many sockets there are.
    pub fn count(&self) -> usize {
        self.slots.values().map(Vec::len).sum()
    }

    /// Remembers that the program listens on this wildcard, or on a localhost of its own; `endpoint` is where that landed. `is_bound` is asked of
    /// those remembered once there are many: a close(2) is not seen.
    pub fn note_landing(&mut self, endpoint: Endpoint, wildcard: Option<IpAddr>, is_bound: impl Fn(Endpoint) -> bool) {
        if self.landings.len() >= self.most_landings.max(LANDINGS) {
            self.landings.retain(|known, _| is_bound(*known));
            self.most_landings = 2 * self.landings.len();
        }
        *self.landings.entry(endpoint).or_default() |= wildcard.is_none_or(|ip| ip.is_ipv6());
    }

    /// Forgets a landing: what landed there is closed.
    pub fn forget_landing(&mut self, endpoint: Endpoint) {
        self.landings.remove(&endpoint);
    }

    /// Whether something landed on `endpoint`. It may be closed by now.
    pub fn is_landing(&self, endpoint: Endpoint) -> bool {
        self.landings.contains_key(&endpoint)
    }

    /// Whether it is a wildcard that takes connections to `::1` too.
    pub fn is_dual_stack(&self, endpoint: Endpoint) -> bool {
        self.landings.get(&endpoint).is_some_and(|v6| *v6)
    }

    /// The sockets that the program listens on.
    pub fn listening(&self) -> impl Iterator<Item = (Endpoint, &OwnedFd)> {
        self.all_listening().map(|(endpoint, slot)| (endpoint, &slot.socket))
    }

    /// The same, by their inode numbers.
    pub fn listening_by_inode(&self) -> impl Iterator<Item = (u64, &OwnedFd)> {
        self.all_listening().map(|(_, slot)| (slot.inode, &slot.socket))
    }

    /// The stream sockets that the program listens on, with the backlog that it asked for.
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

    /// The sockets that the program listens on, or receives datagrams with, by their inode numbers.
    pub fn listening_sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let given = self.all_listening().filter(|(_, slot)| slot.place.is_some());
        given.map(|(_, slot)| (slot.inode, slot.socket.as_fd()))
    }

    /// Puts a socket in the place of all that the program listens on at `endpoint`.
    pub fn succeed(&mut self, endpoint: Endpoint, socket: OwnedFd, inode: u64) {
        let slots = self.slots.entry(endpoint).or_default();
        let backlog = slots.first().map_or(0, |slot| slot.backlog);
        slots.clear();
        slots.push(Slot {
            socket,
            inode,
            installed: true,
            listened: true,
            backlog,
            // The program never has it.
            place: None,
        });
    }

    /// Keeps a successor that was not needed: somebody waits in it.
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

    /// All that were kept: they are announced when the program ends, for the next boot.
    pub fn take_successors(&mut self) -> Vec<Successor> {
        let kept = std::mem::take(&mut self.successors).into_iter();
        kept.map(|(endpoint, socket)| Successor { endpoint, socket }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_port_set_holds_every_port() {
        let mut ports = PortSet::default();
        for port in [0, 63, 64, 1023, 65_535] {
            assert!(!ports.contains(port));
            ports.insert(port);
            assert!(ports.contains(port) && !ports.contains(port ^ 1), "{port}");
            ports.remove(port);
            assert!(!ports.contains(port), "{port}");
        }
    }

    #[test]
    fn the_table_forgets_the_oldest() {
        let mut table = SocketTable::default();
        // Cookies do not count up: each processor has some in stock (include/linux/cookie.h).
        let cookies: Vec<u64> = (0..=CAPACITY as u64).rev().collect();
        for cookie in &cookies {
            table.update(*cookie, |asked| asked.bind_later = true);
        }
        assert!(!table.get(cookies[0]).bind_later);
        assert!(cookies[1..].iter().all(|cookie| table.get(*cookie).bind_later));
    }

    #[test]
    fn peers_do_not_push_out_what_was_bound() {
        let mut table = SocketTable::default();
        let address: SocketAddr = "0.0.0.0:80".parse().unwrap();
        table.update(1, |asked| asked.bound = Some(address));
        for cookie in 2..=2 * CAPACITY as u64 {
            table.update(cookie, |asked| asked.peer = Some(address));
        }
        assert_eq!(table.get(1).bound, Some(address));
        assert_eq!(table.get(2).peer, None);
        table.update(1, |asked| asked.bound = None);
        assert_eq!(table.get(1), Asked::default());
    }

    #[test]
    fn landings_that_nobody_listens_on_are_forgotten() {
        let mut retained = Retained::default();
        let endpoint = |port| Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 2), port);
        for port in 1..=10_000 {
            retained.note_landing(endpoint(port), None, |known| known.address.port() == 1);
        }
        assert!(retained.is_landing(endpoint(1)) && retained.is_landing(endpoint(10_000)));
        assert!(retained.landings.len() <= LANDINGS);
        for port in 1..=10_000 {
            retained.note_landing(endpoint(port), None, |_| true);
        }
        assert_eq!(retained.landings.len(), 10_000);
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
        retained.succeed(endpoint, null(), 8);
        assert!(!retained.has_given() && retained.listening().count() == 1);
    }
}
