//! The long forms of values with a short form.

use super::super::error::Fault;
use super::super::keys::Shape;
use super::super::problem::Problem;
use super::super::read::{Path, strict_text, wrong_type};
use super::super::scalar::Scalar;
use super::super::tree::{Map, Node, Value};
use super::{Canonical, lists, mounts, ports};

impl Canonical<'_> {
    /// Replaces a short form by the long one.
    pub(super) fn make_long(&mut self, node: &mut Node, shape: Shape, path: &Path<'_>) -> Result<(), Fault> {
        let at = node.at;
        match shape {
            Shape::Texts => {
                lists::texts(node, path)?;
                super::without_repetition(node, shape);
            }
            Shape::Words => {
                lists::words(node, path)?;
                super::without_repetition(node, shape);
            }
            Shape::OneOrTexts => {
                lists::one_or_more(node);
                lists::texts(node, path)?;
            }
            Shape::OneOrPaths => {
                lists::one_or_more(node);
                lists::texts(node, path)?;
                self.each_text(node, |own, text| own.absolute(text));
            }
            Shape::Pairs | Shape::Variables => lists::pairs(node, path)?,
            Shape::Contexts => {
                lists::pairs(node, path)?;
                self.each_text(node, |own, text| own.context(text));
            }
            Shape::Command => match &node.value {
                Value::List(_) => lists::texts(node, path)?,
                _ => strict_text(node, path).map(|_| ())?,
            },
            Shape::Test => self.test(node, path)?,
            Shape::Build => self.build(node, path)?,
            Shape::DependsOn => lists::names(node, path, |item| {
                let required = Node::typed(item.at, Scalar::Boolean, "true");
                let condition = Node::text(item.at, "service_started");
                Node::map(item.at, [("condition", condition), ("required", required)])
            })?,
            Shape::Networks | Shape::Models => lists::names(node, path, |item| Node::null(item.at))?,
            Shape::EnvFiles => {
                lists::one_or_more(node);
                each_short(node, |file| Node::map(file.at, [("path", file)]));
                for (index, item) in node.items().iter().enumerate() {
                    if item.get("path").is_none() && item.as_map().is_some() {
                        return Err(Fault::new(item.at, path.item(index), Problem::Missing("path")));
                    }
                }
            }
            Shape::Mounts => each_short(node, |source| Node::map(source.at, [("source", source)])),
            Shape::Devices => each_short(node, device),
            Shape::Gpus if node.as_text() == Some("all") => {
                let count = Node::typed(at, Scalar::Whole, "-1");
                node.value = Value::List(vec![Node::map(at, [("count", count)])]);
            }
            Shape::ExtraHosts => extra_hosts(node, path)?,
            Shape::Ports => ports::expand(node, path)?,
            Shape::Volumes => self.volumes(node, path)?,
            Shape::Ulimit => ulimit(node, path)?,
            Shape::Keys(_) => external(node),
            _ => {}
        }
        Ok(())
    }

    /// Replaces each text of a list or mapping.
    fn each_text(&self, node: &mut Node, change: impl Fn(&Self, &str) -> String) {
        let replace = |item: &mut Node| {
            if let Some(text) = item.as_text() {
                item.value = Value::Text(change(self, text).into());
            }
        };
        match &mut node.value {
            Value::List(items) => items.iter_mut().for_each(replace),
            Value::Map(map) => map.iter_mut().for_each(|(_, entry)| replace(&mut entry.node)),
            _ => {}
        }
    }

    fn test(&mut self, node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
        if let Value::List(_) = node.value {
            return lists::texts(node, path);
        }
        let test = Node::text(node.at, strict_text(node, path)?);
        node.value = Value::List(vec![Node::text(node.at, "CMD-SHELL"), test]);
        Ok(())
    }

    fn build(&mut self, node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
        if let Value::Text(_) = node.value {
            strict_text(node, path)?;
            let tag = node.tag;
            let context = std::mem::replace(node, Node::null(node.at));
            *node = Node::map(context.at, [("context", context)]);
            node.tag = tag;
        }
        if let Some(map) = node.as_map_mut()
            && let Some(context) = map.get_mut("context").map(|entry| &mut entry.node)
            && let Some(text) = context.as_text()
        {
            context.value = Value::Text(self.context(text).into());
        }
        Ok(())
    }

    /// A build context: a directory, or an address elsewhere.
    fn context(&self, text: &str) -> String {
        let is_elsewhere = text.contains("://") || ["git@", "github.com/"].iter().any(|start| text.starts_with(start));
        if is_elsewhere {
            text.to_owned()
        } else {
            self.absolute(text)
        }
    }

    fn volumes(&mut self, node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
        let Value::List(items) = &mut node.value else {
            return Err(wrong_type(node, path, "a list of volumes"));
        };
        for (index, item) in items.iter_mut().enumerate() {
            if let Value::Text(_) = item.value {
                *item = mounts::volume(item, &path.item(index))?;
            }
            if item.get_text("type") == Some("bind")
                && let Some(source) = item.as_map_mut().and_then(|map| map.get_mut("source"))
                && let Some(text) = source.node.as_text()
            {
                source.node.value = Value::Text(self.absolute(text).into());
            }
        }
        Ok(())
    }
}

