//! A file in canonical form, as `docker compose config` shows it: the short forms of values become
//! the long ones, scalars get the types of their keys, and files get absolute paths.
//!
//! Each file is made canonical before files are merged, so that merging needs no rules for short
//! forms.

mod lists;
mod long;
mod mounts;
mod ports;
mod scalars;

use std::path::Path as FilePath;

use super::error::{Fault, Notice};
use super::keys::{self, FILE, Shape};
use super::merge::without_repetition;
use super::problem::Problem;
use super::read::{Path, wrong_type};
use super::tree::{Node, Tag, Value};

/// What a file is made canonical with.
pub(super) struct Canonical<'a> {
    /// The base of relative paths.
    pub directory: &'a FilePath,
    /// The caller's home directory, for `~`.
    pub home: Option<&'a str>,
    pub warnings: &'a mut Vec<Notice>,
}

impl Canonical<'_> {
    /// Makes a file canonical.
    pub fn file(&mut self, node: &mut Node) -> Result<(), Fault> {
        self.value(node, Shape::Keys(FILE), &Path::Root)
    }

    fn value(&mut self, node: &mut Node, shape: Shape, path: &Path<'_>) -> Result<(), Fault> {
        // Null asks for nothing, as a key that is not there.
        if node.tag == Tag::Reset || node.is_null() {
            return Ok(());
        }
        self.make_long(node, shape, path)?;
        match shape.long() {
            Shape::Keys(known) => self.keys(node, known, path),
            Shape::Named(inner) => {
                for (name, entry) in entries(node, path)? {
                    if is_named_by_users(path) {
                        check_name(name, &entry.node, path)?;
                    }
                    self.value(&mut entry.node, *inner, &path.key(name))?;
                }
                Ok(())
            }
            Shape::Items(inner) => {
                for (index, item) in items(node, path)?.iter_mut().enumerate() {
                    if item.is_null() && item.tag != Tag::Reset {
                        return Err(wrong_type(item, &path.item(index), "an entry"));
                    }
                    self.value(item, *inner, &path.item(index))?;
                }
                without_repetition(node, shape);
                Ok(())
            }
            scalar => self.scalar(node, scalar, path),
        }
    }

    fn keys(&mut self, node: &mut Node, known: &'static [keys::Key], path: &Path<'_>) -> Result<(), Fault> {
        for (name, entry) in entries(node, path)? {
            // Unknown keys are named later, once for all files.
            if let Some(key) = keys::find(known, name) {
                self.value(&mut entry.node, key.shape, &path.key(name))?;
            }
        }
        Ok(())
    }
}

type Entries<'n> = Box<dyn Iterator<Item = (&'n str, &'n mut super::tree::Entry)> + 'n>;

fn entries<'n>(node: &'n mut Node, path: &Path<'_>) -> Result<Entries<'n>, Fault> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(wrong_type(node, path, "a mapping (keys with values)"));
    }
    let map = node.as_map_mut().into_iter();
    Ok(Box::new(
        map.flat_map(|map| map.iter_mut().map(|(name, entry)| (&**name, entry))),
    ))
}

fn items<'n>(node: &'n mut Node, path: &Path<'_>) -> Result<&'n mut Vec<Node>, Fault> {
    match node.value {
        Value::List(ref mut items) => Ok(items),
        _ => Err(wrong_type(node, path, "a list")),
    }
}

/// True for mappings with names of services, networks and so on.
fn is_named_by_users(path: &Path<'_>) -> bool {
    path.keys::<1>().is_some()
}

fn check_name(name: &str, node: &Node, path: &Path<'_>) -> Result<(), Fault> {
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits && !name.is_empty() {
        return Ok(());
    }
    let problem = Problem::Name(format!(
        "'{name}' cannot be a name here: use letters, digits, '.', '_' and '-'"
    ));
    Err(Fault::new(node.at, path, problem))
}
