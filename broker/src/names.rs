//! Names, with the addresses behind them, and the name server.

mod answer;
mod anywhere;
mod connections;
mod forward;
mod resolv_conf;
mod server;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imsup_wire::{Index, Planes};
use parking_lot::RwLock;

use imsup_compose::cluster::Cluster;

use crate::shared_networks::Others;

pub(crate) use server::{NameServer, NameServerHandle};

/// The names, shared by the broker's loop and the name server.
pub(crate) type SharedNames = Arc<RwLock<Names>>;

/// Every name of a project and its meaning.
#[derive(Debug)]
pub(crate) struct Names {
    project: String,
    planes: Planes,
    /// Names in lower case. A name shared by several hosts (a service with replicas, services with
    /// one `hostname`) has several addresses.
    by_name: BTreeMap<Box<str>, Vec<Ipv4Addr>>,
    /// The name of each address.
    by_address: HashMap<Ipv4Addr, Box<str>>,
    /// Hosts that share the name that they report, with that name.
    sharing: HashMap<Ipv4Addr, Box<str>>,
    /// Hosts that are booted by a look-up of the name.
    prefetched: HashSet<Ipv4Addr>,
    /// Further names of single hosts (`extra_hosts`), by the address of the host that finds them.
    extra: HashMap<Ipv4Addr, Vec<(String, IpAddr)>>,
    /// Hosts of other projects, at networks that the projects share. Own names go before.
    others: Others,
    others_by_name: HashMap<Box<str>, Vec<Ipv4Addr>>,
    /// So that replicas take turns.
    turn: AtomicUsize,
}

impl Names {
    /// The names of a cluster.
    pub(crate) fn new(cluster: &Cluster, planes: Planes, indexes: &[Index]) -> Self {
        let mut names = Self {
            project: cluster.project.to_ascii_lowercase(),
            planes,
            by_name: BTreeMap::new(),
            by_address: HashMap::with_capacity(indexes.len()),
            sharing: HashMap::new(),
            prefetched: HashSet::new(),
            extra: HashMap::new(),
            others: Others::new(),
            others_by_name: HashMap::new(),
            turn: AtomicUsize::new(0),
        };
        for (host, index) in cluster.hosts.iter().zip(indexes) {
            let address = planes.vip(*index);
            names.add_host(host.name.as_str(), &host.aliases, address);
            if !host.extra_hosts.is_empty() {
                names.extra.insert(address, host.extra_hosts.clone());
            }
            if host.imsup.prefetch_dns {
                names.prefetched.insert(address);
            }
        }
        for (host, index) in cluster.hosts.iter().zip(indexes) {
            let reported = host.hostname.to_ascii_lowercase();
            if names.by_name.get(&*reported).is_some_and(|sharers| sharers.len() > 1) {
                names.sharing.insert(planes.vip(*index), reported.into());
            }
        }
        names
    }

