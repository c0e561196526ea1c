//! The TCP connections of the name server: each has a place, and where there is none left the one that has been idle for longest gives up its own
//! (RFC 7766, 6.2.3), so that clients which connect and say nothing keep nobody out.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

/// Places; a thread serves each.
const PLACES: usize = 256;

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// The one that was idle for longest first.
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
    /// Gives a connection a place.
    pub(super) fn enter(&self, stream: Arc<TcpStream>) -> Place {
        let mut taken = self.0.lock();
        while taken.places.len() >= PLACES {
            if let Some((_, idle)) = taken.places.pop_front() {
                // Its thread sees the end of it.
                let _ = idle.shutdown(Shutdown::Both);
            }
        }
        let number = taken.next;
        taken.next += 1;
        taken.places.push_back((number, stream));
        Place {
            number,
            all: Arc::clone(&self.0),
        }
    }
}

impl Place {
    /// It has just been served: all others have been idle for longer.
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
        self.all.lock().places.retain(|(number, _)| *number != self.number);
    }
}
