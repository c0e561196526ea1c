//! Networks that projects share: a network that one project makes, and others name as `external`.
//!
//! Every project writes, for each network of its hosts, a file of its hosts' addresses and names, and
//! reads the files of the other projects at the same networks. Addresses of all projects are of one
//! machine, so a name is all that is needed to reach a host of another project.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use imsup_compose::cluster::Cluster;
use imsup_wire::{Index, Planes};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::files;
use crate::paths::Paths;
use crate::tokens::Source;

/// The largest file of another project that is read, in bytes: 1,000 hosts have some 50,000.
const MAX_BYTES: u64 = 16 << 20;

/// The hosts of another project: an address, with its names in lower case.
pub(crate) type Others = Vec<(Ipv4Addr, Vec<String>)>;

/// The project's part in the networks of its hosts.
#[derive(Debug)]
pub(crate) struct SharedNetworks {
    /// The directory of all networks.
    directory: PathBuf,
    project: String,
    /// What the project tells of its hosts, by network.
    own: BTreeMap<String, String>,
    /// The directories of the project's networks, once they are watched.
    watch: Option<Inotify>,
}

impl SharedNetworks {
    /// The networks of a cluster's hosts. Touches no file yet.
    pub(crate) fn new(cluster: &Cluster, planes: &Planes, indexes: &[Index], paths: &Paths) -> Self {
        let mut own = BTreeMap::<String, String>::new();
        for (host, index) in cluster.hosts.iter().zip(indexes) {
            for network in host.networks.iter().filter(|name| is_file_name(name)) {
                let lines = own.entry(network.clone()).or_default();
                // Writing to a string does not fail.
                let _ = write!(lines, "{} {}", planes.vip(*index), host.name);
                for alias in &host.aliases {
                    let _ = write!(lines, " {alias}");
                }
                lines.push('\n');
            }
        }
        Self {
            directory: paths.networks(),
            project: cluster.project.clone(),
            own,
            watch: None,
        }
    }

    /// Tells the other projects of this project's hosts, and begins to listen to theirs.
    ///
    /// # Errors
    /// mkdir(2), write(2), inotify(7), epoll_ctl(2).
    pub(crate) fn join(&mut self, registry: &Registry) -> io::Result<()> {
        if self.own.is_empty() {
            return Ok(());
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let descriptor = inotify.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), Source::Networks.into(), Interest::READABLE)?;
        self.watch = Some(inotify);
        self.tell_all()
    }

    /// Writes the files that are missing, and watches their directories; true if any was missing.
    ///
    /// # Errors
    /// As of [`Self::join`].
    pub(crate) fn restore(&self) -> io::Result<bool> {
        let is_there = |network: &String| self.directory.join(network).join(&self.project).exists();
        if self.own.keys().all(is_there) {
            return Ok(false);
        }
        self.tell_all().map(|()| true)
    }

    fn tell_all(&self) -> io::Result<()> {
        files::make_private_directory(&self.directory)?;
        for (network, lines) in &self.own {
            let directory = self.directory.join(network);
            // Another project's `down` may remove the directory just now, which is empty then.
            let write = || {
                files::make_private_directory(&directory)?;
                if let Some(watch) = &self.watch {
                    let changes = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
                    watch.add_watch(&directory, changes)?;
                }
                files::replace(&directory.join(&self.project), lines.as_bytes())
            };
            write().or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => write(),
                _ => Err(error),
            })?;
        }
        Ok(())
    }

    /// Whether another project's hosts have changed since the last call, perhaps.
    pub(crate) fn has_changed(&self) -> bool {
        let Some(watch) = &self.watch else { return false };
        let mut has_changed = false;
        loop {
            match watch.read_events() {
                Ok(events) if events.is_empty() => return has_changed,
                Ok(events) => {
                    let is_others = |name: &std::ffi::OsStr| *name != *self.project;
                    has_changed |= events.iter().any(|event| event.name.as_deref().is_none_or(is_others));
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return has_changed,
            }
        }
    }

    /// The hosts of other projects at the project's networks.
    pub(crate) fn others(&self, planes: &Planes) -> Others {
        let mut others = BTreeMap::new();
        for network in self.own.keys() {
            for entry in fs::read_dir(self.directory.join(network))
                .into_iter()
                .flatten()
                .flatten()
            {
                if *entry.file_name() == *self.project || entry.path().extension().is_some_and(|end| end == "new") {
                    continue;
                }
                // Of a project that has just gone, or that is not imsup's.
                let is_sane = entry
                    .metadata()
                    .is_ok_and(|found| found.is_file() && found.len() <= MAX_BYTES);
                let lines = fs::read_to_string(entry.path()).ok().filter(|_| is_sane);
                for (address, names) in lines.iter().flat_map(|lines| lines.lines()).filter_map(parse) {
                    if planes.place(address).is_some() {
                        others.entry(address).or_insert(names);
                    }
                }
            }
        }
        others.into_iter().collect()
    }
}

