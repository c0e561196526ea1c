//! The tree of a file: values with places.
//!
//! Scalars stay text, beside their type: a value's meaning depends on its key, and `1.10` must not
//! become 1.1. The tree lives only while a file is loaded.

mod map;

use std::rc::Rc;

pub(super) use self::map::{Entry, Map};
pub(super) use super::scalar::Scalar;

/// The approximate memory of a node besides its text.
const NODE_BYTES: usize = 64;

/// A place in one of the files being loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    /// Which file.
    pub file: u32,
    /// From 1; 0 if the place does not exist.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// The effect of a compose tag (`!reset`, `!override`) on a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    None,
    Reset,
    Override,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: Location,
    pub tag: Tag,
    /// The type of a scalar; `Text` for all other values.
    pub scalar: Scalar,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Text(Rc<str>),
    List(Vec<Node>),
    Map(Box<Map>),
}

impl Node {
    pub fn null(at: Location) -> Self {
        Self::new(at, Value::Null)
    }

    pub fn new(at: Location, value: Value) -> Self {
        Self {
            at,
            tag: Tag::None,
            scalar: Scalar::Text,
            value,
        }
    }

    /// Text at a place.
    pub fn text(at: Location, text: impl Into<Rc<str>>) -> Self {
        Self::new(at, Value::Text(text.into()))
    }

    /// A scalar of another type at a place.
    pub fn typed(at: Location, scalar: Scalar, text: impl Into<Rc<str>>) -> Self {
        Self {
            scalar,
            ..Self::text(at, text)
        }
    }

    /// A mapping at a place.
    pub fn map(at: Location, entries: impl IntoIterator<Item = (&'static str, Node)>) -> Self {
        let mut map = Map::default();
        for (key, node) in entries {
            map.put(key, node);
        }
        Self::new(at, Value::Map(Box::new(map)))
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The text of `key`, if this is a mapping with that text.
    pub fn get_text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// True if two values are equal wherever they stand.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Text(one), Value::Text(two)) => one == two && self.scalar == other.scalar,
            (Value::List(one), Value::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.is_same(two))
            }
            (Value::Map(one), Value::Map(two)) => {
                let same = |(key, entry): (&Rc<str>, &Entry)| {
                    two.get(key).is_some_and(|other| entry.node.is_same(&other.node))
                };
                one.len() == two.len() && one.iter().all(same)
            }
            _ => false,
        }
    }

    /// A description, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Text(text) if text.chars().count() > 60 => {
                format!("'{}...'", text.chars().take(57).collect::<String>())
            }
            Value::Text(text) => match self.scalar {
                Scalar::Text => format!("'{text}'"),
                Scalar::Whole | Scalar::Fraction => format!("the number {text}"),
                Scalar::Boolean => format!("the boolean {text}"),
                Scalar::Time => format!("the date {text}"),
            },
            _ => self.kind().to_owned(),
        }
    }

    /// The type, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The value of `key` if this is a mapping with a non-null value.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(map) => map
                .get(key)
                .map(|entry| &entry.node)
                .filter(|node| !matches!(node.value, Value::Null)),
            _ => None,
        }
    }
}

/// Bytes (roughly) and levels of a tree. The reader bounds how deep trees are, and so this
/// recursion.
pub(super) fn measure(node: &Node) -> (usize, usize) {
    let inner = |(bytes, depth): (usize, usize), (b, d): (usize, usize)| (bytes + b, depth.max(d));
    match &node.value {
        Value::Null => (NODE_BYTES, 0),
        Value::Text(text) => (NODE_BYTES + text.len(), 0),
        Value::List(items) => {
            let (bytes, depth) = items.iter().map(measure).fold((NODE_BYTES, 0), inner);
            (bytes, depth + 1)
        }
        Value::Map(map) => {
            let entries = map.iter().map(|(key, entry)| {
                let (bytes, depth) = measure(&entry.node);
                (bytes + key.len() + NODE_BYTES, depth)
            });
            let (bytes, depth) = entries.fold((NODE_BYTES, 0), inner);
            (bytes, depth + 1)
        }
    }
}
