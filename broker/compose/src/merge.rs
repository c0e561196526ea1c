//! Several files as one: the later over the earlier, as docker compose merges.
//!
//! The files are canonical. Mappings are merged key by key; lists are appended, and of entries for
//! the same thing (a port, a volume's target) the last one stays, in the place of the first. A
//! command replaces a command. `!reset` takes a key away, `!override` replaces the value.

use std::collections::HashMap;

use super::error::Fault;
use super::keys::{self, Shape};
use super::problem::Problem;
use super::read::Path;
use super::tree::{Map, Node, Tag, Value};

/// Merges `over` into `base`.
pub(super) fn merge(base: &mut Node, over: Node, shape: Shape, path: &Path<'_>) -> Result<(), Fault> {
    let replaces = over.tag == Tag::Override || matches!(shape, Shape::Command | Shape::Test);
    if replaces || base.is_null() {
        *base = over;
        return Ok(());
    }
    let kinds = (base.kind(), over.kind());
    let at = over.at;
    match (&mut base.value, over.value) {
        (_, Value::Null) => {}
        (Value::Map(known), Value::Map(over)) => match shape {
            Shape::Logging if other_driver(known, &over) => base.value = Value::Map(over),
            _ => merge_maps(known, *over, shape, path)?,
        },
        (Value::List(known), Value::List(over)) => {
            known.extend(over);
            without_repetition(base, shape);
        }
        (Value::Text(_), value @ Value::Text(_)) => {
            base.value = value;
            base.scalar = over.scalar;
            base.at = at;
        }
        (_, value) if matches!(shape, Shape::Ulimit) => base.value = value,
        _ => {
            let (base, over) = kinds;
            return Err(Fault::new(at, path, Problem::Merge { base, over }));
        }
    }
    Ok(())
}

fn merge_maps(base: &mut Map, over: Map, shape: Shape, path: &Path<'_>) -> Result<(), Fault> {
    let are_values = matches!(shape, Shape::Pairs | Shape::Variables | Shape::Contexts);
    for (key, entry) in over.into_entries() {
        if entry.node.tag == Tag::Reset {
            base.remove(&key);
            continue;
        }
        let is_extension = key.starts_with("x-") && &*key != "x-imsup";
        match base.get_mut(&key) {
            // A null variable is one of the caller's, and takes the earlier file's value away.
            Some(existing) if are_values || is_extension => existing.node = entry.node,
            Some(existing) => merge(&mut existing.node, entry.node, child(shape, &key), &path.key(&key))?,
            None => {
                base.insert(key, entry);
            }
        }
    }
    Ok(())
}

/// The shape of a mapping's entry.
fn child(shape: Shape, key: &str) -> Shape {
    match shape.long() {
        Shape::Keys(known) => keys::find(known, key).map_or(Shape::Any, |key| key.shape),
        Shape::Named(inner) => *inner,
        Shape::ExtraHosts => Shape::Texts,
        _ => Shape::Any,
    }
}

/// True if the options of one logging driver would be given to another.
fn other_driver(base: &Map, over: &Map) -> bool {
    let driver = |map: &Map| {
        map.get("driver")
            .and_then(|entry| entry.node.as_text().map(str::to_owned))
    };
    matches!((driver(base), driver(over)), (Some(base), Some(over)) if base != over)
}

/// Leaves one entry of a list for each thing: the last, in the place of the first.
pub(super) fn without_repetition(node: &mut Node, shape: Shape) {
    let Value::List(items) = &mut node.value else { return };
    if items.len() < 2 {
        return;
    }
    let mut places = HashMap::with_capacity(items.len());
    let mut kept: Vec<Node> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        match identity(&item, shape).map(|identity| *places.entry(identity).or_insert(kept.len())) {
            Some(place) if place < kept.len() => kept[place] = item,
            _ => kept.push(item),
        }
    }
    *items = kept;
}

/// What an entry of a list is about; `None` for entries that may repeat.
fn identity(item: &Node, shape: Shape) -> Option<String> {
    let text = |key| item.get_text(key).map(str::to_owned);
    match shape {
        Shape::Texts | Shape::Words => item.as_text().map(str::to_owned),
        Shape::Volumes | Shape::Devices => text("target"),
        Shape::Mounts => text("target").or_else(|| text("source")),
        Shape::EnvFiles => text("path"),
        Shape::Ipam => text("subnet"),
        Shape::Ports => {
            let part = |key, default| item.get_text(key).unwrap_or(default);
            Some(format!(
                "{}:{}:{}/{}",
                part("host_ip", "0.0.0.0"),
                part("published", ""),
                part("target", ""),
                part("protocol", "tcp")
            ))
        }
        _ => None,
    }
}