/// A line of a project's file.
fn parse(line: &str) -> Option<(Ipv4Addr, Vec<String>)> {
    let mut words = line.split(' ');
    let address = words.next()?.parse().ok()?;
    Some((address, words.map(str::to_ascii_lowercase).collect()))
}

/// True if a network's name is one that docker can give, so that it is the name of a directory.
fn is_file_name(network: &str) -> bool {
    network.len() < 256
        && network.starts_with(|first: char| first.is_ascii_alphanumeric())
        && network
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Takes a project's files out of all networks.
///
/// # Errors
/// unlink(2), readdir(3).
pub(crate) fn leave(paths: &Paths) -> io::Result<()> {
    let Some(project) = paths.runtime().file_name() else {
        return Ok(());
    };
    let entries = match fs::read_dir(paths.networks()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let network = entry?.path();
        files::remove(&network.join(project))?;
        remove_if_empty(&network);
    }
    remove_if_empty(&paths.networks());
    Ok(())
}

/// Removes a directory that no other project uses.
fn remove_if_empty(directory: &Path) {
    let _ = fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, host, planes_for_tests};

    struct Fixture {
        base: tempfile::TempDir,
        poll: mio::Poll,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                base: tempfile::tempdir().unwrap(),
                poll: mio::Poll::new().unwrap(),
            }
        }

        fn paths(&self, project: &str) -> Paths {
            Paths::new(project, 0, |_| Some(self.base.path().to_owned()), |_| true)
        }

        /// A project with one host, at these networks.
        fn project(&self, name: &str, of: &str, number: u16, networks: &[&str]) -> SharedNetworks {
            let mut spec = host(of);
            spec.aliases = vec!["Both".to_owned()];
            spec.networks = networks.iter().copied().map(str::to_owned).collect();
            let indexes = [Index::new(number).unwrap()];
            let paths = self.paths(name);
            let mut made = SharedNetworks::new(&cluster(name, vec![spec]), &planes_for_tests(), &indexes, &paths);
            made.join(self.poll.registry()).unwrap();
            made
        }
    }

    fn names(of: &SharedNetworks) -> Vec<String> {
        let others = of.others(&planes_for_tests());
        others
            .into_iter()
            .map(|(address, names)| format!("{address} {}", names.join(" ")))
            .collect()
    }

    #[test]
    fn projects_find_each_other_at_common_networks_alone() {
        let fixture = Fixture::new();
        let shop = fixture.project("shop", "web", 0x0501, &["shop_default", "proxy"]);
        let entry = fixture.project("entry", "traefik", 0x0601, &["proxy"]);
        let other = fixture.project("other", "db", 0x0701, &["other_default"]);
        assert!(shop.has_changed());
        assert!(!shop.has_changed(), "told once");
        assert_eq!(names(&shop), ["127.97.6.1 traefik both"]);
        assert_eq!(names(&entry), ["127.97.5.1 web both"]);
        assert_eq!(names(&other), [""; 0]);
        assert!(!other.has_changed(), "not of its own files");
        leave(&fixture.paths("entry")).unwrap();
        assert!(shop.has_changed());
        assert_eq!(names(&shop), [""; 0]);
        for project in ["shop", "other"] {
            leave(&fixture.paths(project)).unwrap();
        }
        assert!(!fixture.paths("shop").networks().exists(), "nothing is left");
    }

    #[test]
    fn what_was_removed_is_written_again() {
        let fixture = Fixture::new();
        let shop = fixture.project("shop", "web", 0x0501, &["proxy"]);
        assert!(!shop.restore().unwrap());
        fs::remove_dir_all(fixture.paths("shop").networks()).unwrap();
        assert!(shop.restore().unwrap());
        let entry = fixture.project("entry", "traefik", 0x0601, &["proxy"]);
        assert_eq!(names(&entry), ["127.97.5.1 web both"]);
        assert!(shop.has_changed(), "the new directory is watched");
    }

    #[test]
    fn what_is_no_projects_file_is_passed_over() {
        let fixture = Fixture::new();
        let shop = fixture.project("shop", "web", 0x0501, &["proxy", "../up", "a/b", ".hidden", ""]);
        let proxy = fixture.paths("shop").networks().join("proxy");
        fs::create_dir(proxy.join("directory")).unwrap();
        fs::write(proxy.join("odd"), b"\xff\xfe").unwrap();
        fs::write(proxy.join("far"), "10.0.0.1 far\nx y\n\n127.97.9.9\n").unwrap();
        assert_eq!(names(&shop), ["127.97.9.9 "]);
        assert_eq!(fs::read_dir(fixture.paths("shop").networks()).unwrap().count(), 1);
    }
}
