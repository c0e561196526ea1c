//! Several files as one: the later over the earlier, as docker compose merges.
//!
//! Mappings are merged key by key; lists are appended. A value that can be a mapping or a list is
//! merged as a mapping; a command replaces a command. `!reset` takes a key away, `!override`
//! replaces the value.

use std::rc::Rc;

use super::error::Fault;
use super::problem::Problem;
use super::read::{Path, pairs};
use super::tree::{Entry, Map, Node, Tag, Value};

/// Keys of a service that are replaced, not merged.
const REPLACED: [&str; 2] = ["command", "entrypoint"];

/// Keys of a service that are mappings, or lists of `NAME=VALUE`.
const PAIRS: [&str; 5] = ["environment", "labels", "annotations", "sysctls", "extra_hosts"];

/// Keys of a service that are mappings, or lists of the mapping's keys.
const NAMES: [&str; 2] = ["depends_on", "networks"];

/// Merges `over` into `base`.
pub(super) fn merge(base: &mut Node, over: Node, path: &Path<'_>) -> Result<(), Fault> {
    if over.tag == Tag::Override {
        *base = over;
        return Ok(());
    }
    let service_key = path
        .keys::<3>()
        .filter(|keys| keys[0] == "services")
        .map(|keys| keys[2]);
    let is_test = path
        .keys::<4>()
        .is_some_and(|keys| keys[0] == "services" && keys[2..] == ["healthcheck", "test"]);
    if is_test || service_key.is_some_and(|key| REPLACED.contains(&key)) {
        *base = over;
        return Ok(());
    }
    let mut over = over;
    if service_key.is_some_and(|key| PAIRS.contains(&key)) {
        as_pairs(base, path)?;
        as_pairs(&mut over, path)?;
    } else if service_key.is_some_and(|key| NAMES.contains(&key)) {
        as_names(base);
        as_names(&mut over);
    }
    let at = over.at;
    let (base_kind, over_kind) = (base.kind(), over.kind());
    match (&mut base.value, over.value) {
        (_, Value::Null) => Ok(()),
        (Value::Map(base), Value::Map(over)) => merge_maps(base, *over, path),
        (Value::List(base), Value::List(over)) => {
            base.extend(over);
            Ok(())
        }
        (Value::List(base), value @ Value::Text(_)) => {
            base.push(Node::new(at, value));
            Ok(())
        }
        (Value::Text(_), Value::List(over)) => {
            let first = std::mem::replace(base, Node::null(at));
            let items = std::iter::once(first).chain(over).collect();
            *base = Node::new(at, Value::List(items));
            Ok(())
        }
        (Value::Null | Value::Text(_), value @ Value::Text(_)) | (Value::Null, value) => {
            *base = Node::new(at, value);
            Ok(())
        }
        // The long form of a value with a short form in the earlier file (`build: .`).
        (Value::Text(_), value @ Value::Map(_)) => {
            *base = Node::new(at, value);
            Ok(())
        }
        _ => Err(Fault::new(
            at,
            path,
            Problem::Merge {
                base: base_kind,
                over: over_kind,
            },
        )),
    }
}

fn merge_maps(base: &mut Map, over: Map, path: &Path<'_>) -> Result<(), Fault> {
    for (key, entry) in over.into_entries() {
        if entry.node.tag == Tag::Reset {
            base.remove(&key);
            continue;
        }
        match base.get_mut(&key) {
            Some(existing) => merge(&mut existing.node, entry.node, &path.key(&key))?,
            None => {
                base.insert(key, entry);
            }
        }
    }
    Ok(())
}

/// Takes away values tagged `!reset` in a file over which no file is merged.
pub(super) fn drop_resets(node: &mut Node) {
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|entry| entry.node.tag != Tag::Reset);
            map.iter_mut().for_each(|(_, entry)| drop_resets(&mut entry.node));
        }
        Value::List(items) => {
            items.retain(|item| item.tag != Tag::Reset);
            items.iter_mut().for_each(drop_resets);
        }
        _ => {}
    }
}

