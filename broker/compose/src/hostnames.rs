//! Names of hosts: the name of a service if a host can have it, else one made of it.
//!
//! docker compose takes names that differ in case only, that are long, or that resolvers take for
//! addresses. A host has one name of its own for verbs, logs and events; all names that can be
//! asked for resolve to it.

use std::collections::HashSet;

use imsup_wire::HostName;

/// Longest part of a service's name in a name that is made of it.
const MAX_KEPT: usize = 54;

/// Longest name that can be asked for (RFC 1035, section 2.3.4).
const MAX_ASKABLE: usize = 253;

/// Longest name that a host can report (uname(2)).
pub(super) const MAX_REPORTED: usize = 64;

/// The names that hosts have.
#[derive(Default)]
pub(super) struct HostNames {
    taken: HashSet<HostName>,
    /// Names of services, which no other host gets.
    reserved: HashSet<String>,
}

impl HostNames {
    /// Keeps the names of services from names that are made.
    pub fn reserve<'n>(&mut self, services: impl Iterator<Item = &'n str>) {
        self.reserved.extend(services.map(str::to_ascii_lowercase));
    }

    /// The name of a service's host.
    pub fn of_service(&mut self, service: &str) -> HostName {
        let own = service
            .parse()
            .ok()
            .filter(|name: &HostName| !is_localhost(name.as_str()));
        if let Some(own) = own.filter(|own| self.taken.insert(own.clone())) {
            return own;
        }
        let kept: String = service.to_ascii_lowercase().chars().take(MAX_KEPT).collect();
        let kept = kept.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let kept = if kept.is_empty() { "host" } else { kept };
        let mut made = (1..).filter_map(|number| format!("{kept}-{number}").parse().ok());
        let free = made.find(|name: &HostName| !self.reserved.contains(name.as_str()) && !self.taken.contains(name));
        // There are fewer hosts than numbers.
        let free = free.unwrap_or_else(|| unreachable!("no number is free"));
        self.taken.insert(free.clone());
        free
    }

    /// Takes the name of a replica, if no host has it.
    pub fn take(&mut self, name: &HostName) -> bool {
        !self.reserved.contains(name.as_str()) && self.taken.insert(name.clone())
    }
}

/// The name as it can be asked for; `None` if resolvers never ask for it: they take it for an
/// address, or for the host itself.
pub(super) fn askable(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let fits = (1..=MAX_ASKABLE).contains(&lower.len())
        && lower.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*".contains(&b))
        && !is_localhost(&lower)
        && !is_address(&lower);
    fits.then_some(lower)
}

/// True if a host can report this name (sethostname(2)).
pub(super) fn is_reportable(name: &str) -> bool {
    (1..=MAX_REPORTED).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

fn is_localhost(name: &str) -> bool {
    name == "localhost"
}

/// True for what inet_aton(3) takes: host names are never numbers, so a name that only lacks a
/// letter is one.
fn is_address(lower: &str) -> bool {
    let could_be = lower.bytes().all(|b| b.is_ascii_hexdigit() || b"x.".contains(&b));
    could_be && lower.parse::<HostName>().is_err() && format!("{lower}-").parse::<HostName>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_name() {
        let mut names = HostNames::default();
        let long = "x".repeat(70);
        let services = ["Ab", "ab", "1", "localhost", "_a", "a..b", "a-", "ab-2", &*long, "..."];
        names.reserve(services.into_iter());
        let given = services.map(|service| names.of_service(service).to_string());
        let shortened = format!("{}-1", "x".repeat(54));
        let expected = [
            "ab",
            "ab-1",
            "1-1",
            "localhost-1",
            "a-1",
            "a..b",
            "a-",
            "ab-2",
            &*shortened,
            "host-1",
        ];
        assert_eq!(given, expected);
        assert!(!names.take(&"ab".parse().unwrap()));
    }

    #[test]
    fn names_that_nobody_asks_for() {
        for name in [
            "10.1",
            "1.2.3.4",
            "0x7F",
            "1",
            "localhost",
            "LOCALHOST",
            "a b",
            "",
            "a#",
        ] {
            assert_eq!(askable(name), None, "{name}");
        }
        for name in ["a", "_x", "*.local", "h.example.com", "face", "0x7f.z", &"x".repeat(70)] {
            assert_eq!(askable(name).as_deref(), Some(name), "{name}");
        }
        assert_eq!(askable("Web").as_deref(), Some("web"));
    }
}
