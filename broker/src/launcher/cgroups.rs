//! Cgroups that dead supervisors left, with processes that may be frozen in them: cgroups(7),
//! Documentation/admin-guide/cgroup-v2.rst.
//!
//! A supervisor makes one for its host below its own, and holds its directory with flock(2) for as long as it lives. What
//! is held by nobody is left behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at. The kernel notifies of it, too, but at most once in 10 ms, and a cgroup whose last process
/// is not yet quite gone says EBUSY without any notice.
const LOOK: Duration = Duration::from_millis(1);

/// The directories of the cgroup that a process is in, wherever cgroup v2 is mounted; `"self"` is this one.
pub(crate) fn directories_of(process: &str) -> Vec<PathBuf> {
    let cgroup = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = locate(&cgroup, &mountinfo);
    found.retain(|path| path.is_dir());
    found
}

/// By proc_pid_mountinfo(5): each mount may show only what is below a root.
fn locate(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let Some(own) = cgroup.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Vec::new();
    };
    let place = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        file_system.starts_with("cgroup2 ").then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(&point).join(below))
    };
    mountinfo.lines().filter_map(place).collect()
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes in mountinfo.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// The name of a host's cgroup. A supervisor that is given no host's name puts its process number in its place.
pub(crate) fn name(project: &str, host: &str) -> String {
    format!("imsup.{project}.{host}")
}

/// Ends what is left of a project's hosts below a directory. False where something survived.
pub(crate) fn end_all(directory: &Path, project: &str) -> bool {
    let prefix = name(project, "");
    let of_project = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(&prefix)) && entry.file_type().is_ok_and(|kind| kind.is_dir())
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.filter(of_project).map(|entry| entry.path()).collect();
    // Every one of them, also where one resists.
    paths.iter().filter(|path| !end(path)).count() == 0
}

/// Ends what is in a cgroup that no supervisor holds, and removes it. False where something survived.
pub(crate) fn end(path: &Path) -> bool {
    let Ok(directory) = File::open(path) else {
        return true;
    };
    if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        return true;
    }
    // Those that are frozen, too, and those that fork meanwhile (Linux 5.14).
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let _ = fs::write(path.join("cgroup.freeze"), "0");
    let deadline = Instant::now() + PATIENCE;
    if !is_empty_by(path, deadline) {
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

/// Removes a cgroup and those that the host's processes made below it.
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
    fn a_processs_cgroup_is_found_below_the_mounts() {
        let mounts = "32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      33 31 0:29 / /sys/fs/cgroup/uni\\040fied rw shared:9 - cgroup2 cgroup2 rw\n\
                      34 31 0:29 /user.slice /mnt rw - cgroup2 none rw\n";
        let own = "4:memory:/a\n0::/user.slice/x\n";
        let found = [Path::new("/sys/fs/cgroup/uni fied/user.slice/x"), Path::new("/mnt/x")];
        assert_eq!(locate(own, mounts), found);
        assert!(locate("4:memory:/a\n", mounts).is_empty(), "cgroup v1 only");
    }

    #[test]
    fn what_is_frozen_and_held_by_nobody_is_ended() {
        let own = directories_of("self").into_iter().next();
        let own = own.expect("cgroup v2 must be mounted somewhere: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
        let project = format!("cgroups-{}", std::process::id());
        let path = own.join(name(&project, "web"));
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

        let held = File::open(&path).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(end_all(&own, &project));
        assert!(child.try_wait().unwrap().is_none(), "its supervisor lives");
        drop(held);
        assert!(end_all(&own, "cgroups"), "another project");
        assert!(path.exists());
        // A child that another test starts at this moment has the lock, too, until its execve(2).
        let deadline = Instant::now() + Duration::from_secs(60);
        while !end_all(&own, &project) || path.exists() {
            assert!(Instant::now() < deadline, "it is there still");
            std::thread::yield_now();
        }
        assert!(!child.wait().unwrap().success());
    }
}
