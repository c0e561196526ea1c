//! The parents of cgroups that our daemons make. Daemons leave their cgroups behind, and a paused
//! container cannot die.

use std::fs;
use std::path::{Path, PathBuf};

/// The prefix of all our names; the id of the process and the daemon follow.
const PREFIX: &str = "imsup-bench-";

/// Cgroups of one name, in all hierarchies that a daemon uses; removed on drop if their processes
/// have ended.
#[derive(Debug)]
pub struct Cgroups(String);

impl Cgroups {
    /// The cgroups of a daemon of this run, none of which exists yet. Leftovers of killed runs are
    /// removed.
    pub fn new(daemon: &str) -> Self {
        remove_left_behind();
        Self(format!("{PREFIX}{}-{daemon}", std::process::id()))
    }

    /// Their name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Resumes paused processes, so that SIGKILL reaches them: a frozen cgroup v1 delays the signal
    /// (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
    pub fn thaw(&self) {
        thaw(&self.0);
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The mount point of cgroup v2.
pub fn unified() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = mounts.lines().filter(|line| file_system(line).starts_with("cgroup2 "));
    found.find_map(mounted_at)
}

fn thaw(parent: &str) {
    for directory in found(|name| name == parent) {
        for below in tree(&directory) {
            for (file, text) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let path = below.join(file);
                if path.exists() {
                    let _ = fs::write(path, text);
                }
            }
        }
    }
}

fn remove(parent: &str) {
    for directory in found(|name| name == parent) {
        for below in tree(&directory).iter().rev() {
            let _ = fs::remove_dir(below);
        }
    }
}

/// Removes leftovers of killed runs.
pub fn remove_left_behind() {
    for parent in left_behind() {
        thaw(&parent);
        remove(&parent);
    }
}

/// The names of killed runs: their daemons died with them, but containers paused by docker did not.
pub fn left_behind() -> Vec<String> {
    let dead = |name: &str| {
        let rest = name.strip_prefix(PREFIX).unwrap_or_default();
        let process = rest.split('-').next().and_then(|id| id.parse::<u32>().ok());
        process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
    };
    let mut names: Vec<String> = found(dead).iter().filter_map(|path| name(path)).collect();
    names.sort();
    names.dedup();
    names
}

/// Directories of such a name at the top of a hierarchy, or right below our own cgroup there:
/// dockerd's paths are relative to our cgroup.
fn found(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in places() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir() && name(path).is_some_and(|name| wanted(&name))),
        );
    }
    found
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// A directory and all directories below, parents first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(directory) = all.get(next).cloned() {
        next += 1;
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        all.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    all
}

/// The places where our cgroups can be: each cgroup mount (proc_pid_mountinfo(5)), and below each
/// mount every path of /proc/self/cgroup.
fn places() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let is_cgroup = |line: &&str| {
        let file_system = file_system(line);
        file_system.starts_with("cgroup ") || file_system.starts_with("cgroup2 ")
    };
    let mut places: Vec<PathBuf> = Vec::new();
    for mount in mounts.lines().filter(is_cgroup).filter_map(mounted_at) {
        let paths = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        places.extend(paths.map(|path| mount.join(path.trim_start_matches('/'))));
        places.push(mount);
    }
    places.sort();
    places.dedup();
    places.retain(|place| place.is_dir());
    places
}

/// The end of a line of mountinfo, after the optional fields: the file system's type, source and
/// options.
fn file_system(line: &str) -> &str {
    line.split_once(" - ").map_or("", |(_, file_system)| file_system)
}

fn mounted_at(line: &str) -> Option<PathBuf> {
    line.split(' ').nth(4).map(PathBuf::from)
}
