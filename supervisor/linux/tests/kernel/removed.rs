//! The kernel's reports on files and cgroups that were removed while in use.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Instant;

use imsup_linux::cgroup::{Cgroup, CgroupError};
use imsup_linux::memory_watch::MemoryWatch;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// inotify(7) reports IN_DELETE_SELF when the directory's inode goes, and each open file keeps the
/// directories above (fs/dcache.c, d_delete; dentries hold their parents). So a directory is
/// watched for removals inside.
#[test]
fn the_removal_of_a_directory_is_told_once_no_file_of_it_is_open() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("shop");
    fs::create_dir_all(directory.join("running")).unwrap();
    let file = File::create(directory.join("running/web")).unwrap();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    let mask = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(&directory, mask).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let told = inotify.read_events().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].mask.contains(AddWatchFlags::IN_DELETE) && told[0].name.as_deref() == Some("running".as_ref()));
    drop(file);
    // A process that another test is just about to execute has the file as well, until it does.
    let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polled, PollTimeout::try_from(60_000).unwrap()).unwrap(), 1);
    let told = inotify.read_events().unwrap();
    assert!(told[0].mask.contains(AddWatchFlags::IN_DELETE_SELF), "{told:?}");
}

/// proc_pid_fd(5), fs/d_path.c: the former path, marked as deleted, even if the directories above
/// are gone.
#[test]
fn an_open_file_that_was_removed_says_where_it_was() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().canonicalize().unwrap().join("a/b");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("broker.lock");
    let file = File::create(&path).unwrap();
    fs::remove_dir_all(base.path().join("a")).unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("{} (deleted)", path.display()));
}

/// proc_pid_exe(5): a child has the same executable until execve(2), even if the file was replaced
/// or deleted.
#[test]
fn a_program_that_was_deleted_executes_itself() {
    let base = tempfile::tempdir().unwrap();
    let copy = base.path().join("sh");
    fs::copy("/bin/sh", &copy).unwrap();
    let script = format!(
        "rm {0}; echo '#!/bin/false' > {0}; exec /proc/self/exe -c 'echo same'",
        copy.display()
    );
    // Another thread's child may have the copy open for writing until execve(2).
    let output = loop {
        match Command::new(&copy).args(["-c", &script]).output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {}
            output => break output.unwrap(),
        }
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "same\n", "{output:?}");
}

/// fs/kernfs/file.c, kernfs_get_active: ENODEV.
#[test]
fn the_open_files_of_a_removed_cgroup_say_so() {
    let name = format!("imsup.kernel-suite-{}.removed", std::process::id());
    let Some(cgroup) = cgroup(&name) else { return };
    assert!(!cgroup.is_removed());
    fs::remove_dir(cgroup.path()).unwrap();
    assert!(cgroup.is_removed());
    assert_eq!(cgroup.thaw(), Err(Errno::ENODEV));
    // A cgroup of the same name is another cgroup.
    let other = Cgroup::make(&name).unwrap();
    assert!(cgroup.is_removed() && !other.is_removed());
    other.remove();
}

/// fs/kernfs/file.c, kernfs_generic_poll: POLLERR and POLLPRI for ever, so the files of a removed
/// cgroup are polled no more. All files that tell of events are alike (cgroup.events here: the
/// controller of memory may be another hierarchy's).
#[test]
fn the_memory_of_a_removed_cgroup_is_watched_no_more() {
    let name = format!("imsup.kernel-suite-{}.unwatched", std::process::id());
    let Some(cgroup) = cgroup(&name) else { return };
    let base = tempfile::tempdir().unwrap();
    let events = base.path().join("memory.events");
    std::os::unix::fs::symlink(cgroup.path().join("cgroup.events"), events).unwrap();
    let mut watch = MemoryWatch::of_version_2(base.path(), 1 << 20).unwrap();
    fs::remove_dir(cgroup.path()).unwrap();
    for _ in 0..2 {
        let (fd, events) = watch.descriptor().unwrap();
        let mut polled = [PollFd::new(fd, events)];
        assert_eq!(poll(&mut polled, PollTimeout::NONE), Ok(1));
        let told = polled[0].revents().unwrap();
        assert!(told.contains(PollFlags::POLLERR | PollFlags::POLLPRI), "{told:?}");
    }
    watch.noticed();
    assert_eq!(watch.killed(Instant::now()), 0);
    assert!(watch.descriptor().is_none());
}

/// A cgroup for the suite, if possible: root can always make a cgroup.
fn cgroup(name: &str) -> Option<Cgroup> {
    match Cgroup::make(name) {
        Ok(cgroup) => Some(cgroup),
        Err(error @ (CgroupError::NotMounted | CgroupError::Make { .. })) => {
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
