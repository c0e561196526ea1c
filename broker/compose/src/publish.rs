//! `ports` and `expose` of a service.

use std::collections::BTreeSet;

use imsup_wire::Transport;

use super::error::Fault;
use super::ports::{self, Mapping, Range};
use super::problem::Problem;
use super::read::{Path, list, text};
use super::tree::Node;
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
            mappings.extend(mapping(item, &path)?);
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

/// A canonical entry of `ports`.
fn mapping(node: &Node, path: &Path<'_>) -> Result<Vec<Mapping>, Fault> {
    let field = |key: &'static str| node.get(key).map(|value| (value, path.key(key)));
    let range = |(value, path): (&Node, Path<'_>)| {
        Range::parse(text(value, &path)?).map_err(|error| Fault::new(value.at, path, error))
    };
    let target = field("target").ok_or_else(|| Fault::new(node.at, path, Problem::Missing("target")))?;
    let target = range(target)?;
    let chosen = |(value, _): &(&Node, Path<'_>)| !matches!(value.as_text(), Some("" | "0"));
    let machine = field("published").filter(chosen).map(range).transpose()?;
    let ip = match field("host_ip") {
        Some((value, path)) if value.as_text() != Some("") => {
            Some(ports::address(text(value, &path)?).map_err(|error| Fault::new(value.at, path, error))?)
        }
        _ => None,
    };
    let transport = match field("protocol") {
        Some((value, path)) => {
            ports::transport(text(value, &path)?).map_err(|error| Fault::new(value.at, path, error))?
        }
        None => Transport::Tcp,
    };
    ports::mappings(ip, machine, target, transport).map_err(|error| Fault::new(node.at, path, error))
}

/// What a service with replicas has to publish.
pub(super) const ENOUGH: &str =
    "publish a range with a port for each, such as \"8000-8009:80\", or the host's port alone";

/// The ports of the machine that an entry may have, in order: one, or any of a range.
pub(super) fn choices(mapping: &Mapping) -> impl Iterator<Item = Publish> {
    let publish = |machine_port| Publish {
        machine_ip: mapping.ip,
        machine_port,
        port: mapping.port,
        transport: mapping.transport,
    };
    let any = mapping.machine.is_none().then(|| publish(None));
    let range = mapping.machine.map(|range| range.first..=range.last);
    any.into_iter()
        .chain(range.into_iter().flatten().map(move |port| publish(Some(port))))
}
