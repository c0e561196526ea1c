//! Cgroups left by dead supervisors, with possibly frozen processes: cgroups(7),
//! Documentation/admin-guide/cgroup-v2.rst.
//!
//! A supervisor makes a cgroup for the host below the supervisor's own, and locks the directory
//! with flock(2) for life. A cgroup without a lock was left behind.
//!
//! Blocking: called by [`super::leftovers::clear`] in a thread of its own, by a command, or before
//! and after the loop.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imsup_linux::cgroup_paths;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Signal, pidfd_send_signal};

use super::child;

/// How long killed processes may take to be gone.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of looks at the cgroup. The kernel also notifies of changes, but at most once in 10
/// ms. A cgroup whose last process is not yet quite gone returns EBUSY, without any notification.
const LOOK: Duration = Duration::from_millis(1);

/// The directories below which a process makes cgroups for hosts, wherever cgroups are mounted;
/// `"self"` is this process. Directories of version 2 come first.
pub(crate) fn directories_of(process: &str) -> Vec<PathBuf> {
    let cgroup = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = Vec::new();
    let of_controllers = cgroup_paths::CONTROLLERS
        .iter()
        .flat_map(|controller| cgroup_paths::of_controller(controller, &cgroup, &mountinfo));
    for path in cgroup_paths::unified(&cgroup, &mountinfo)
        .into_iter()
        .chain(of_controllers)
    {
        let base = cgroup_paths::base(&path);
        if base.is_dir() && !found.iter().any(|known| known == base) {
            found.push(base.to_owned());
        }
    }
    found
}

/// Ends the leftovers of a project's hosts below a directory. False if a process survived.
pub(crate) fn end_all(directory: &Path, project: &str) -> bool {
    let prefix = cgroup_paths::of_host(project, "");
    let of_project = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(&prefix)) && entry.file_type().is_ok_and(|kind| kind.is_dir())
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.filter(of_project).map(|entry| entry.path()).collect();
    // All of the cgroups, even if some cannot be ended.
    paths.iter().filter(|path| !end(path)).count() == 0
}

/// Kills the processes of a cgroup that no supervisor holds, and removes the cgroup. False if a
/// process survived.
pub(crate) fn end(path: &Path) -> bool {
    let Ok(directory) = File::open(path) else {
        return true;
    };
    if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        return true;
    }
    let deadline = Instant::now() + TIMEOUT;
    let is_unified = path.join("cgroup.events").exists();
    let emptied = match is_unified {
        true => {
            // Also kills frozen processes, and processes forked meanwhile (Linux 5.14).
            let _ = fs::write(path.join("cgroup.kill"), "1");
            let _ = fs::write(path.join("cgroup.freeze"), "0");
            is_empty_by(path, deadline)
        }
        false => kill_by(path, deadline),
    };
    if !emptied {
        return false;
    }
    remove_by(path, deadline)
}

fn is_empty_by(path: &Path, deadline: Instant) -> bool {
    let Ok(events) = File::open(path.join("cgroup.events")) else {
        return true;
    };
    let look = Timespec::try_from(LOOK).ok();
    loop {
        let text = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        if !text.lines().any(|line| line == "populated 1") {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        let _ = rustix::event::poll(&mut [PollFd::new(&events, PollFlags::PRI)], look.as_ref());
    }
}

/// Kills all processes of a cgroup of version 1, again and again: version 1 has no file for a kill,
/// and processes may fork meanwhile.
fn kill_by(path: &Path, deadline: Instant) -> bool {
    let look = Timespec::try_from(LOOK).ok();
    loop {
        let processes = processes_in(path);
        if processes.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        for pid in processes {
            // The number may have been reused since the read; the descriptor stays that of a single
            // process.
            if let Some(process) = child::open(pid)
                && processes_in(path).contains(&pid)
            {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
        let _ = rustix::event::poll(&mut [], look.as_ref());
    }
}

/// The processes in a cgroup, and in cgroups made by these processes below.
fn processes_in(path: &Path) -> Vec<u32> {
    let list = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = list.lines().filter_map(|pid| pid.parse().ok()).collect();
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    found.extend(below.flat_map(|entry| processes_in(&entry.path())));
    found
}

/// Removes a cgroup and the cgroups that the host's processes made below it.
fn remove_by(path: &Path, deadline: Instant) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_by(&entry.path(), deadline) {
            return false;
        }
    }
    let look = Timespec::try_from(LOOK).ok();
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                let _ = rustix::event::poll(&mut [], look.as_ref());
            }
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_frozen_and_held_by_nobody_is_ended() {
        let own = directories_of("self").into_iter().next();
        let own = own.expect("cgroup v2 must be mounted somewhere: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
        let project = format!("cgroups-{}", std::process::id());
        let path = own.join(cgroup_paths::of_host(&project, "web"));
        assert!(end(&path), "nothing is there");
        if let Err(error) = fs::create_dir(&path) {
            assert!(!rustix::process::geteuid().is_root(), "{}: {error}", path.display());
            assert_eq!(
                error.kind(),
                io::ErrorKind::PermissionDenied,
                "an ordinary user has no cgroups"
            );
            return;
        }
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        fs::create_dir(path.join("below")).unwrap();
        fs::write(path.join("below/cgroup.procs"), child.id().to_string()).unwrap();
        fs::write(path.join("cgroup.freeze"), "1").unwrap();

        let locked = File::open(&path).unwrap();
        rustix::fs::flock(&locked, FlockOperation::LockExclusive).unwrap();
        assert!(end_all(&own, &project));
        assert!(child.try_wait().unwrap().is_none(), "its supervisor lives");
        drop(locked);
        assert!(end_all(&own, "cgroups"), "another project");
        assert!(path.exists());
        // A child that another test starts at this moment also has the lock until its execve(2).
        let deadline = Instant::now() + Duration::from_secs(60);
        while !end_all(&own, &project) || path.exists() {
            assert!(Instant::now() < deadline, "it is there still");
            std::thread::yield_now();
        }
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn what_is_in_a_cgroup_of_any_version_is_ended() {
        let project = format!("any-{}", std::process::id());
        for own in directories_of("self") {
            let path = own.join(cgroup_paths::of_host(&project, "web"));
            if let Err(error) = fs::create_dir(&path) {
                assert!(!rustix::process::geteuid().is_root(), "{}: {error}", path.display());
                continue;
            }
            let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
            fs::create_dir(path.join("below")).unwrap();
            fs::write(path.join("below/cgroup.procs"), child.id().to_string()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            // Until a wait, the child is a zombie, which is in no cgroup's list.
            while !end_all(&own, &project) || path.exists() {
                assert!(Instant::now() < deadline, "{} is there still", path.display());
                std::thread::yield_now();
            }
            assert!(!child.wait().unwrap().success());
        }
    }
}
