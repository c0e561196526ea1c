//! Checks of what a finished file refers to: services, networks, volumes, secrets, configs.

use std::collections::{HashMap, HashSet};

use super::error::Fault;
use super::finish::DEFAULT_NETWORK;
use super::keys::nearest;
use super::problem::Problem;
use super::read::Path;
use super::tree::{Map, Node};

/// All faults of references, in the order of the file. `names` has what the file declares of each
/// kind, also what no service uses.
pub(super) fn faults(file: &Node, names: &Names) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(services) = file.get("services").and_then(Node::as_map) else {
        return faults;
    };
    let all = Path::Root.key("services");
    let mut containers: HashMap<&str, &str> = HashMap::new();
    for (name, entry) in services.iter() {
        let (service, path) = (&entry.node, all.key(name));
        for (kind, key) in [("volume", "volumes"), ("secret", "secrets"), ("config", "configs")] {
            for (index, item) in service.get(key).map(Node::items).unwrap_or_default().iter().enumerate() {
                let is_named = kind != "volume" || item.get_text("type") == Some("volume");
                let source = item.get_text("source").filter(|_| is_named);
                if let Some(fault) =
                    source.and_then(|source| names.undefined(kind, source, item, &path.key(key).item(index)))
                {
                    faults.push(fault);
                }
            }
        }
        for (network, entry) in service
            .get("networks")
            .and_then(Node::as_map)
            .into_iter()
            .flat_map(Map::iter)
        {
            let node = Node::null(entry.key_at);
            if *network.as_ref() != *DEFAULT_NETWORK {
                faults.extend(names.undefined("network", network, &node, &path.key("networks")));
            }
        }
        if let (Some(node), Some(_)) = (service.get("network_mode"), service.get("networks")) {
            faults.push(Fault::new(
                node.at,
                path.key("network_mode"),
                Problem::Beside("networks"),
            ));
        }
        if let Some(node) = service.get("container_name") {
            let name_of = node.as_text().unwrap_or_default();
            if !is_container_name(name_of) {
                let problem = Problem::Name(format!(
                    "'{name_of}' cannot be a container's name: use at least two letters, digits, '_', '.' or '-'"
                ));
                faults.push(Fault::new(node.at, path.key("container_name"), problem));
            } else if let Some(other) = containers.insert(name_of, name) {
                let problem = Problem::Name(format!(
                    "'{name_of}' is already the container_name of service '{other}': rename one of them"
                ));
                faults.push(Fault::new(node.at, path.key("container_name"), problem));
            }
        }
    }
    faults.extend(cycle(services));
    faults
}

/// The names that a file declares.
#[derive(Default)]
pub(super) struct Names(HashMap<&'static str, HashSet<String>>);

impl Names {
    pub fn of(file: &Node) -> Self {
        let kinds = [
            ("network", "networks"),
            ("volume", "volumes"),
            ("secret", "secrets"),
            ("config", "configs"),
        ];
        let names = |key: &str| {
            let map = file.get(key).and_then(Node::as_map);
            map.into_iter()
                .flat_map(Map::keys)
                .map(|name| name.to_string())
                .collect()
        };
        Self(kinds.into_iter().map(|(kind, key)| (kind, names(key))).collect())
    }

    fn undefined(&self, kind: &'static str, name: &str, node: &Node, path: &Path<'_>) -> Option<Fault> {
        let known = self.0.get(kind)?;
        if known.contains(name) {
            return None;
        }
        let problem = Problem::Undefined {
            what: kind,
            name: name.to_owned(),
            suggestion: nearest(name, known.iter().map(String::as_str)).map(str::to_owned),
        };
        Some(Fault::new(node.at, path, problem))
    }
}

/// docker's pattern, which is not anchored: two of its characters in a row.
fn is_container_name(name: &str) -> bool {
    let is_first = |b: u8| b.is_ascii_alphanumeric();
    let is_next = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    name.as_bytes()
        .windows(2)
        .any(|pair| is_first(pair[0]) && is_next(pair[1]))
}

/// The first circle of dependencies.
fn cycle(services: &Map) -> Option<Fault> {
    let mut done: HashSet<&str> = HashSet::new();
    for start in services.keys() {
        // A path of services, each with its dependencies that are still to be followed.
        let mut path: Vec<(&str, Vec<&str>)> = vec![(start, dependencies(services, start))];
        while let Some((name, left)) = path.last_mut() {
            let name = *name;
            let Some(next) = left.pop() else {
                done.insert(name);
                path.pop();
                continue;
            };
            if let Some(first) = path.iter().position(|(known, _)| *known == next) {
                let names: Vec<&str> = path[first..].iter().map(|(name, _)| *name).chain([next]).collect();
                let node = services.get(name).map(|entry| &entry.node)?;
                let at = node.get("depends_on").map_or(node.at, |node| node.at);
                let all = Path::Root.key("services");
                let own = all.key(name);
                return Some(Fault::new(
                    at,
                    own.key("depends_on"),
                    Problem::Cycle(names.join(" -> ")),
                ));
            }
            if !done.contains(next) && services.contains_key(next) {
                path.push((next, dependencies(services, next)));
            }
        }
    }
    None
}

fn dependencies<'f>(services: &'f Map, name: &str) -> Vec<&'f str> {
    let map = services
        .get(name)
        .and_then(|entry| entry.node.get("depends_on"))
        .and_then(Node::as_map);
    // Taken from the end.
    let mut names: Vec<&str> = map.into_iter().flat_map(Map::keys).map(|name| &**name).collect();
    names.reverse();
    names
}
