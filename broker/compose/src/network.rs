//! `networks` of a service: aliases and a pinned address.

use std::net::Ipv4Addr;

use super::conflict::Conflict;
use super::error::Fault;
use super::keys::nearest;
use super::problem::Problem;
use super::read::{Path, map, text, texts, wrong_type};
use super::tree::{Map, Node, Value};

/// The network of a service that names none.
const DEFAULT: &str = "default";

/// The contents of a service's `networks`.
#[derive(Default)]
pub(super) struct Networks<'n> {
    /// The networks of the service.
    pub joined: Vec<&'n str>,
    pub aliases: Vec<Alias<'n>>,
    pub address: Option<(Ipv4Addr, &'n Node)>,
}

/// A name and its place.
pub(super) struct Alias<'n> {
    pub text: &'n str,
    pub node: &'n Node,
}

/// Reads `networks` of a service; `known` are the networks of the file.
pub(super) fn read<'n>(service: &'n Node, path: &Path<'_>, known: Option<&Map>) -> Result<Networks<'n>, Fault> {
    let mut networks = Networks::default();
    let Some(node) = service.get("networks") else {
        networks.joined.push(DEFAULT);
        return Ok(networks);
    };
    let path = path.key("networks");
    match &node.value {
        Value::List(items) => {
            for (name, item) in texts(node, &path)?.into_iter().zip(items) {
                defined(name, item, &path, known)?;
                networks.joined.push(name);
            }
        }
        Value::Map(entries) => {
            for (name, entry) in entries.iter() {
                let path = path.key(name);
                defined(name, &entry.node, &path, known)?;
                networks.joined.push(name);
                if !matches!(entry.node.value, Value::Null) {
                    map(&entry.node, &path)?;
                    networks.take(&entry.node, &path)?;
                }
            }
        }
        _ => return Err(wrong_type(node, &path, "a list of networks, or a mapping")),
    }
    Ok(networks)
}

impl<'n> Networks<'n> {
    fn take(&mut self, network: &'n Node, path: &Path<'_>) -> Result<(), Fault> {
        if let Some(node) = network.get("aliases") {
            let path = path.key("aliases");
            let Value::List(items) = &node.value else {
                return Err(wrong_type(node, &path, "a list of names"));
            };
            for (text, node) in texts(node, &path)?.into_iter().zip(items) {
                self.aliases.push(Alias { text, node });
            }
        }
        if let Some(node) = network.get("ipv4_address") {
            let path = path.key("ipv4_address");
            let address = text(node, &path)?
                .parse()
                .map_err(|_| wrong_type(node, &path, "an IPv4 address"))?;
            match self.address {
                Some((first, _)) if first != address => {
                    let conflict = Conflict::TwoAddresses { first, second: address };
                    return Err(Fault::new(node.at, path, conflict));
                }
                _ => self.address = Some((address, node)),
            }
        }
        Ok(())
    }
}

fn defined(name: &str, node: &Node, path: &Path<'_>, known: Option<&Map>) -> Result<(), Fault> {
    if name == DEFAULT || known.is_some_and(|known| known.contains_key(name)) {
        return Ok(());
    }
    let names = known.into_iter().flat_map(|known| known.keys()).map(|name| &**name);
    let problem = Problem::Undefined {
        what: "network",
        name: name.to_owned(),
        suggestion: nearest(name, names).map(str::to_owned),
    };
    Err(Fault::new(node.at, path, problem))
}