    /// Adds a host.
    pub(crate) fn add_host(&mut self, name: &str, aliases: &[String], address: Ipv4Addr) {
        self.by_address.insert(address, name.into());
        for name in std::iter::once(name).chain(aliases.iter().map(String::as_str)) {
            let addresses = self.by_name.entry(name.to_ascii_lowercase().into()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }

    /// Removes a host that has no aliases.
    pub(crate) fn remove_host(&mut self, name: &str, address: Ipv4Addr) {
        self.by_address.remove(&address);
        if let Some(addresses) = self.by_name.get_mut(name) {
            addresses.retain(|other| *other != address);
            if addresses.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    /// Replaces what is known of the hosts of other projects.
    pub(crate) fn know_others(&mut self, others: &Others) {
        self.others_by_name.clear();
        for (address, names) in others {
            for name in names {
                self.others_by_name
                    .entry(name.as_str().into())
                    .or_default()
                    .push(*address);
            }
        }
        self.others.clone_from(others);
    }

    /// The name of a host's address, also of another project's host.
    fn name_of(&self, address: Ipv4Addr) -> Option<&str> {
        let is_it = |(other, _): &&(Ipv4Addr, Vec<String>)| *other == address;
        let of_another = || self.others.iter().find(is_it)?.1.first().map(String::as_str);
        self.by_address.get(&address).map(AsRef::as_ref).or_else(of_another)
    }

    /// Whether the name is taken.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Every name with each of its addresses: the project's in the order of the names, then those of
    /// other projects.
    pub(crate) fn all(&self) -> Vec<(String, Ipv4Addr)> {
        let pairs = self.by_name.iter().flat_map(|(name, addresses)| {
            let name = name.to_string();
            addresses.iter().map(move |address| (name.clone(), *address))
        });
        let others = self.others.iter().flat_map(|(address, names)| {
            let leading = names.iter().filter(|name| self.leads(name, *address));
            leading.map(|name| (name.clone(), *address))
        });
        pairs.chain(others).collect()
    }

    /// True if a name leads to this address, also beside other addresses.
    fn leads(&self, name: &str, address: Ipv4Addr) -> bool {
        self.find(name, &[]).is_some_and(|found| found.contains(&address))
    }

    /// The addresses of a name, as written or with the project as its domain.
    pub(crate) fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        self.find(name, &[]).cloned().unwrap_or_default()
    }

    /// What the asker's own `extra_hosts` say of a name; `None` if nothing.
    fn extra_of(&self, name: &str, asker: IpAddr) -> Option<Vec<IpAddr>> {
        let IpAddr::V4(asker) = asker.to_canonical() else {
            return None;
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let entries = self.extra.get(&asker)?.iter();
        let named = entries.filter(|(extra, _)| extra.eq_ignore_ascii_case(name));
        let addresses: Vec<IpAddr> = named.map(|(_, address)| *address).collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    /// The addresses of a name, another address first each time. A host that asks for the name that
    /// it reports gets only its own address, as from the /etc/hosts of a container: programs bind to
    /// their own name.
    fn take_turns(&self, name: &str, search: &[String], asker: IpAddr) -> Option<Vec<Ipv4Addr>> {
        let found = self.find(name, search)?;
        if let IpAddr::V4(own) = asker.to_canonical()
            && let Some(reported) = self.sharing.get(&own)
            && self
                .by_name
                .get(reported)
                .is_some_and(|sharers| std::ptr::eq(sharers, found))
        {
            return Some(vec![own]);
        }
        let mut addresses = found.clone();
        if addresses.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        Some(addresses)
    }

    fn find(&self, name: &str, search: &[String]) -> Option<&Vec<Ipv4Addr>> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if let Some(addresses) = self.by_name.get(name) {
            return Some(addresses);
        }
        let domains = std::iter::once(self.project.as_str()).chain(search.iter().map(String::as_str));
        domains
            .filter_map(|domain| name.strip_suffix(domain)?.strip_suffix('.'))
            .find_map(|host| self.by_name.get(host))
            .or_else(|| self.others_by_name.get(name))
    }

    /// The lines for /etc/hosts: the project's, then the machine's own.
    pub(crate) fn hosts_file(&self, machine: &str) -> String {
        let mut aliases: HashMap<Ipv4Addr, Vec<&str>> = HashMap::new();
        for (name, addresses) in &self.by_name {
            for address in addresses {
                aliases.entry(*address).or_default().push(name);
            }
        }
        let mut addresses: Vec<(&Ipv4Addr, &Box<str>)> = self.by_address.iter().collect();
        addresses.sort_unstable_by_key(|(address, _)| **address);
        let mut file = String::new();
        for (address, name) in addresses {
            // Writing to a string does not fail.
            let _ = write!(file, "{address} {name}");
            for alias in aliases
                .get(address)
                .into_iter()
                .flatten()
                .filter(|alias| **alias != name.as_ref())
            {
                let _ = write!(file, " {alias}");
            }
            file.push('\n');
        }
        for (address, names) in &self.others {
            let leading = names.iter().filter(|name| self.leads(name, *address));
            let names: Vec<&str> = leading.map(String::as_str).collect();
            if !names.is_empty() {
                let _ = writeln!(file, "{address} {}", names.join(" "));
            }
        }
        file.push_str(machine);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, host};

    /// An asker that is no host.
    pub(super) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    pub(super) fn names() -> Names {
        let mut hosts = vec![host("web-1"), host("web-2"), host("db")];
        hosts[0].aliases = vec!["web".to_owned()];
        hosts[1].aliases = vec!["web".to_owned()];
        hosts[2].imsup.prefetch_dns = true;
        let indexes = [1u16, 2, 3].map(|number| Index::new(0x0500 | number).unwrap());
        Names::new(&cluster("Shop", hosts), Planes::default(), &indexes)
    }

    #[test]
    fn names_mean_what_they_say_in_any_case_and_with_their_domain() {
        let names = names();
        let db = [Ipv4Addr::new(127, 77, 5, 3)];
        for name in ["db", "DB", "db.", "db.shop", "Db.Shop."] {
            assert_eq!(names.addresses(name), db, "{name}");
        }
        assert!(names.addresses("db.example.com").is_empty());
        let search = ["example.com".to_owned()];
        assert_eq!(names.find("db.example.com", &search).unwrap(), &db);
        assert!(names.find("xdb.example.com", &search).is_none());
        assert!(names.find("dbexample.com", &search).is_none());
    }

    #[test]
    fn names_of_other_projects_come_after_the_projects_own() {
        let mut names = names();
        let [foreign, other] = [[127, 77, 9, 1], [127, 77, 9, 2]].map(Ipv4Addr::from);
        names.know_others(&vec![
            (foreign, vec!["cache".to_owned(), "db".to_owned()]),
            (other, vec!["db".to_owned()]),
        ]);
        assert_eq!(names.addresses("CACHE."), [foreign]);
        assert_eq!(names.addresses("db"), [Ipv4Addr::new(127, 77, 5, 3)]);
        assert_eq!(names.name_of(foreign), Some("cache"));
        let file = names.hosts_file("");
        assert!(file.ends_with("127.77.5.3 db\n127.77.9.1 cache\n"), "{file}");
        names.know_others(&Others::new());
        assert!(names.addresses("cache").is_empty());
    }

    #[test]
    fn extra_hosts_are_of_one_host_alone() {
        let mut hosts = ["one", "two"].map(host).to_vec();
        let [v4, v6]: [IpAddr; 2] = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        hosts[0].extra_hosts = vec![("far".to_owned(), v4), ("far".to_owned(), v6), ("two".to_owned(), v4)];
        let indexes = [1u16, 2].map(|number| Index::new(0x0500 | number).unwrap());
        let names = Names::new(&cluster("Shop", hosts), Planes::default(), &indexes);
        let [one, two] = [1, 2].map(|low| IpAddr::from([127, 77, 5, low]));
        assert_eq!(names.extra_of("FAR.", one), Some(vec![v4, v6]));
        assert_eq!(names.extra_of("two", one), Some(vec![v4]), "over the project's");
        assert_eq!(names.extra_of("far", two), None);
        assert_eq!(names.extra_of("far", OUTSIDE), None);
    }

    #[test]
    fn replicas_take_turns() {
        let names = names();
        let first: HashSet<Ipv4Addr> = (0..4)
            .map(|_| names.take_turns("web", &[], OUTSIDE).unwrap()[0])
            .collect();
        assert_eq!(first.len(), 2);
    }

    #[test]
    fn only_the_host_itself_gets_its_own_address_alone() {
        let mut hosts = ["one", "two", "three"].map(host).to_vec();
        for host in &mut hosts[..2] {
            host.hostname = "Node".to_owned();
            host.aliases = vec!["node".to_owned(), "pool".to_owned()];
        }
        let indexes = [1u16, 2, 3].map(|number| Index::new(0x0500 | number).unwrap());
        let names = Names::new(&cluster("Shop", hosts), Planes::default(), &indexes);
        let [one, two, three] = [1, 2, 3].map(|low| Ipv4Addr::new(127, 77, 5, low));
        let search = ["example.com".to_owned()];
        let ask = |name: &str, asker: IpAddr| {
            let mut found = names.take_turns(name, &search, asker).unwrap();
            found.sort_unstable();
            found
        };
        for name in ["node", "NODE.", "node.shop", "node.example.com"] {
            assert_eq!(ask(name, one.into()), [one], "{name}");
            assert_eq!(ask(name, two.to_ipv6_mapped().into()), [two], "{name}");
            assert_eq!(ask(name, three.into()), [one, two], "{name}");
            assert_eq!(ask(name, OUTSIDE), [one, two], "{name}");
        }
        assert_eq!(ask("pool", one.into()), [one, two]);
        assert_eq!(ask("three", one.into()), [three]);
    }

    #[test]
    fn the_hosts_file_has_each_address_once_and_what_the_machine_has() {
        let mut names = names();
        names.add_host("run-1", &[], Ipv4Addr::new(127, 77, 5, 4));
        let with = names.hosts_file("127.0.0.1 localhost\n");
        assert_eq!(
            with,
            "127.77.5.1 web-1 web\n127.77.5.2 web-2 web\n127.77.5.3 db\n127.77.5.4 run-1\n127.0.0.1 localhost\n"
        );
        names.remove_host("run-1", Ipv4Addr::new(127, 77, 5, 4));
        assert!(!names.hosts_file("").contains("run-1"));
        assert!(!names.has("run-1"));
    }
}
