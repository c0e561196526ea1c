//! `ports`: each entry in the long form, ranges one entry for each port.

use super::super::error::Fault;
use super::super::ports;
use super::super::problem::Problem;
use super::super::read::{Path, wrong_type};
use super::super::scalar::{self, Scalar};
use super::super::tree::{Map, Node, Value};

/// Replaces short entries by long ones.
pub(super) fn expand(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let Value::List(items) = &mut node.value else {
        return Err(wrong_type(node, path, "a list of ports"));
    };
    let mut long = Vec::with_capacity(items.len());
    for (index, item) in std::mem::take(items).into_iter().enumerate() {
        let path = path.item(index);
        match (&item.value, item.scalar) {
            (Value::Text(text), Scalar::Text) => long.extend(short(&item, text, &path)?),
            (Value::Text(text), Scalar::Whole) => {
                let number = scalar::whole(text).map(|number| number.to_string());
                long.extend(short(&item, number.as_deref().unwrap_or(text), &path)?);
            }
            (Value::Map(_), _) => long.push(checked(item, &path)?),
            _ => return Err(wrong_type(&item, &path, "a port")),
        }
    }
    *items = long;
    Ok(())
}

fn short(item: &Node, text: &str, path: &Path<'_>) -> Result<Vec<Node>, Fault> {
    let mappings = ports::parse_short(text).map_err(|error| Fault::new(item.at, path, error))?;
    let at = item.at;
    let entry = |mapping: ports::Mapping| {
        let mut map = Map::default();
        map.put("mode", Node::text(at, "ingress"));
        if let Some(ip) = mapping.ip {
            map.put("host_ip", Node::text(at, ip.to_string()));
        }
        map.put("target", Node::typed(at, Scalar::Whole, mapping.port.to_string()));
        if let Some(machine) = mapping.machine {
            map.put("published", Node::text(at, machine.to_string()));
        }
        map.put("protocol", Node::text(at, mapping.transport.to_string()));
        Node::new(at, Value::Map(Box::new(map)))
    };
    Ok(mappings.into_iter().map(entry).collect())
}

/// A long entry, with the defaults of what it leaves out.
fn checked(mut item: Node, path: &Path<'_>) -> Result<Node, Fault> {
    if item.get("target").is_none() {
        return Err(Fault::new(item.at, path, Problem::Missing("target")));
    }
    let at = item.at;
    if let Some(map) = item.as_map_mut() {
        for (key, default) in [("mode", "ingress"), ("protocol", "tcp")] {
            if map.get(key).is_none_or(|entry| entry.node.is_null()) {
                map.put(key, Node::text(at, default));
            }
        }
    }
    Ok(item)
}
