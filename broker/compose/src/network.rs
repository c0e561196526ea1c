//! `networks` of a service: aliases and a pinned address.

use std::net::Ipv4Addr;

use super::error::{Fault, Notice, WarningKind};
use super::read::{Path, map, text, texts, wrong_type};
use super::tree::{Location, Map, Node};

/// The contents of a service's `networks`.
#[derive(Default)]
pub(super) struct Networks<'n> {
    /// The networks of the service.
    pub joined: Vec<&'n str>,
    pub aliases: Vec<Alias<'n>>,
    pub address: Option<Address>,
}

/// A name and its place.
pub(super) struct Alias<'n> {
    pub text: &'n str,
    pub node: &'n Node,
}

/// A pinned address and its place.
#[derive(Clone, Copy)]
pub(super) struct Address {
    pub address: Ipv4Addr,
    pub at: Location,
    /// True if the network has a subnet with this address.
    pub is_in_subnet: bool,
}

/// Reads `networks` of a service; `known` are the networks of the file.
pub(super) fn read<'n>(
    service: &'n Node,
    path: &Path<'_>,
    known: Option<&Map>,
    notices: &mut Vec<Notice>,
) -> Result<Networks<'n>, Fault> {
    let mut networks = Networks::default();
    let Some(node) = service.get("networks") else {
        return Ok(networks);
    };
    let path = path.key("networks");
    for (name, entry) in map(node, &path)?.iter() {
        networks.joined.push(name);
        let network = known.and_then(|known| known.get(name)).map(|entry| &entry.node);
        networks.take(&entry.node, &path.key(name), network, notices)?;
    }
    Ok(networks)
}

impl<'n> Networks<'n> {
    fn take(
        &mut self,
        own: &'n Node,
        path: &Path<'_>,
        network: Option<&Node>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), Fault> {
        if let Some(node) = own.get("aliases") {
            let texts = texts(node, &path.key("aliases"))?;
            let aliases = texts.into_iter().zip(node.items());
            self.aliases.extend(aliases.map(|(text, node)| Alias { text, node }));
        }
        let Some(node) = own.get("ipv4_address") else {
            return Ok(());
        };
        let path = path.key("ipv4_address");
        let address: Ipv4Addr = text(node, &path)?
            .parse()
            .map_err(|_| wrong_type(node, &path, "an IPv4 address"))?;
        match self.address {
            Some(first) if first.address != address => notices.push(Notice {
                kind: WarningKind::NotHonoured,
                at: node.at,
                path: path.to_string(),
                message: format!("not honoured: a host has one address, here {}", first.address),
            }),
            _ => {
                self.address = Some(Address {
                    address,
                    at: node.at,
                    is_in_subnet: network.is_some_and(|network| has_subnet_with(network, address)),
                });
            }
        }
        Ok(())
    }
}

/// True if a network of the file has a subnet with this address.
fn has_subnet_with(network: &Node, address: Ipv4Addr) -> bool {
    let config = network.get("ipam").and_then(|ipam| ipam.get("config"));
    let subnets = config.map(Node::items).unwrap_or_default().iter();
    subnets.filter_map(|item| item.get_text("subnet")).any(|subnet| {
        let (base, length) = subnet.split_once('/').unwrap_or((subnet, "32"));
        let base = base.parse().map(u32::from as fn(Ipv4Addr) -> u32);
        let (Ok(base), Ok(length @ 0..=32)) = (base, length.parse::<u32>()) else {
            return false;
        };
        (u64::from(base ^ u32::from(address)) >> (32 - length)) == 0
    })
}
