//! Lists of text, and mappings that may be lists of `NAME=VALUE`.

use super::super::error::Fault;
use super::super::problem::Problem;
use super::super::read::{Path, strict_text, wrong_type};
use super::super::tree::{Entry, Map, Node, Value};
use super::scalars::any_scalar;

/// Makes a list of a single text.
pub(super) fn one_or_more(node: &mut Node) {
    if matches!(node.value, Value::Text(_)) {
        let only = node.clone();
        *node = Node {
            tag: node.tag,
            ..Node::new(node.at, Value::List(vec![only]))
        };
    }
}

/// Checks a list of texts.
pub(super) fn texts(node: &Node, path: &Path<'_>) -> Result<(), Fault> {
    let Value::List(items) = &node.value else {
        return Err(wrong_type(node, path, "a list of texts"));
    };
    for (index, item) in items.iter().enumerate() {
        strict_text(item, &path.item(index))?;
    }
    Ok(())
}

/// Makes texts of the numbers of a list.
pub(super) fn words(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let Value::List(items) = &mut node.value else {
        return Err(wrong_type(node, path, "a list"));
    };
    for (index, item) in items.iter_mut().enumerate() {
        let text = any_scalar(item, &path.item(index))?;
        *item = Node::text(item.at, text);
    }
    Ok(())
}

/// Makes a mapping of a list of `NAME=VALUE`, and text of all values. A name without value is null.
pub(super) fn pairs(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if let Value::List(items) = &node.value {
        let mut map = Map::default();
        for (index, item) in items.iter().enumerate() {
            let text = strict_text(item, &path.item(index))?;
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Node::text(item.at, value)),
                None => (text, Node::null(item.at)),
            };
            check(name, &value, path)?;
            map.put(name, value);
        }
        node.value = Value::Map(Box::new(map));
        return Ok(());
    }
    let Value::Map(map) = &mut node.value else {
        return Err(wrong_type(node, path, "a mapping, or a list of NAME=VALUE"));
    };
    for (name, entry) in map.iter_mut() {
        if !entry.node.is_null() {
            let text = any_scalar(&entry.node, &path.key(name))?;
            if entry.node.as_text() != Some(&text) {
                entry.node.value = Value::Text(text.into());
            }
            entry.node.scalar = super::super::scalar::Scalar::Text;
        }
        check(name, &entry.node, path)?;
    }
    Ok(())
}

/// A name that no variable can have.
fn check(name: &str, value: &Node, path: &Path<'_>) -> Result<(), Fault> {
    let is_variable = matches!(path, Path::Key(_, "environment" | "args"));
    let is_bad = name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '=' || c == '\0');
    let is_cut = value.as_text().is_some_and(|text| text.contains('\0'));
    if is_variable && (is_bad || is_cut) {
        return Err(Fault::new(value.at, path, Problem::BadVariable(name.to_owned())));
    }
    Ok(())
}

/// Makes a mapping of a list of names; each name gets a copy of `value`.
pub(super) fn names(node: &mut Node, path: &Path<'_>, value: impl Fn(&Node) -> Node) -> Result<(), Fault> {
    if !matches!(node.value, Value::List(_)) {
        return Ok(());
    }
    texts(node, path)?;
    let mut map = Map::default();
    for item in node.items() {
        if let Some(name) = item.as_text() {
            let entry = Entry {
                key_at: item.at,
                node: value(item),
            };
            map.insert(name.into(), entry);
        }
    }
    node.value = Value::Map(Box::new(map));
    Ok(())
}
