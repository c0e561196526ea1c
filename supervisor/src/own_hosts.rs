//! The project's lines for /etc/hosts as one of the hosts sees the lines: of the hosts that share
//! its hostname, only the host itself has that name, as in a container. Pure.

use std::net::Ipv4Addr;

use imsup_wire::Plane;

use crate::identity::Identity;

/// The lines for this host, which has this hostname; `None` if no other host has the hostname.
pub fn of_host(lines: &str, hostname: &str, host: &Identity) -> Option<String> {
    let own = host.planes.vip(host.index);
    let is_others = |address: Ipv4Addr| {
        let place = host.planes.place(address);
        address != own && place.is_some_and(|place| place.plane == Plane::Vip)
    };
    let is_shared_in = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
        address.is_some_and(is_others) && words.any(|word| word.eq_ignore_ascii_case(hostname))
    };
    if !lines.lines().any(is_shared_in) {
        return None;
    }
    let line_of_host = |line: &str| {
        if !is_shared_in(line) {
            return format!("{line}\n");
        }
        let kept: Vec<&str> = line
            .split_ascii_whitespace()
            .filter(|word| !word.eq_ignore_ascii_case(hostname))
            .collect();
        // An address alone is no line (hosts(5)).
        match kept.len() {
            0 | 1 => String::new(),
            _ => kept.join(" ") + "\n",
        }
    };
    Some(lines.lines().map(line_of_host).collect())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use imsup_wire::{Index, Planes};

    use super::*;

    #[test]
    fn a_shared_hostname_is_the_hosts_own() {
        let second = Identity {
            planes: Planes::default(),
            index: Index::new(0x0502).unwrap(),
            name_server: SocketAddrV4::new(Ipv4Addr::new(127, 77, 5, 0), 1053),
        };
        let lines = "127.77.5.1 one node pool\n127.77.5.2 two node pool\n127.77.5.3 node\n10.0.0.1 node\n";
        assert_eq!(
            of_host(lines, "Node", &second).unwrap(),
            "127.77.5.1 one pool\n127.77.5.2 two node pool\n10.0.0.1 node\n"
        );
        assert_eq!(of_host(lines, "two", &second), None);
        assert_eq!(of_host(lines, "elsewhere", &second), None);
        assert_eq!(of_host("10.0.0.1 two\n", "two", &second), None);
    }
}
