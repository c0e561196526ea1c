//! The short form of a volume: `[SOURCE:]TARGET[:OPTIONS]`.

use super::super::error::Fault;
use super::super::problem::Problem;
use super::super::read::{Path, strict_text};
use super::super::scalar::Scalar;
use super::super::tree::{Map, Node, Value};

const PROPAGATIONS: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

/// The long form of a volume.
pub(super) fn volume(short: &Node, path: &Path<'_>) -> Result<Node, Fault> {
    let text = strict_text(short, path)?;
    let malformed = || Fault::new(short.at, path, Problem::Volume(text.to_owned()));
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(malformed());
    }
    let (source, target, options) = match *parts {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(malformed()),
    };
    let at = short.at;
    let text = |text: &str| Node::text(at, text);
    let yes = || Node::typed(at, Scalar::Boolean, "true");
    let is_bind = source.is_some_and(|source| source.starts_with(['.', '/', '~']));
    let mut map = Map::default();
    map.put("type", text(if is_bind { "bind" } else { "volume" }));
    if let Some(source) = source {
        map.put("source", text(source));
    }
    map.put("target", text(target));
    // The options of the other type stand beside, as docker compose has it.
    let mut bind = Map::default();
    let mut named = Map::default();
    for option in options.split(',') {
        match option {
            "ro" => map.put("read_only", yes()),
            "rw" => map.retain(|key, _| key != "read_only"),
            "nocopy" => named.put("nocopy", yes()),
            "z" | "Z" => bind.put("selinux", text(option)),
            option if PROPAGATIONS.contains(&option) => bind.put("propagation", text(option)),
            // Unknown options are left out, as by docker compose.
            _ => {}
        }
    }
    if is_bind {
        // A directory that is missing is made, for short forms only.
        bind.put("create_host_path", yes());
    }
    if is_bind || !bind.is_empty() {
        map.put("bind", Node::new(at, Value::Map(Box::new(bind))));
    }
    if !is_bind || !named.is_empty() {
        map.put("volume", Node::new(at, Value::Map(Box::new(named))));
    }
    Ok(Node::new(at, Value::Map(Box::new(map))))
}
