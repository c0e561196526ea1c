//! `ipam` of the file's networks: a subnet for the hosts' addresses.

use std::collections::BTreeSet;

use super::error::{Fault, Notice, WarningKind};
use super::read::{Path, map, text, wrong_type};
use super::tree::{Location, Map, Value};
use crate::subnet::{Subnet, SubnetError};

/// A subnet, and its place in the file.
#[derive(Clone, Debug)]
pub(super) struct Pinned {
    pub subnet: Subnet,
    pub at: Location,
    pub path: String,
}

/// The subnet pinned by the file: from `x-imsup`, else from the first network with services.
pub(super) fn choose(
    own: Option<Pinned>,
    networks: Option<&Map>,
    joined: &BTreeSet<String>,
    notices: &mut Vec<Notice>,
) -> Result<Option<Pinned>, Fault> {
    let mut chosen = own;
    let mut not_honoured = |at, path: String, why: String| {
        notices.push(Notice {
            kind: WarningKind::NotHonoured,
            at,
            path,
            message: format!("not honoured: {why}"),
        });
    };
    for (at, path, subnet) in read(networks, joined)? {
        match (subnet, &chosen) {
            (Ok(subnet), None) => chosen = Some(Pinned { subnet, at, path }),
            (Ok(subnet), Some(first)) if subnet == first.subnet => {}
            (Ok(_), Some(first)) => {
                let why = format!("a host has one address, in {}, which {} pins", first.subnet, first.path);
                not_honoured(at, path, why);
            }
            (Err(error), _) => not_honoured(at, path, error.to_string()),
        }
    }
    Ok(chosen)
}

type Written = (Location, String, Result<Subnet, SubnetError>);

/// The subnets of the networks that services are in, in the order of the file.
fn read(networks: Option<&Map>, joined: &BTreeSet<String>) -> Result<Vec<Written>, Fault> {
    let mut found = Vec::new();
    let root = Path::Root;
    let path = root.key("networks");
    for (name, entry) in networks.into_iter().flat_map(Map::iter) {
        let Some(ipam) = entry.node.get("ipam").filter(|_| joined.contains(&**name)) else {
            continue;
        };
        let path = path.key(name);
        let path = path.key("ipam");
        map(ipam, &path)?;
        let Some(config) = ipam.get("config") else { continue };
        let path = path.key("config");
        let Value::List(items) = &config.value else {
            return Err(wrong_type(config, &path, "a list of subnets"));
        };
        for (number, item) in items.iter().enumerate() {
            let path = path.item(number);
            map(item, &path)?;
            if let Some(node) = item.get("subnet") {
                let path = path.key("subnet");
                found.push((node.at, path.to_string(), text(node, &path)?.parse()));
            }
        }
    }
    Ok(found)
}
