//! The TCP connections of a host, looked at again and again without a touch.
//!
//! No descriptor of the program's connections is duplicated while the program runs, not for an
//! instant: the program's close(2) would not be the last close, and epoll would report closed
//! descriptors to the program. The sockets are known by the links of the program's descriptors.
//! Each new socket is searched for once in the kernel's table of TCP sockets. From then on the
//! socket is found there by the addresses.

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

/// The known kind of a socket.
#[derive(Clone, Copy, Debug)]
enum Socket {
    /// A TCP connection, now or earlier.
    Connection(Known),
    /// A TCP socket that was no connection at the last search. The socket may become a connection.
    Unconnected,
    /// Not a TCP socket, for the whole life of the socket.
    Other,
}

/// The sockets of one host.
#[derive(Debug, Default)]
pub struct Connections {
    known: HashMap<u64, Socket>,
}

impl Connections {
    /// Notes the sockets of a running host. `listeners` are the sockets on which the host listens.
    /// Sockets that were no connections at first are searched for again if a socket has been
    /// `connected` since.
    ///
    /// # Errors
    /// An error if sock_diag(7) cannot be used.
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

    /// The same for a held host. No close(2) can happen meanwhile, so each new socket is examined
    /// directly, except the `listeners`.
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

    /// All connections of a held host. Each socket is examined anew, because the addresses may have
    /// changed.
    ///
    /// # Errors
    /// An error if sock_diag(7) cannot be used, or if a socket is still being connected: that
    /// connection has no known peer yet.
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

    /// A UNIX connection of a held host with a process outside the host, as the descriptor of a
    /// process. Standard streams are left out: the program got these streams from its starter (a
    /// journal).
    ///
    /// # Errors
    /// An error if sock_diag(7) cannot be used.
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

    /// The present state of the connections, without connections of the host with itself.
    ///
    /// # Errors
    /// An error if sock_diag(7) cannot be used.
    pub fn read(&self) -> io::Result<Vec<Connection>> {
        Ok(traffic::read(&self.outside())?.into_iter().flatten().collect())
    }

    /// The connections with peers other than the host itself.
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
/// The kinds of these sockets of a held host, each by inode: a connection, no connection, or the
/// error that prevents an answer.
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
        // All duplicates of a chunk stay open until the whole chunk has been examined.
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
