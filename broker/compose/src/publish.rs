//! `ports` and `expose` of a service.

use std::collections::BTreeSet;

use imsup_wire::Transport;

use super::error::Fault;
use super::ports::{self, Mapping, Range};
use super::problem::Problem;
use super::read::{Path, list, text, wrong_type};
use super::tree::{Node, Value};
use crate::cluster::Publish;

/// Ports of a host, without repetition.
pub(super) type Exposed = Vec<(Transport, u16)>;

/// The host's own ports (of `expose` and `ports`), and the published ports of `ports`.
pub(super) fn ports(service: &Node, path: &Path<'_>) -> Result<(Exposed, Vec<Mapping>), Fault> {
    let mut exposed = BTreeSet::new();
    if let Some(node) = service.get("expose") {
        let path = path.key("expose");
        for (index, item) in list(node, &path)?.iter().enumerate() {
            let path = path.item(index);
            let (range, transport) =
                ports::parse_expose(text(item, &path)?).map_err(|error| Fault::new(item.at, path, error))?;
            exposed.extend((range.first..=range.last).map(|port| (transport, port)));
        }
    }
    let mut mappings: Vec<Mapping> = Vec::new();
    if let Some(node) = service.get("ports") {
        let path = path.key("ports");
        for (index, item) in list(node, &path)?.iter().enumerate() {
            let path = path.item(index);
            let new = match &item.value {
                Value::Text(text) => ports::parse_short(text).map_err(|error| Fault::new(item.at, path, error))?,
                Value::Map(_) => long(item, &path)?,
                _ => return Err(wrong_type(item, &path, "a port")),
            };
            mappings.extend(new);
        }
    }
    exposed.extend(mappings.iter().map(|mapping| (mapping.transport, mapping.port)));
    // Files that are merged often say the same twice.
    let mut unique = BTreeSet::new();
    mappings.retain(|mapping| {
        let machine = mapping.machine.map(|range| (range.first, range.last));
        unique.insert((mapping.ip, machine, mapping.port, mapping.transport))
    });
    Ok((exposed.into_iter().collect(), mappings))
}

/// The long form of an entry of `ports`.
fn long(node: &Node, path: &Path<'_>) -> Result<Vec<Mapping>, Fault> {
    let field = |key: &'static str| node.get(key).map(|value| (value, path.key(key)));
    let range = |(value, path): (&Node, Path<'_>)| {
        Range::parse(text(value, &path)?).map_err(|error| Fault::new(value.at, path, error))
    };
    let target = field("target").ok_or_else(|| Fault::new(node.at, path, Problem::Missing("target")))?;
    let target = range(target)?;
    let machine = field("published").map(range).transpose()?;
    let ip = match field("host_ip") {
        Some((value, path)) => {
            Some(ports::address(text(value, &path)?).map_err(|error| Fault::new(value.at, path, error))?)
        }
        None => None,
    };
    let transport = match field("protocol") {
        Some((value, path)) => {
            ports::transport(text(value, &path)?).map_err(|error| Fault::new(value.at, path, error))?
        }
        None => Transport::Tcp,
    };
    ports::mappings(ip, machine, target, transport).map_err(|error| Fault::new(node.at, path, error))
}

/// The published ports of a single replica of a service: the share of a range that leads to a
/// single port.
pub(super) fn of_replica(
    mappings: &[Mapping],
    index: u32,
    replicas: u32,
    service: &Node,
    path: &Path<'_>,
) -> Result<Vec<Publish>, Fault> {
    let publish = |mapping: &Mapping| {
        let machine_port = match mapping.machine {
            None => None,
            Some(range) if index < range.len() => u16::try_from(u32::from(range.first) + index).ok(),
            Some(_) => {
                let node = service.get("ports").unwrap_or(service);
                let problem = Problem::Replicas {
                    replicas,
                    what: "port of the machine",
                    fix: "publish a range with a port for each, such as \"8000-8009:80\", or the host's port alone",
                };
                return Err(Fault::new(node.at, path.key("ports"), problem));
            }
        };
        Ok(Publish {
            machine_ip: mapping.ip,
            machine_port,
            port: mapping.port,
            transport: mapping.transport,
        })
    };
    mappings.iter().map(publish).collect()
}
