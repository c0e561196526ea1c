//! Getting controllers for the cgroups of hosts: Documentation/admin-guide/cgroup-v2.rst.
//!
//! In version 1 a controller is available to every process that may write to its hierarchy. In
//! version 2 a cgroup gives controllers to its children only if it has no processes ("No Internal
//! Process Constraint"; the root of all is exempt). So a broker whose cgroup was delegated to it
//! moves itself, and with that its supervisors, into a leaf, and the hosts' cgroups are beside that
//! leaf.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cgroup_paths;
use rustix::fs::Access;
use thiserror::Error;

use super::limits::{self, Controller};
use super::support::Support;

/// Why a controller cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum Lack {
    /// The directory belongs to another user, or is read-only.
    #[error("{} is not writable", .0.display())]
    NotWritable(PathBuf),
    /// No hierarchy has the controller.
    #[error("no cgroup hierarchy that is mounted here has that controller")]
    NoHierarchy,
    /// The parent cgroup lacks the controller.
    #[error("it is not delegated to {}", .0.display())]
    NotDelegated(PathBuf),
    /// Other processes are in the cgroup, which only their owner may move.
    #[error("others are in the same cgroup ({}; process {pid})", .path.display())]
    Shared { path: PathBuf, pid: i32 },
    /// pidfd_getfd(2) is refused: hosts' cgroups, which exist for their freezer, are not made then.
    #[error("pidfd_getfd(2) is refused here, without which imsup makes no cgroups of version 2")]
    NoPidfdGetfd,
    /// The kernel refuses.
    #[error("{}: {source}", .path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// Makes these controllers available to hosts of the project, moving this process into a leaf if
/// needed. Returns the unavailable ones, with reasons.
pub fn prepare(project: &str, wanted: &[Controller]) -> Vec<(Controller, Lack)> {
    let mut lacking = Vec::new();
    let mut of_version_2 = Vec::new();
    for controller in wanted.iter().copied() {
        match limits::directory_of(controller) {
            Some(directory) => lacking.extend(writable(&directory).err().map(|lack| (controller, lack))),
            None => of_version_2.push(controller),
        }
    }
    if of_version_2.is_empty() {
        return lacking;
    }
    if !Support::present().pidfd_getfd {
        lacking.extend(
            of_version_2
                .into_iter()
                .map(|controller| (controller, Lack::NoPidfdGetfd)),
        );
        return lacking;
    }
    let Some(own) = own_directory() else {
        lacking.extend(
            of_version_2
                .into_iter()
                .map(|controller| (controller, Lack::NoHierarchy)),
        );
        return lacking;
    };
    let is_ours = |pid| is_imsup(pid);
    lacking.extend(give(&own, project, &of_version_2, &is_ours));
    lacking
}

/// Takes [`prepare`] back, at the end of the broker.
pub fn leave(project: &str) {
    let Some(own) = own_directory() else { return };
    let base = cgroup_paths::base(&own);
    let is_leaf = own
        .file_name()
        .is_some_and(|name| name == cgroup_paths::leaf(project).as_str());
    if base == own || !is_leaf || processes(&own) != [std::process::id().cast_signed()] {
        return;
    }
    let is_of_another = |entry: &fs::DirEntry| entry.path() != own && entry.file_type().is_ok_and(|kind| kind.is_dir());
    let shared = fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| is_of_another(&entry));
    if shared {
        return;
    }
    for controller in words(&base.join("cgroup.subtree_control")) {
        let _ = fs::write(base.join("cgroup.subtree_control"), format!("-{controller}"));
    }
    // 0 is the writer itself (cgroups(7)).
    let _ = fs::write(base.join("cgroup.procs"), "0");
    let _ = fs::remove_dir(&own);
}

fn own_directory() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    cgroup_paths::unified(&own, &mountinfo)
        .into_iter()
        .find(|path| path.is_dir())
}

