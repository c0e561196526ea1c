//! The TCP connections of a host, looked at again and again without a touch.
//!
//! While the program runs no descriptor of its connections is duplicated, not for an instant: its close(2) would not be the last, and epoll would tell it
//! of descriptors that it has closed. Its sockets are known by the links of its descriptors, each new one is searched for once in the kernel's table of
//! TCP sockets, and from then on it is found there by its addresses.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use imsup_linux::duplicates::Duplicates;
use imsup_linux::traffic::{self, Connection, Known, OpenSocket};
use imsup_linux::{descriptors, unix_diag};

/// So many sockets are duplicated at once.
const AT_ONCE: usize = 200;

/// What is known of a socket.
#[derive(Clone, Copy, Debug)]
enum Socket {
    /// It is, or was, a TCP connection.
    Connection(Known),
    /// A TCP socket that was no connection when it was last searched for. It may become one.
    Unconnected,
    /// Something else, for as long as it lives.
    Other,
}

/// The sockets of one host.
#[derive(Debug, Default)]
pub struct Connections {
    known: HashMap<u64, Socket>,
}

impl Connections {
    /// Notes the sockets of a host that runs; it listens on `listeners`. Those that were no connections when they were first seen are searched for again
    /// where a socket has been `connected` since.
    ///
    /// # Errors
    /// Where sock_diag(7) cannot be used.
    pub fn note(
        &mut self,
        pids: &[i32],
        planes: [Ipv4Addr; 3],
        cgroups: &[u64],
        listeners: &[u64],
        connected: bool,
    ) -> io::Result<()> {
        let mut new = self.new_ones(&traffic::sockets(pids), connected);
        for listener in listeners {
            if new.remove(listener) {
                self.known.insert(*listener, Socket::Unconnected);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let found = traffic::search(&new, planes, cgroups)?;
        self.known
            .extend(new.into_iter().map(|inode| (inode, Socket::Unconnected)));
        self.known
            .extend(found.into_iter().map(|known| (known.inode, Socket::Connection(known))));
        Ok(())
    }

    /// The same of a host that is held: no close(2) can be in time for it, so each new socket is looked at itself, but for
    /// its `listeners`.
    pub fn note_held(&mut self, pids: &[i32], listeners: &[u64], duplicates: &Duplicates<'_>) {
        let sockets = traffic::sockets(pids);
        let mut new = self.new_ones(&sockets, true);
        for listener in listeners {
            if new.remove(listener) {
                self.known.insert(*listener, Socket::Unconnected);
            }
        }
        for (inode, known) in look_at(&new, &sockets, duplicates) {
            let known = known.ok().flatten();
            self.known
                .insert(inode, known.map_or(Socket::Unconnected, Socket::Connection));
        }
    }

    /// All connections of a host that is held. Each of its sockets is looked at anew: it may have other addresses than it had.
    ///
    /// # Errors
    /// Where sock_diag(7) cannot be used, and if nothing is known of a connection that one of its sockets is: being connected, it has no peer yet.
    pub fn read_held(&mut self, pids: &[i32], duplicates: &Duplicates<'_>) -> io::Result<Vec<Connection>> {
        let sockets = traffic::sockets(pids);
        let mut unknown = None;
        let mut again = self.new_ones(&sockets, true);
        again.extend(self.connections().map(|known| known.inode));
        for (inode, known) in look_at(&again, &sockets, duplicates) {
            match known {
                Ok(known) => {
                    let socket = known.map_or(Socket::Unconnected, Socket::Connection);
                    self.known.insert(inode, socket);
                }
                Err(errno) => unknown = Some(errno),
            }
        }
        if let Some(errno) = unknown {
            return Err(errno.into());
        }
        let outside = self.outside();
        let read: Vec<Connection> = traffic::read(&outside)?.into_iter().flatten().collect();
        match read.len() < outside.len() {
            true => Err(io::Error::other("the kernel does not find all of them")),
            false => Ok(read),
        }
    }

    /// A UNIX connection of a host that is held with a process outside it, as descriptor of a process. What is a standard stream was given to the program
    /// by whoever started it (a journal).
    ///
    /// # Errors
    /// Where sock_diag(7) cannot be used.
    pub fn unix_elsewhere(pids: &[i32]) -> io::Result<Option<OpenSocket>> {
        let sockets = traffic::sockets(pids);
        if sockets.is_empty() {
            return Ok(None);
        }
        let found = unix_diag::connected_elsewhere(&sockets.keys().copied().collect())?;
        let mut found = found.into_iter().filter_map(|inode| sockets.get(&inode).copied());
        Ok(found.find(|at| at.number > libc::STDERR_FILENO))
    }

    /// Forgets sockets that are closed, and says which TCP sockets are to be searched for.
    fn new_ones(&mut self, sockets: &HashMap<u64, OpenSocket>, again: bool) -> HashSet<u64> {
        self.known.retain(|inode, _| sockets.contains_key(inode));
        let mut new = HashSet::new();
        for (inode, at) in sockets {
            match self.known.get(inode) {
                Some(Socket::Connection(_) | Socket::Other) => {}
                Some(Socket::Unconnected) if !again => {}
                Some(Socket::Unconnected) => {
                    new.insert(*inode);
                }
                None if descriptors::is_tcp(at.pid, at.number) == Some(false) => {
                    self.known.insert(*inode, Socket::Other);
                }
                None => {
                    new.insert(*inode);
                }
            }
        }
        new
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.connections().count()
    }

    fn connections(&self) -> impl Iterator<Item = &Known> {
        self.known.values().filter_map(|socket| match socket {
            Socket::Connection(known) => Some(known),
            Socket::Unconnected | Socket::Other => None,
        })
    }

    /// What has become of them by now. Those of the host with itself are not among them.
    ///
    /// # Errors
    /// Where sock_diag(7) cannot be used.
    pub fn read(&self) -> io::Result<Vec<Connection>> {
        Ok(traffic::read(&self.outside())?.into_iter().flatten().collect())
    }

    /// Those with others than the host itself.
    fn outside(&self) -> Vec<Known> {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let ends = |known: &Known| {
            let (local, peer) = known.ends();
            (canonical(local), canonical(peer))
        };
        let all: HashSet<_> = self.connections().map(ends).collect();
        self.connections()
            .filter(|known| {
                let (local, peer) = ends(known);
                !all.contains(&(peer, local))
            })
            .copied()
            .collect()
    }
}
/// What these sockets of a host that is held are, each by its inode: a connection, none, or why that cannot be said.
fn look_at(
    inodes: &HashSet<u64>,
    sockets: &HashMap<u64, OpenSocket>,
    duplicates: &Duplicates<'_>,
) -> Vec<(u64, Result<Option<Known>, Errno>)> {
    let mut by_process: HashMap<i32, Vec<(u64, i32)>> = HashMap::new();
    for inode in inodes {
        let at = sockets[inode];
        by_process.entry(at.pid).or_default().push((*inode, at.number));
    }
    let mut found = Vec::with_capacity(inodes.len());
    for (pid, all) in by_process {
        // They are open until they have been looked at.
        for some in all.chunks(AT_ONCE) {
            let numbers: Vec<i32> = some.iter().map(|(_, number)| *number).collect();
            let open = match duplicates.all(pid, &numbers) {
                Ok(open) => open,
                Err(errno) => some.iter().map(|_| Err(errno)).collect(),
            };
            let known = |duplicate: Result<OwnedFd, Errno>| match duplicate {
                Ok(socket) => Known::of_held(socket.as_fd()),
                Err(Errno::ESRCH | Errno::EBADF) => Ok(None),
                Err(errno) => Err(errno),
            };
            let inodes = some.iter().map(|(inode, _)| *inode);
            found.extend(inodes.zip(open.into_iter().map(known)));
        }
    }
    found
}