/// A list of `NAME=VALUE` as a mapping; the last of a name wins.
fn as_pairs(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    if !matches!(node.value, Value::List(_)) {
        return Ok(());
    }
    let mut map = Map::default();
    for (name, value, item) in pairs(node, path)? {
        let value = value.map_or(Value::Null, |value| Value::Text(Rc::from(value)));
        let entry = Entry {
            key_at: item.at,
            node: Node::new(item.at, value),
        };
        map.insert(Rc::from(name), entry);
    }
    node.value = Value::Map(Box::new(map));
    Ok(())
}

/// A list of names as a mapping from the names to null.
fn as_names(node: &mut Node) {
    let Value::List(items) = &node.value else { return };
    let mut map = Map::default();
    for item in items {
        // An item other than a name is refused when the list is read.
        let Value::Text(name) = &item.value else { return };
        let entry = Entry {
            key_at: item.at,
            node: Node::null(item.at),
        };
        map.insert(name.clone(), entry);
    }
    node.value = Value::Map(Box::new(map));
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn merged(base: &str, over: &str) -> Result<String, String> {
        let mut base = parse(base, 0).unwrap().remove(0);
        merge(&mut base, parse(over, 1).unwrap().remove(0), &Path::Root)
            .map_err(|fault| format!("{}: {}", fault.path, fault.problem))?;
        Ok(show(&base))
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".to_owned(),
            Value::Text(text) => text.to_string(),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Map(map) => {
                let entries = map.iter().map(|(key, entry)| format!("{key}:{}", show(&entry.node)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
            }
        }
    }

    /// Merges two fragments of one service.
    fn service(base: &str, over: &str) -> String {
        let wrap = |body: &str| format!("services: {{web: {{{body}}}}}");
        let shown = merged(&wrap(base), &wrap(over)).unwrap();
        shown.replace("{services:{web:{", "").replace("}}}", "")
    }

    #[test]
    fn each_key_merges_as_compose_does() {
        for (base, over, expected) in [
            ("user: a", "user: b", "user:b"),
            ("user: a", "hostname: b", "user:a hostname:b"),
            ("user: a", "user:", "user:a"),
            ("command: [a, b]", "command: c", "command:c"),
            ("entrypoint: [a]", "entrypoint: []", "entrypoint:[]"),
            ("entrypoint: [a]", "entrypoint:", "entrypoint:~"),
            ("ports: [1, 2]", "ports: [2, 3]", "ports:[1 2 2 3]"),
            ("env_file: a", "env_file: [b]", "env_file:[a b]"),
            ("env_file: [a]", "env_file: b", "env_file:[a b]"),
            (
                "environment: [A=1, B]",
                "environment: {A: 2, C: 3}",
                "environment:{A:2 B:~ C:3",
            ),
            ("labels: {a: 1}", "labels: [a=2, b=3]", "labels:{a:2 b:3"),
            (
                "depends_on: [a]",
                "depends_on: {b: {condition: c}}",
                "depends_on:{a:~ b:{condition:c",
            ),
            ("networks: [a]", "networks: [b]", "networks:{a:~ b:~"),
            ("ports: [1]", "ports: !override [2]", "ports:[2]"),
            ("ports: [1], user: a", "ports: !reset []", "user:a"),
            (
                "healthcheck: {test: [a]}",
                "healthcheck: {test: [b]}",
                "healthcheck:{test:[b]",
            ),
        ] {
            assert_eq!(
                service(base, over).trim_end_matches('}'),
                expected.trim_end_matches('}'),
                "{base} + {over}"
            );
        }
    }

    #[test]
    fn types_that_do_not_fit_are_refused() {
        assert_eq!(
            merged("services: {a: {}}", "services: [a]").unwrap_err(),
            "services: cannot merge a list over a mapping of the file before"
        );
    }
}
