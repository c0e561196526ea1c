//! What docker compose adds to the merged files: default networks, dependencies that follow from
//! other keys, names, and the values of variables.

use std::collections::BTreeSet;

use super::environment::Resolver;
use super::error::Fault;
use super::read::Path;
use super::scalar::Scalar;
use super::service::Disabled;
use super::tree::{Location, Map, Node, Value};
use super::variables::Environment;

/// The network of a service that names none.
pub(super) const DEFAULT_NETWORK: &str = "default";

/// What services refer to by name.
const RESOURCES: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// Completes a merged file: only enabled services stay, and only what these use.
pub(super) fn finish(
    file: &mut Node,
    project: &str,
    environment: &Environment<'_>,
    disabled: &Disabled,
) -> Result<(), Fault> {
    let at = file.at;
    let Some(file) = file.as_map_mut() else { return Ok(()) };
    file.remove("version");
    // Services keep the names of their models, as docker compose shows them.
    file.remove("models");
    file.put("name", Node::text(at, project));
    if let Some(services) = file.get_mut("services").and_then(|entry| entry.node.as_map_mut()) {
        services.retain(|name, _| !disabled.contains_key(name));
        let mut resolver = Resolver::new(environment);
        let all = Path::Root.key("services");
        for (name, entry) in services.iter_mut() {
            if entry.node.is_null() {
                entry.node.value = Value::Map(Box::default());
            }
            let at = entry.node.at;
            if let Some(service) = entry.node.as_map_mut() {
                resolver.service(service, &all.key(name))?;
                complete(service, at, disabled);
            }
        }
    }
    let used = used(file);
    for (kind, used) in RESOURCES.iter().zip(used) {
        name_resources(file, kind, &used, project, at);
    }
    Ok(())
}

fn complete(service: &mut Map, at: Location, disabled: &Disabled) {
    let is_alone = ["network_mode", "provider"].iter().any(|key| has(service, key));
    if !has(service, "networks") && !is_alone {
        service.put("networks", Node::map(at, [(DEFAULT_NETWORK, Node::null(at))]));
    }
    if let Some(build) = service.get_mut("build").and_then(|entry| entry.node.as_map_mut())
        && !has(build, "dockerfile")
        && !has(build, "dockerfile_inline")
    {
        build.put("dockerfile", Node::text(at, "Dockerfile"));
    }
    let binds = service.get_mut("volumes").map(|entry| &mut entry.node.value);
    if let Some(Value::List(volumes)) = binds {
        volumes.iter_mut().for_each(complete_volume);
    }
    let secrets = service.get_mut("secrets").map(|entry| &mut entry.node.value);
    if let Some(Value::List(secrets)) = secrets {
        secrets.iter_mut().for_each(complete_secret);
    }
    complete_dependencies(service, at, disabled);
}

/// A directory that is bound is made if it is missing, unless the file says otherwise.
fn complete_volume(volume: &mut Node) {
    let at = volume.at;
    let is_bind = volume.get_text("type") == Some("bind");
    let Some(map) = volume.as_map_mut().filter(|_| is_bind) else {
        return;
    };
    if !has(map, "bind") {
        map.put("bind", Node::new(at, Value::Map(Box::default())));
    }
    if let Some(bind) = map.get_mut("bind").and_then(|entry| entry.node.as_map_mut())
        && !has(bind, "create_host_path")
    {
        bind.put("create_host_path", Node::typed(at, Scalar::Boolean, "true"));
    }
}

fn complete_secret(secret: &mut Node) {
    let target = match (secret.get_text("target"), secret.get_text("source")) {
        (None, Some(source)) => format!("/run/secrets/{source}"),
        _ => return,
    };
    let at = secret.at;
    if let Some(map) = secret.as_map_mut() {
        map.put("target", Node::text(at, target));
    }
}

