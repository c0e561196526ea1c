//! The last sockets, by a number.

use std::collections::{BTreeMap, VecDeque};

/// The number of sockets remembered. Listeners and bound datagram sockets are few; beyond this
/// number, only the shown form of an address is forgotten.
pub(super) const CAPACITY: usize = 4096;

/// One value for each of the last sockets. Not a hash table: a hash table of the same size doubles
/// long after it was filled.
#[derive(Debug)]
pub(super) struct Recent<T> {
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
    pub(super) fn get(&self, cookie: u64) -> Option<T> {
        self.known.get(&cookie).copied()
    }

    pub(super) fn set(&mut self, cookie: u64, value: Option<T>) {
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

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
