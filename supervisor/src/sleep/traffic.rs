//! The connections of a host, and what has moved on them.

use std::hash::{DefaultHasher, Hash, Hasher};

use imsup_linux::descriptors;
use imsup_linux::traffic::Connection;

use super::idle::Traffic;
use super::{MANY_DESCRIPTORS, Sleeper, planes};
use crate::host::Host;
use crate::incoming::Seen;

impl Sleeper {
    /// The known connections of the host with other peers; `None` if the connections cannot be
    /// read.
    pub(super) fn connections(&self) -> Option<Vec<Connection>> {
        match self.connections.read() {
            Ok(connections) => Some(connections),
            Err(error) => {
                tracing::warn!(%error, "the connections of a host cannot be read");
                None
            }
        }
    }

    /// Remembers the events seen, which are reported only once: the search for the host's
    /// connections may come much later.
    pub(super) fn note_seen(&mut self, seen: Seen) {
        self.search_again |= seen.went || seen.own;
    }

    /// The traffic so far on the connections of a running host.
    pub(super) fn traffic(&mut self, host: &Host, pids: &[i32]) -> Option<Traffic> {
        if !self.note_connections(host, pids, self.search_again) {
            return None;
        }
        self.search_again = false;
        self.connections().map(|connections| traffic_of(&connections))
    }

    /// Searches for the connections of a host that runs and that are not known yet, also among
    /// sockets that were none, if any has `connected` since.
    pub(super) fn note_connections(&mut self, host: &Host, pids: &[i32], connected: bool) -> bool {
        let listeners: Vec<u64> = host.retained.listening_by_inode().map(|(inode, _)| inode).collect();
        let noted = self
            .connections
            .note(pids, planes(host), &self.tree.cgroups(), &listeners, connected);
        if let Err(error) = &noted {
            tracing::warn!(%error, "the connections of a host cannot be searched for");
        }
        noted.is_ok()
    }

    /// The bytes moved so far on the connections of a held host, as a number to compare; `None` if
    /// there are too many connections for a query at each tick.
    pub(super) fn held_bytes(&mut self, host: &Host, pids: &[i32]) -> Option<u64> {
        let count: u64 = pids.iter().map(|pid| descriptors::count(*pid)).sum();
        if count <= MANY_DESCRIPTORS {
            let listeners: Vec<u64> = host.retained.listening_by_inode().map(|(inode, _)| inode).collect();
            self.connections.note_held(pids, &listeners, &self.tree.duplicates());
        }
        let few = u64::try_from(self.connections.count()).is_ok_and(|count| count <= MANY_DESCRIPTORS);
        let connections = few.then(|| self.connections())?;
        connections.map(|connections| fingerprint(&connections))
    }
}

fn traffic_of(connections: &[Connection]) -> Traffic {
    let heard = connections.iter().map(|connection| connection.last_heard);
    Traffic {
        fingerprint: fingerprint(connections),
        count: connections.len(),
        heard: heard.min().unwrap_or_default(),
    }
}

/// A number that changes when bytes move on any connection, or a connection comes or goes. The
/// hashes of all connections are added: sums of bytes would not tell a connection from the next
/// with as many bytes.
fn fingerprint(connections: &[Connection]) -> u64 {
    connections.iter().fold(0, |sum: u64, connection| {
        let mut hasher = DefaultHasher::new();
        (connection.local, connection.peer, connection.bytes).hash(&mut hasher);
        sum.wrapping_add(hasher.finish())
    })
}
