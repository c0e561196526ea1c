//! What a program asked for its sockets.

use std::net::SocketAddr;

use super::recent::Recent;

/// A program's requests for one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The address that the program bound, as given.
    pub bound: Option<SocketAddr>,
    /// The program bound a TCP socket to the wildcard and port 0, and the bind is not carried out
    /// yet. Until the socket listens, connects to a host or leaves the planes, its use is not
    /// known.
    pub bind_later: bool,
    /// The peer that the program connected to, if the connection was redirected: a name server,
    /// `::1`.
    pub peer: Option<SocketAddr>,
}

/// The requests, by SO_COOKIE, which is right through dup, fork and SCM_RIGHTS. close(2) is not
/// seen, so the oldest entries are forgotten. Peers and bound addresses are forgotten separately. A
/// program that looks up names for years connects to the name server each time, and its listeners
/// are its oldest sockets.
#[derive(Debug, Default)]
pub struct SocketTable {
    bound: Recent<(Option<SocketAddr>, bool)>,
    peers: Recent<SocketAddr>,
}

impl SocketTable {
    /// The remembered requests for a socket.
    pub fn get(&self, cookie: u64) -> Asked {
        let (bound, bind_later) = self.bound.get(cookie).unwrap_or_default();
        Asked {
            bound,
            bind_later,
            peer: self.peers.get(cookie),
        }
    }

    /// Adds or changes the remembered requests for a socket.
    pub fn update(&mut self, cookie: u64, change: impl FnOnce(&mut Asked)) {
        let mut asked = self.get(cookie);
        change(&mut asked);
        let is_bound = asked.bound.is_some() || asked.bind_later;
        self.bound
            .set(cookie, is_bound.then_some((asked.bound, asked.bind_later)));
        self.peers.set(cookie, asked.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::recent::CAPACITY;

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
}
