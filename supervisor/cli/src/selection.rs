//! Which hosts of a project a verb is about.

use std::net::Ipv4Addr;

use anyhow::Result;
use imsup_wire::{ErrorKind, HostName, HostStatus};

use super::failure::hinted;

/// The hosts with these names, in that order and each once. A name may be an alias, and so stand
/// for several replicas.
///
/// # Errors
/// The error for an unknown name; suggests the name that may be meant.
pub fn hosts(asked: &[String], hosts: &[HostStatus], names: &[(String, Ipv4Addr)]) -> Result<Vec<HostName>> {
    let mut found: Vec<HostName> = Vec::new();
    for name in asked {
        let lower = name.to_ascii_lowercase();
        let addresses: Vec<Ipv4Addr> = names
            .iter()
            .filter(|(known, _)| *known == lower)
            .map(|(_, address)| *address)
            .collect();
        let matching: Vec<&HostName> = match hosts.iter().find(|host| host.name.as_str() == lower) {
            Some(host) => vec![&host.name],
            None => hosts
                .iter()
                .filter(|host| addresses.contains(&host.address))
                .map(|host| &host.name)
                .collect(),
        };
        if matching.is_empty() {
            return Err(unknown(name, hosts));
        }
        for host in matching {
            if !found.contains(host) {
                found.push(host.clone());
            }
        }
    }
    Ok(found)
}

/// The error for a name that is no host's.
pub fn unknown(name: &str, hosts: &[HostStatus]) -> anyhow::Error {
    let known = hosts.iter().map(|host| host.name.as_str());
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "'imsup ps' lists the hosts".to_owned(),
    };
    hinted(
        ErrorKind::UnknownHost
            .because(format!("there is no host '{name}'"))
            .into(),
        hint,
    )
}

/// The most similar of these names, if any is similar: a third of the letters may be wrong, missing
/// or too many; two swapped letters count as a single mistake.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    known
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::host;

    #[test]
    fn names_and_aliases_are_found_once() {
        let known = [host("web-1", 1), host("web-2", 2), host("db", 3)];
        let names: Vec<(String, Ipv4Addr)> = vec![
            ("web".into(), known[0].address),
            ("web".into(), known[1].address),
            ("db".into(), known[2].address),
        ];
        let found = hosts(&["DB".into(), "web".into(), "web-2".into()], &known, &names).unwrap();
        let found: Vec<&str> = found.iter().map(HostName::as_str).collect();
        assert_eq!(found, ["db", "web-1", "web-2"]);
    }

    #[test]
    fn a_misspelt_name_gets_a_suggestion() {
        let known = [host("redis", 1), host("web", 2)];
        assert!(hosts(&["redsi".into()], &known, &[]).is_err());
        let names = || known.iter().map(|host| host.name.as_str());
        assert_eq!(nearest("rediss", names()), Some("redis"));
        assert_eq!(nearest("wbe", names()), Some("web"));
        assert_eq!(nearest("zzz", names()), None);
    }
}
