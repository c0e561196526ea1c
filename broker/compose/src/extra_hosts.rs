//! `extra_hosts`.

use std::net::{IpAddr, Ipv4Addr};

use super::error::Fault;
use super::problem::Problem;
use super::read::{Path, texts};
use super::tree::Node;

/// What docker calls the machine.
const GATEWAY: &str = "host-gateway";

/// An address of the machine that no host has: what listens on all its addresses is reached there, and
/// what listens on 127.0.0.1 alone is not, as under docker.
const MACHINE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// The names of a service and their addresses.
pub(super) fn read(service: &Node, path: &Path<'_>) -> Result<Vec<(String, IpAddr)>, Fault> {
    let Some(value) = service.get("extra_hosts") else {
        return Ok(Vec::new());
    };
    let path = path.key("extra_hosts");
    let parsed = |address: &str| match address.trim_start_matches('[').trim_end_matches(']') {
        GATEWAY => Some(MACHINE),
        address => address.parse().ok(),
    };
    let mut found = Vec::new();
    let mut add = |name: &str, address: &str| {
        let problem = || Problem::Word {
            expected: "an IP address or host-gateway",
            found: address.to_owned(),
        };
        let parsed = parsed(address).ok_or_else(|| Fault::new(value.at, path.key(name), problem()))?;
        found.push((name.to_ascii_lowercase(), parsed));
        Ok(())
    };
    match value.as_map() {
        Some(map) => {
            for (name, entry) in map.iter() {
                for address in texts(&entry.node, &path.key(name))? {
                    add(name, address)?;
                }
            }
        }
        None => {
            for text in texts(value, &path)? {
                let (name, address) = text.split_once('=').unwrap_or((text, ""));
                add(name, address)?;
            }
        }
    }
    Ok(found)
}