/// Gives controllers to the cgroups below (or beside) `own`.
fn give(own: &Path, project: &str, wanted: &[Controller], is_ours: &dyn Fn(i32) -> bool) -> Vec<(Controller, Lack)> {
    let base = cgroup_paths::base(own);
    let available = words(&base.join("cgroup.controllers"));
    let (there, missing): (Vec<Controller>, Vec<Controller>) = wanted
        .iter()
        .copied()
        .partition(|controller| available.contains(controller.name()));
    let mut lacking: Vec<(Controller, Lack)> = missing
        .into_iter()
        .map(|controller| (controller, Lack::NotDelegated(base.to_owned())))
        .collect();
    let enabled = words(&base.join("cgroup.subtree_control"));
    let to_enable: Vec<Controller> = there
        .iter()
        .copied()
        .filter(|controller| !enabled.contains(controller.name()))
        .collect();
    let given = writable(base).and_then(|()| match to_enable.is_empty() {
        true => Ok(()),
        false => enable(base, project, &to_enable, is_ours),
    });
    if let Err(lack) = given {
        let mut rest = there.into_iter();
        // The reason is given once, and stands for all of them.
        let first = rest.next().map(|controller| (controller, lack));
        lacking.extend(first);
        lacking.extend(rest.map(|controller| (controller, Lack::NotDelegated(base.to_owned()))));
    }
    lacking
}

fn enable(base: &Path, project: &str, wanted: &[Controller], is_ours: &dyn Fn(i32) -> bool) -> Result<(), Lack> {
    let file = base.join("cgroup.subtree_control");
    let order: Vec<String> = wanted.iter().map(|controller| format!("+{controller}")).collect();
    let write = || fs::write(&file, order.join(" "));
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| Lack::Refused { path, source }
    };
    writable(&file)?;
    match write() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        result => return result.map_err(refused(&file)),
    }
    let inside = processes(base);
    if let Some(pid) = inside.iter().copied().find(|pid| !is_ours(*pid)) {
        let path = base.to_owned();
        return Err(Lack::Shared { path, pid });
    }
    let leaf = base.join(cgroup_paths::leaf(project));
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(&leaf)(error)),
        _ => {}
    }
    for pid in &inside {
        // A process that has ended meanwhile gives ESRCH; a process that stays after any other
        // error makes the next write fail.
        let _ = fs::write(leaf.join("cgroup.procs"), pid.to_string());
    }
    write().map_err(|error| {
        for pid in &inside {
            let _ = fs::write(base.join("cgroup.procs"), pid.to_string());
        }
        let _ = fs::remove_dir(&leaf);
        refused(&file)(error)
    })
}

fn writable(path: &Path) -> Result<(), Lack> {
    rustix::fs::access(path, Access::WRITE_OK).map_err(|_| Lack::NotWritable(path.to_owned()))
}

/// The processes of a cgroup, those of other pid namespaces as 0.
fn processes(path: &Path) -> Vec<i32> {
    let list = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|pid| pid.parse().ok()).collect()
}

fn words(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// True if a process is an imsup: `up -d` waits for the broker that it has started.
fn is_imsup(pid: i32) -> bool {
    let identity = |process: &str| {
        let metadata = fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity("self").is_some_and(|own| identity(&pid.to_string()) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files of a cgroup: without a kernel behind, so reads return what was
    /// written.
    fn cgroup_with(controllers: &str, processes: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(directory.path().join("cgroup.subtree_control"), "").unwrap();
        fs::write(directory.path().join("cgroup.procs"), processes).unwrap();
        directory
    }

    #[test]
    fn controllers_that_are_there_are_given_to_those_below() {
        let own = cgroup_with("cpu memory pids", "");
        let lacking = give(own.path(), "shop", &[Controller::Memory, Controller::Pids], &|_| true);
        assert!(lacking.is_empty(), "{lacking:?}");
        let given = words(&own.path().join("cgroup.subtree_control"));
        assert_eq!(given.into_iter().collect::<Vec<_>>(), ["+memory", "+pids"]);
    }

    #[test]
    fn a_controller_that_is_not_delegated_is_named_and_the_others_are_given() {
        let own = cgroup_with("memory pids", "");
        let lacking = give(own.path(), "shop", &[Controller::Cpu, Controller::Memory], &|_| true);
        assert!(
            matches!(&lacking[..], [(Controller::Cpu, Lack::NotDelegated(_))]),
            "{lacking:?}"
        );
        assert_eq!(
            fs::read_to_string(own.path().join("cgroup.subtree_control")).unwrap(),
            "+memory"
        );
    }

    #[test]
    fn those_in_a_leaf_give_to_their_siblings() {
        let base = cgroup_with("memory", "");
        let leaf = base.path().join(cgroup_paths::leaf("shop"));
        fs::create_dir(&leaf).unwrap();
        assert!(give(&leaf, "shop", &[Controller::Memory], &|_| true).is_empty());
        assert_eq!(
            fs::read_to_string(base.path().join("cgroup.subtree_control")).unwrap(),
            "+memory"
        );
    }
}
