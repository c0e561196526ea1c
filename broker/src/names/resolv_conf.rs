//! The servers for names outside of the project: resolv.conf(5).

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::net::if_::if_nametoindex;

/// The port of a name server that does not say otherwise.
const DNS_PORT: u16 = 53;

/// The contents of resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
}

impl Upstream {
    /// The servers, beginning with the asked server, even if the file does not have the asked
    /// server.
    pub(super) fn servers_from(&self, asked: Option<IpAddr>) -> Vec<SocketAddr> {
        let Some(asked) = asked else {
            return self.servers.clone();
        };
        let (mut servers, others): (Vec<_>, Vec<_>) = self.servers.iter().partition(|server| server.ip() == asked);
        if servers.is_empty() {
            servers.push(SocketAddr::new(asked, DNS_PORT));
        }
        servers.extend(others);
        servers
    }
}

/// resolv.conf, read again when it has changed.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    changed: Option<SystemTime>,
    upstream: Upstream,
    /// Own addresses, which are never asked.
    own: Vec<IpAddr>,
}

impl ResolvConf {
    /// The file at this path.
    pub(super) fn new(path: PathBuf, own: Vec<IpAddr>) -> Self {
        Self {
            path,
            changed: None,
            upstream: Upstream::default(),
            own,
        }
    }

    /// The current contents.
    pub(super) fn current(&mut self) -> &Upstream {
        let changed = modified(&self.path);
        if changed.is_none() || changed != self.changed {
            let text = fs::read_to_string(&self.path).unwrap_or_default();
            self.upstream = parse(&text);
            self.upstream.servers.retain(|server| !self.own.contains(&server.ip()));
            self.changed = changed;
        }
        &self.upstream
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// `nameserver ADDRESS` (also `[ADDRESS]:PORT`, as in OpenBSD), `search` and `domain`, of which the
/// last wins.
fn parse(text: &str) -> Upstream {
    let mut upstream = Upstream::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => upstream.servers.extend(words.next().and_then(server)),
            Some("search" | "domain") => {
                upstream.search = words
                    .map(|domain| domain.trim_end_matches('.').to_ascii_lowercase())
                    .filter(|domain| !domain.is_empty())
                    .collect();
            }
            _ => {}
        }
    }
    upstream
}

fn server(word: &str) -> Option<SocketAddr> {
    if let Some((address, port)) = word.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        return Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
    }
    // A link-local address includes its interface (RFC 4007, section 11).
    if let Some((address, interface)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let number = interface.parse().ok();
        let scope = number.or_else(|| if_nametoindex(interface).ok())?;
        return Some(SocketAddrV6::new(address, DNS_PORT, 0, scope).into());
    }
    Some(SocketAddr::new(word.parse().ok()?, DNS_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_the_resolver_does() {
        let text = "# comment\nnameserver 10.0.0.1\nnameserver ::1 ; local\nnameserver [127.0.0.1]:5353\n\
                    nameserver nonsense\noptions ndots:5\ndomain old.example\nsearch Example.COM. b.example\n";
        let expected = Upstream {
            servers: ["10.0.0.1:53", "[::1]:53", "127.0.0.1:5353"]
                .map(|s| s.parse().unwrap())
                .to_vec(),
            search: vec!["example.com".to_owned(), "b.example".to_owned()],
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_link_local_server_has_its_interface() {
        let upstream = parse("nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%nosuchinterface\n");
        let lo = if_nametoindex("lo").unwrap();
        let expected =
            [("fe80::1", lo), ("fe80::2", 7)].map(|(ip, scope)| SocketAddrV6::new(ip.parse().unwrap(), 53, 0, scope));
        assert_eq!(upstream.servers, expected.map(SocketAddr::from));
    }

    #[test]
    fn the_server_that_was_asked_comes_first() {
        let upstream = parse("nameserver 10.0.0.1\nnameserver [127.0.0.1]:5353\n");
        let from = |asked: &str| {
            let servers = upstream.servers_from(Some(asked.parse().unwrap()));
            servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(from("10.0.0.1"), ["10.0.0.1:53", "127.0.0.1:5353"]);
        assert_eq!(from("127.0.0.1"), ["127.0.0.1:5353", "10.0.0.1:53"]);
        assert_eq!(from("::1"), ["[::1]:53", "10.0.0.1:53", "127.0.0.1:5353"]);
        assert_eq!(upstream.servers_from(None), upstream.servers);
    }

    #[test]
    fn a_change_is_seen_and_the_broker_does_not_ask_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut conf = ResolvConf::new(path.clone(), vec!["127.77.5.0".parse().unwrap()]);
        assert_eq!(conf.current(), &Upstream::default(), "no file, no servers");
        fs::write(&path, "nameserver 127.77.5.0\nnameserver 127.0.0.9\n").unwrap();
        let servers: Vec<SocketAddr> = vec!["127.0.0.9:53".parse().unwrap()];
        assert_eq!(conf.current().servers, servers);
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        fs::write(&path, "").unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(conf.current().servers.is_empty());
    }
}
