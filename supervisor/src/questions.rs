//! Queries to name servers (RFC 1035, section 4.1): detects queries for the project's name server.
//! Pure, except for reading the project's names.

use std::net::Ipv4Addr;
use std::path::Path;

use imsup_wire::{Plane, Planes};

/// Before the question.
const HEADER_BYTES: usize = 12;

/// True if a query asks for a name of the project, or for the name of a project's address; also
/// true if the query cannot be parsed. `hosts` is the project's file for /etc/hosts.
pub fn is_projects(query: &[u8], planes: &Planes, hosts: &Path) -> bool {
    let Some(name) = asked(query) else { return true };
    if let Some(address) = reversed(&name) {
        return is_vip(planes, address);
    }
    let Ok(hosts_file) = std::fs::read_to_string(hosts) else {
        return true;
    };
    let project = hosts.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let host = project.and_then(|project| name.strip_suffix(&project.to_ascii_lowercase())?.strip_suffix('.'));
    hosts_file.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_host = words
            .next()
            .and_then(|address| address.parse().ok())
            .is_some_and(|address| is_vip(planes, address));
        is_host && words.any(|word| word == name || Some(word) == host)
    })
}

fn is_vip(planes: &Planes, address: Ipv4Addr) -> bool {
    planes.place(address).is_some_and(|place| place.plane == Plane::Vip)
}

/// The name in the query, in lower case and without a dot at the end; `None` if the query is not a
/// plain query.
fn asked(query: &[u8]) -> Option<String> {
    let mut rest = query.get(HEADER_BYTES..)?;
    let mut labels = Vec::new();
    loop {
        let (length, after) = rest.split_first()?;
        match usize::from(*length) {
            0 => return Some(labels.join(".")),
            length @ 1..=63 => {
                labels.push(String::from_utf8_lossy(after.get(..length)?).to_ascii_lowercase());
                rest = &after[length..];
            }
            // A pointer is invalid: no name comes before the question.
            _ => return None,
        }
    }
}

/// The address that a name under `in-addr.arpa` stands for.
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let parts = name.strip_suffix(".in-addr.arpa")?.split('.');
    let mut bytes: Vec<u8> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    bytes.reverse();
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str) -> Vec<u8> {
        let mut query = vec![0; HEADER_BYTES];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        query
    }

    #[test]
    fn the_projects_names_are_told_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let project = directory.path().join("Shop");
        std::fs::create_dir(&project).unwrap();
        let hosts = project.join("hosts");
        std::fs::write(
            &hosts,
            "127.77.5.1 web www\n127.77.5.2 db\n127.0.0.1 localhost machine\n",
        )
        .unwrap();
        let is_projects = |query: &[u8]| is_projects(query, &Planes::default(), &hosts);
        for name in [
            "web",
            "WEB",
            "www",
            "db.",
            "Db.shop",
            "1.5.77.127.in-addr.arpa",
            "9.9.77.127.in-addr.arpa",
        ] {
            assert!(is_projects(&query(name)), "{name}");
        }
        for name in [
            "example.com",
            "machine",
            "web.example.com",
            "webshop",
            "1.0.0.127.in-addr.arpa",
            "",
        ] {
            assert!(!is_projects(&query(name)), "{name}");
        }
        for odd in [&[0; 5][..], &[0; HEADER_BYTES], &query("web")[..15], &[0xff; 20]] {
            assert!(is_projects(odd), "no question: redirected as ever: {odd:?}");
        }
    }
}
