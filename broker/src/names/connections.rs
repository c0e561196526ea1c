//! The TCP connections of the name server: each has a place. If there is none left, the connection
//! that has been idle for longest gives up its place (RFC 7766, 6.2.3). So silent clients do not
//! keep other clients out.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

/// Places; a thread serves each.
const PLACES: usize = 256;

/// Maximum number of threads: a thread whose connection gave up its place may still be waiting for
/// another name server.
const THREADS: usize = 2 * PLACES;

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Places that were not dropped, given up or not.
    threads: usize,
    /// Idle for longest first.
    places: VecDeque<(u64, Arc<TcpStream>)>,
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Taken>>);

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    all: Arc<Mutex<Taken>>,
}

impl Connections {
    /// Gives a connection a place; `None` if too many threads are busy.
    pub(super) fn enter(&self, stream: Arc<TcpStream>) -> Option<Place> {
        let mut taken = self.0.lock();
        if taken.threads >= THREADS {
            return None;
        }
        taken.threads += 1;
        while taken.places.len() >= PLACES {
            if let Some((_, idle)) = taken.places.pop_front() {
                // The connection's thread sees its end.
                let _ = idle.shutdown(Shutdown::Both);
            }
        }
        let number = taken.next;
        taken.next += 1;
        taken.places.push_back((number, stream));
        Some(Place {
            number,
            all: Arc::clone(&self.0),
        })
    }
}

impl Place {
    /// The connection has just been served: all others have been idle for longer.
    pub(super) fn was_served(&self) {
        let mut taken = self.all.lock();
        if let Some(at) = taken.places.iter().position(|(number, _)| *number == self.number)
            && let Some(own) = taken.places.remove(at)
        {
            taken.places.push_back(own);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.all.lock();
        taken.threads -= 1;
        taken.places.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_one_that_was_idle_for_longest_makes_room_and_threads_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pair = || {
            let client = TcpStream::connect(address).unwrap();
            (client, Arc::new(listener.accept().unwrap().0))
        };
        let connections = Connections::default();
        let (first, mut second) = (pair(), pair());
        let mut places = vec![
            connections.enter(first.1).unwrap(),
            connections.enter(second.1).unwrap(),
        ];
        places[0].was_served();
        let (_third, theirs) = pair();
        places.extend((places.len()..THREADS).map(|_| connections.enter(Arc::clone(&theirs)).unwrap()));
        assert_eq!(second.0.read(&mut [0]).unwrap(), 0, "it was idle for longest");
        assert!(connections.enter(Arc::clone(&theirs)).is_none());
        places.pop();
        assert!(connections.enter(theirs).is_some());
    }
}