/// Adds the dependencies that follow from other keys, and drops those that need not be met.
fn complete_dependencies(service: &mut Map, at: Location, disabled: &Disabled) {
    for (name, restart, at) in implied(service, at) {
        if service
            .get("depends_on")
            .is_none_or(|entry| entry.node.as_map().is_none())
        {
            service.put("depends_on", Node::new(at, Value::Map(Box::default())));
        }
        let map = service.get_mut("depends_on").and_then(|entry| entry.node.as_map_mut());
        if let Some(map) = map.filter(|map| !map.contains_key(&name)) {
            let is = |value: bool| Node::typed(at, Scalar::Boolean, if value { "true" } else { "false" });
            let condition = Node::text(at, "service_started");
            let entries = [
                ("condition", condition),
                ("restart", is(restart)),
                ("required", is(true)),
            ];
            map.put(name, Node::map(at, entries));
        }
    }
    let Some(map) = service.get_mut("depends_on").and_then(|entry| entry.node.as_map_mut()) else {
        return;
    };
    for (_, entry) in map.iter_mut() {
        let at = entry.node.at;
        if let Some(map) = entry.node.as_map_mut()
            && !has(map, "required")
        {
            map.put("required", Node::typed(at, Scalar::Boolean, "true"));
        }
    }
    map.retain(|name, entry| !(disabled.contains_key(name) && entry.node.get_text("required") == Some("false")));
}

/// The services named by other keys, and whether their restart is the service's own.
fn implied(service: &Map, at: Location) -> Vec<(String, bool, Location)> {
    let mut found = Vec::new();
    let list = |key: &str| service.get(key).map(|entry| entry.node.items()).unwrap_or_default();
    for link in list("links") {
        let name = link.as_text().and_then(|text| text.split(':').next());
        found.extend(name.map(|name| (name.to_owned(), true, link.at)));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let Some(node) = service.get(key).map(|entry| &entry.node) else {
            continue;
        };
        let name = node.as_text().and_then(|text| text.strip_prefix("service:"));
        found.extend(name.map(|name| (name.to_owned(), true, at)));
    }
    for volumes in list("volumes_from") {
        let text = volumes.as_text().filter(|text| !text.starts_with("container:"));
        let name = text.and_then(|text| text.split(':').next());
        found.extend(name.map(|name| (name.to_owned(), false, volumes.at)));
    }
    found
}

fn has(map: &Map, key: &str) -> bool {
    map.get(key).is_some_and(|entry| !entry.node.is_null())
}

/// The networks, volumes, secrets and configs that services use.
fn used(file: &Map) -> [BTreeSet<String>; 4] {
    let mut used: [BTreeSet<String>; 4] = Default::default();
    let services = file.get("services").and_then(|entry| entry.node.as_map());
    for (_, entry) in services.into_iter().flat_map(Map::iter) {
        let service = &entry.node;
        let networks = service.get("networks").and_then(Node::as_map);
        used[0].extend(networks.into_iter().flat_map(Map::keys).map(|name| name.to_string()));
        let build = service.get("build");
        let sources = |node: Option<&Node>| -> Vec<String> {
            let items = node.map(Node::items).unwrap_or_default();
            items
                .iter()
                .filter_map(|item| item.get_text("source").map(str::to_owned))
                .collect()
        };
        used[1].extend(sources(service.get("volumes")));
        used[2].extend(sources(service.get("secrets")));
        used[2].extend(sources(build.and_then(|build| build.get("secrets"))));
        used[3].extend(sources(service.get("configs")));
    }
    used
}

/// Names what services use by the project and its key, and drops the rest.
fn name_resources(file: &mut Map, kind: &'static str, used: &BTreeSet<String>, project: &str, at: Location) {
    if kind == "networks" && used.contains(DEFAULT_NETWORK) {
        if !has(file, kind) {
            file.put(kind, Node::new(at, Value::Map(Box::default())));
        }
        let map = file.get_mut(kind).and_then(|entry| entry.node.as_map_mut());
        if let Some(map) = map.filter(|map| !map.contains_key(DEFAULT_NETWORK)) {
            map.put(DEFAULT_NETWORK, Node::null(at));
        }
    }
    let Some(map) = file.get_mut(kind).and_then(|entry| entry.node.as_map_mut()) else {
        return;
    };
    map.retain(|name, _| used.contains(name));
    for (name, entry) in map.iter_mut() {
        if entry.node.is_null() {
            entry.node.value = Value::Map(Box::default());
        }
        let at = entry.node.at;
        let Some(resource) = entry.node.as_map_mut() else {
            continue;
        };
        let is_external = resource.get("external").and_then(|entry| entry.node.as_text()) == Some("true");
        if !has(resource, "name") {
            let own = if is_external {
                name.to_string()
            } else {
                format!("{project}_{name}")
            };
            resource.put("name", Node::text(at, own));
        }
        if kind == "networks" && !has(resource, "ipam") {
            resource.put("ipam", Node::new(at, Value::Map(Box::default())));
        }
    }
    if map.is_empty() {
        file.remove(kind);
    }
}
