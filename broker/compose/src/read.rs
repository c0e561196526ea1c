//! Typed access to the tree: a value of the expected type, or a fault with the expected and the
//! found type.

use std::fmt;
use std::str::FromStr;

use super::error::Fault;
use super::problem::Problem;
use super::scalar::Scalar;
use super::tree::{Map, Node, Value};

/// The place of a value, as its keys. Made on the way down without allocating; shown only with a
/// fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl<'p> Path<'p> {
    pub fn key(&'p self, name: &'p str) -> Self {
        Self::Key(self, name)
    }

    pub fn item(&'p self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// The names of the keys, outermost first, if there are at most `N` keys and no items of lists.
    pub fn keys<const N: usize>(&self) -> Option<[&'p str; N]> {
        let mut names = [""; N];
        let mut path = *self;
        for slot in names.iter_mut().rev() {
            let Self::Key(parent, name) = path else { return None };
            *slot = name;
            path = *parent;
        }
        matches!(path, Self::Root).then_some(names)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the file"),
            Self::Key(Path::Root, name) => f.write_str(name),
            Self::Key(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

pub(super) fn wrong_type(node: &Node, path: &Path<'_>, expected: &'static str) -> Fault {
    Fault::new(
        node.at,
        path,
        Problem::Type {
            expected,
            found: node.describe(),
        },
    )
}

/// A scalar, whatever its form.
pub(super) fn text<'n>(node: &'n Node, path: &Path<'_>) -> Result<&'n str, Fault> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(wrong_type(node, path, "text")),
    }
}

/// Text, and no number or boolean: these would have to be quoted for docker compose as well.
pub(super) fn strict_text<'n>(node: &'n Node, path: &Path<'_>) -> Result<&'n str, Fault> {
    match &node.value {
        Value::Text(text) if node.scalar == Scalar::Text => Ok(text),
        Value::Text(text) => {
            let problem = Problem::Quote {
                found: node.describe(),
                text: text.to_string(),
            };
            Err(Fault::new(node.at, path, problem))
        }
        _ => Err(wrong_type(node, path, "text")),
    }
}

pub(super) fn map<'n>(node: &'n Node, path: &Path<'_>) -> Result<&'n Map, Fault> {
    match &node.value {
        Value::Map(map) => Ok(map),
        _ => Err(wrong_type(node, path, "a mapping (keys with values)")),
    }
}

pub(super) fn list<'n>(node: &'n Node, path: &Path<'_>) -> Result<&'n [Node], Fault> {
    match &node.value {
        Value::List(items) => Ok(items),
        _ => Err(wrong_type(node, path, "a list")),
    }
}

pub(super) fn boolean(node: &Node, path: &Path<'_>) -> Result<bool, Fault> {
    let known = match &node.value {
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Some(true),
            "false" | "no" | "off" | "n" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    known.ok_or_else(|| wrong_type(node, path, "true or false"))
}

pub(super) fn number<T: FromStr>(node: &Node, path: &Path<'_>, range: &'static str) -> Result<T, Fault> {
    let Value::Text(text) = &node.value else {
        return Err(wrong_type(node, path, "a number"));
    };
    text.parse().map_err(|_| {
        Fault::new(
            node.at,
            path,
            Problem::Range {
                range,
                found: text.to_string(),
            },
        )
    })
}

/// The items of a list of scalars; null items are refused.
pub(super) fn texts<'n>(node: &'n Node, path: &Path<'_>) -> Result<Vec<&'n str>, Fault> {
    let items = list(node, path)?.iter().enumerate();
    items.map(|(index, item)| text(item, &path.item(index))).collect()
}

/// A scalar, or a list of scalars.
pub(super) fn text_or_texts<'n>(node: &'n Node, path: &Path<'_>) -> Result<Vec<&'n str>, Fault> {
    match &node.value {
        Value::Text(text) => Ok(vec![text]),
        Value::List(_) => texts(node, path),
        _ => Err(wrong_type(node, path, "text or a list of texts")),
    }
}