/// Replaces the texts of a list.
fn each_short(node: &mut Node, long: impl Fn(Node) -> Node) {
    let Value::List(items) = &mut node.value else { return };
    for item in items.iter_mut().filter(|item| matches!(item.value, Value::Text(_))) {
        let short = std::mem::replace(item, Node::null(item.at));
        *item = long(short);
    }
}

/// `SOURCE[:TARGET[:PERMISSIONS]]`.
fn device(short: Node) -> Node {
    let at = short.at;
    let text = short.as_text().unwrap_or_default();
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or(source);
    let permissions = parts.next().unwrap_or("rwm");
    let part = |text: &str| Node::text(at, text);
    Node::map(
        at,
        [
            ("source", part(source)),
            ("target", part(target)),
            ("permissions", part(permissions)),
        ],
    )
}

/// `NAME:ADDRESS` and `NAME=ADDRESS` as a mapping from names to lists of addresses.
fn extra_hosts(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let at = node.at;
    let mut map = Map::default();
    let mut add = |name: &str, address: &str, at| {
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = Node::text(at, bare.unwrap_or(address));
        match map.get_mut(name).map(|entry| &mut entry.node.value) {
            Some(Value::List(known)) => known.push(address),
            _ => map.put(name, Node::new(at, Value::List(vec![address]))),
        }
    };
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let text = strict_text(item, &path.item(index))?;
                let parts = text.split_once('=').or_else(|| text.split_once(':'));
                let Some((name, address)) = parts.filter(|(name, address)| !name.is_empty() && !address.is_empty())
                else {
                    return Err(wrong_type(item, &path.item(index), "NAME=ADDRESS"));
                };
                add(name, address, item.at);
            }
        }
        Value::Map(entries) => {
            for (name, entry) in entries.iter() {
                let path = path.key(name);
                match &entry.node.value {
                    Value::List(addresses) => {
                        for (index, item) in addresses.iter().enumerate() {
                            add(name, strict_text(item, &path.item(index))?, item.at);
                        }
                    }
                    _ => add(name, strict_text(&entry.node, &path)?, entry.node.at),
                }
            }
        }
        _ => return Err(wrong_type(node, path, "a mapping, or a list of NAME=ADDRESS")),
    }
    node.at = at;
    node.value = Value::Map(Box::new(map));
    Ok(())
}

/// One number for both limits, or `soft` and `hard`.
fn ulimit(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let is_number =
        |node: &Node| node.scalar == Scalar::Whole || node.as_text().is_some_and(|t| t.parse::<i64>().is_ok());
    let fits = match &node.value {
        Value::Text(_) => is_number(node),
        Value::Map(map) => ["soft", "hard"]
            .iter()
            .all(|key| map.get(key).is_some_and(|entry| is_number(&entry.node))),
        _ => false,
    };
    if !fits {
        return Err(wrong_type(node, path, "a number, or a mapping with 'soft' and 'hard'"));
    }
    let typed = |node: &mut Node| node.scalar = Scalar::Whole;
    match &mut node.value {
        Value::Map(map) => map.iter_mut().for_each(|(_, entry)| typed(&mut entry.node)),
        _ => typed(node),
    }
    Ok(())
}

/// `external: {name: X}`, which is older than `name: X` beside `external: true`.
fn external(node: &mut Node) {
    let Some(map) = node.as_map_mut() else { return };
    let Some(name) = map.get("external").and_then(|entry| entry.node.get("name")).cloned() else {
        return;
    };
    map.put("external", Node::typed(name.at, Scalar::Boolean, "true"));
    map.put("name", name);
}
