//! A mapping of the tree: entries in the order of the file.
//!
//! Nearly all mappings of a compose file have a handful of keys, and there may be a hundred
//! thousand mappings: these are searched key by key. Only large mappings (ten thousand services)
//! have an index.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Location, Node};

/// Most entries of a mapping without index.
const SMALL: usize = 16;

/// A mapping.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    entries: Vec<(Rc<str>, Entry)>,
    index: Option<HashMap<Rc<str>, usize>>,
}

/// A value, and the place of its key.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key_at: Location,
    pub node: Node,
}

impl Map {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.position(key).map(|position| &self.entries[position].1)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.position(key).map(|position| &mut self.entries[position].1)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Puts a value, replacing the present value under this key.
    pub fn insert(&mut self, key: Rc<str>, entry: Entry) {
        match self.position(&key) {
            Some(position) => self.entries[position].1 = entry,
            None => {
                if let Some(index) = &mut self.index {
                    index.insert(key.clone(), self.entries.len());
                }
                self.entries.push((key, entry));
                if self.entries.len() > SMALL && self.index.is_none() {
                    self.make_index();
                }
            }
        }
    }

    /// Puts a value at its own place.
    pub fn put(&mut self, key: impl Into<Rc<str>>, node: Node) {
        let key_at = node.at;
        self.insert(key.into(), Entry { key_at, node });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes an entry out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let position = self.position(key)?;
        let (_, entry) = self.entries.remove(position);
        if self.index.is_some() {
            self.make_index();
        }
        Some(entry)
    }

    pub fn retain(&mut self, keep: impl Fn(&str, &Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|(key, entry)| keep(key, entry));
        if self.index.is_some() && self.entries.len() != before {
            self.make_index();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Rc<str>, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key, entry))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Rc<str>, &mut Entry)> {
        self.entries.iter_mut().map(|(key, entry)| (&*key, entry))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Rc<str>> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub fn into_entries(self) -> impl Iterator<Item = (Rc<str>, Entry)> {
        self.entries.into_iter()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives back the room that growing left unused.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.entries.iter().position(|(name, _)| **name == *key),
        }
    }

    fn make_index(&mut self) {
        let positions = self
            .entries
            .iter()
            .enumerate()
            .map(|(position, (key, _))| (key.clone(), position));
        self.index = Some(positions.collect());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Both small and large mappings behave as a list of pairs.
        #[test]
        fn it_is_a_list_of_pairs(actions in prop::collection::vec((0..40u32, 0..5u32), 0..120)) {
            let mut map = Map::default();
            let mut model: Vec<(String, u32)> = Vec::new();
            for (line, (key, action)) in (1..).zip(actions) {
                let key = format!("k{key}");
                if action == 0 {
                    prop_assert_eq!(map.remove(&key).is_some(), model.iter().any(|(name, _)| *name == key));
                    model.retain(|(name, _)| *name != key);
                    continue;
                }
                let at = Location { line, ..Location::default() };
                map.insert(Rc::from(&*key), Entry { key_at: at, node: Node::null(at) });
                match model.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, value)) => *value = line,
                    None => model.push((key, line)),
                }
            }
            let found: Vec<_> = map.iter().map(|(key, entry)| (key.to_string(), entry.key_at.line)).collect();
            prop_assert_eq!(&found, &model);
            for (key, line) in &model {
                prop_assert_eq!(map.get(key).map(|entry| entry.key_at.line), Some(*line));
            }
            map.retain(|_, entry| entry.key_at.line % 2 == 0);
            prop_assert!(map.keys().all(|key| map.contains_key(key)));
        }
    }
}