/// Takes away values tagged `!reset` in a file over which no file is merged.
pub(super) fn drop_resets(node: &mut Node) {
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, entry| entry.node.tag != Tag::Reset);
            map.iter_mut().for_each(|(_, entry)| drop_resets(&mut entry.node));
        }
        Value::List(items) => {
            items.retain(|item| item.tag != Tag::Reset);
            items.iter_mut().for_each(drop_resets);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use super::super::canonical::Canonical;
    use super::super::keys::FILE;
    use super::super::yaml::parse;
    use super::*;

    fn merged(base: &str, over: &str) -> Result<Node, String> {
        let canonical = |text: &str, file| {
            let mut node = parse(text, file).unwrap().remove(0);
            let mut canonical = Canonical {
                directory: FilePath::new("/d"),
                home: None,
                warnings: &mut Vec::new(),
            };
            canonical.file(&mut node).map(|()| node)
        };
        let mut node = canonical(base, 0).map_err(|fault| fault.problem.to_string())?;
        let over = canonical(over, 1).map_err(|fault| fault.problem.to_string())?;
        merge(&mut node, over, Shape::Keys(FILE), &Path::Root)
            .map_err(|fault| format!("{}: {}", fault.path, fault.problem))?;
        Ok(node)
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
        let merged = merged(&wrap(base), &wrap(over)).unwrap();
        let web = merged.get("services").and_then(|services| services.get("web"));
        let shown = show(web.unwrap());
        shown[1..shown.len() - 1].to_owned()
    }

    #[test]
    fn each_key_merges_as_compose_does() {
        for (base, over, expected) in [
            ("user: a", "user: b", "user:b"),
            ("user: a", "hostname: b", "user:a hostname:b"),
            ("user: a", "user:", "user:a"),
            ("command: [a, b]", "command: c", "command:[c]"),
            ("entrypoint: [a]", "entrypoint: []", "entrypoint:[]"),
            ("entrypoint: [a]", "entrypoint:", "entrypoint:~"),
            ("expose: [1, 2]", "expose: [2, 3]", "expose:[1 2 3]"),
            (
                "env_file: a",
                "env_file: [b, {path: a, required: false}]",
                "env_file:[{path:/d/a required:false} {path:/d/b}]",
            ),
            (
                "environment: [A=1, B]",
                "environment: {A: 2, C: 3}",
                "environment:{A:2 B:~ C:3}",
            ),
            ("environment: {A: 1}", "environment: {A: }", "environment:{A:~}"),
            ("labels: {a: 1}", "labels: [a=2, b=3]", "labels:{a:2 b:3}"),
            (
                "depends_on: [a]",
                "depends_on: {a: {condition: c}}",
                "depends_on:{a:{condition:c required:true}}",
            ),
            ("networks: [a]", "networks: [b]", "networks:{a:~ b:~}"),
            (
                "networks: [a]",
                "networks: {a: {aliases: [b]}}",
                "networks:{a:{aliases:[b]}}",
            ),
            ("expose: [1]", "expose: !override [2]", "expose:[2]"),
            ("expose: [1], user: a", "expose: !reset []", "user:a"),
            (
                "healthcheck: {test: [a], interval: 5s}",
                "healthcheck: {test: [b]}",
                "healthcheck:{test:[b] interval:5s}",
            ),
            (
                "volumes: [\"a:/x\", \"b:/y\"]",
                "volumes: [\"/c:/x\"]",
                "volumes:[{type:bind source:/c target:/x bind:{create_host_path:true}} \
                 {type:volume source:b target:/y volume:{}}]",
            ),
            (
                "logging: {driver: a, options: {x: 1}}",
                "logging: {driver: b}",
                "logging:{driver:b}",
            ),
            (
                "logging: {driver: a, options: {x: 1}}",
                "logging: {options: {y: 2}}",
                "logging:{driver:a options:{x:1 y:2}}",
            ),
            (
                "ulimits: {a: 1}",
                "ulimits: {a: {soft: 1, hard: 2}}",
                "ulimits:{a:{soft:1 hard:2}}",
            ),
            ("x-a: {b: 1}", "x-a: {c: 1}", "x-a:{c:1}"),
            ("x-imsup: {b: 1}", "x-imsup: {c: 1}", "x-imsup:{b:1 c:1}"),
        ] {
            assert_eq!(service(base, over), expected, "{base} + {over}");
        }
    }

    #[test]
    fn types_that_do_not_fit_are_refused() {
        assert_eq!(
            merged("x-imsup: {a: {}}", "x-imsup: {a: [b]}").unwrap_err(),
            "x-imsup.a: cannot merge a list over a mapping of the file before"
        );
    }
}
