//! Notices the removal of the project's files while the project is up (a cleaner of /tmp, a logout,
//! a person): inotify(7) on the project's directories and all directories above, and the table of
//! mounts.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::paths::Paths;
use crate::tokens::Source;

/// The suffix of files between two steps of `files::replace`.
const UNDER_WAY: &[u8] = b".new";

/// Noticed changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Perhaps any of the project's files.
    pub(crate) files: bool,
    /// Files of `running/` that were removed, by name. Each host that ends removes its own.
    pub(crate) running: Vec<String>,
}

/// The watch on the project's files.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: Inotify,
    /// The watches, with true for `running/`.
    watched: HashMap<WatchDescriptor, bool>,
    /// /proc/self/mountinfo, whose poll tells of mounts: a directory that is unmounted or mounted over, as `$XDG_RUNTIME_DIR` is at a logout, is not
    /// removed. None if there is no /proc.
    mounts: Option<File>,
}

impl Watch {
    /// Watches the files of a project that are there by now.
    ///
    /// # Errors
    /// inotify(7), epoll_ctl(2).
    pub(crate) fn start(paths: &Paths, registry: &Registry) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let descriptor = inotify.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), Source::Files(0).into(), Interest::READABLE)?;
        let mounts = File::open("/proc/self/mountinfo").ok();
        if let Some(mounts) = &mounts {
            registry.register(
                &mut SourceFd(&mounts.as_raw_fd()),
                Source::Files(1).into(),
                Interest::PRIORITY,
            )?;
        }
        let mut watch = Self {
            inotify,
            watched: HashMap::new(),
            mounts,
        };
        watch.renew(paths);
        Ok(watch)
    }

    /// Watches the present directories in place of the former directories. A directory that cannot
    /// be watched is left out: the others are independent.
    pub(crate) fn renew(&mut self, paths: &Paths) {
        let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR;
        let removed = gone | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        let running = paths.running("");
        let own = [paths.runtime(), &running, paths.state()];
        let above = own.iter().flat_map(|path| path.ancestors().skip(1));
        // Only the end of directories above matters: in /tmp files come and go all the time. The
        // project's own directories come last, so that the project's mask replaces the other mask.
        let all = above.map(|path| (path, gone)).chain(own.map(|path| (path, removed)));
        let mut watched = HashMap::new();
        for (path, mask) in all {
            if let Ok(descriptor) = self.inotify.add_watch(path, mask) {
                watched.insert(descriptor, path == running);
            }
        }
        for old in self.watched.keys().filter(|old| !watched.contains_key(old)) {
            // The kernel has removed the watch itself if the directory is gone.
            let _ = self.inotify.rm_watch(*old);
        }
        self.watched = watched;
    }

    /// The changes since the last call. To be called when any of the tokens is ready.
    pub(crate) fn take(&mut self, number: u32) -> Changes {
        let mut changes = Changes {
            files: number == 1 && self.mounts.is_some(),
            ..Changes::default()
        };
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.is_empty() => return changes,
                Ok(events) => {
                    for event in events {
                        self.note(event.wd, event.name.as_deref(), event.mask, &mut changes);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return changes,
            }
        }
    }

    fn note(&self, of: WatchDescriptor, name: Option<&OsStr>, mask: AddWatchFlags, changes: &mut Changes) {
        let is_running = self.watched.get(&of).copied();
        match (is_running, name) {
            (Some(true), Some(name)) => changes.running.extend(name.to_str().map(str::to_owned)),
            // Of a directory that is watched no more, or that a watch has ended.
            (None, _) if !mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => {}
            (_, Some(name)) if name.as_bytes().ends_with(UNDER_WAY) => {}
            _ => changes.files = true,
        }
    }
}

/// True if the file at this path is the open file.
pub(crate) fn is_at(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(there), Ok(ours)) = (std::fs::symlink_metadata(path), file.metadata()) else {
        return false;
    };
    (there.dev(), there.ino()) == (ours.dev(), ours.ino())
}

/// The directories of the project's own files, all of which must exist.
pub(crate) fn directories(paths: &Paths) -> [PathBuf; 4] {
    let logs = paths
        .log("x")
        .parent()
        .map_or_else(|| paths.state().to_owned(), Path::to_owned);
    [
        paths.runtime().to_owned(),
        paths.running(""),
        paths.state().to_owned(),
        logs,
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mio::{Events, Poll};

    use super::*;

    struct Watched {
        base: tempfile::TempDir,
        paths: Paths,
        poll: Poll,
        watch: Watch,
    }

    impl Watched {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let variable = |name: &str| match name {
                "IMSUP_RUNTIME_DIR" => Some(base.path().join("run/here")),
                _ => Some(base.path().join("state")),
            };
            let paths = Paths::new("shop", 0, variable, |_| true);
            for directory in directories(&paths) {
                fs::create_dir_all(directory).unwrap();
            }
            let poll = Poll::new().unwrap();
            let watch = Watch::start(&paths, poll.registry()).unwrap();
            Self {
                base,
                paths,
                poll,
                watch,
            }
        }

        /// The next reported changes.
        fn next(&mut self) -> Changes {
            let mut events = Events::with_capacity(8);
            loop {
                self.poll
                    .poll(&mut events, Some(std::time::Duration::from_secs(60)))
                    .unwrap();
                assert!(!events.is_empty(), "nothing was told");
                // Other tests may mount.
                if events
                    .iter()
                    .any(|event| Source::of(event.token()) == Some(Source::Files(0)))
                {
                    return self.watch.take(0);
                }
            }
        }
    }

    fn files() -> Changes {
        Changes {
            files: true,
            running: Vec::new(),
        }
    }

    #[test]
    fn what_is_removed_or_moved_is_told_and_what_is_replaced_is_not() {
        let mut watched = Watched::new();
        let paths = watched.paths.clone();
        crate::files::replace(&paths.hosts(), b"x").unwrap();
        fs::write(paths.running("web"), "").unwrap();
        fs::remove_file(paths.running("web")).unwrap();
        let ended = Changes {
            files: false,
            running: vec!["web".to_owned()],
        };
        assert_eq!(watched.next(), ended, "not the file that was replaced");
        fs::remove_file(paths.hosts()).unwrap();
        assert_eq!(watched.next(), files());
        fs::remove_dir_all(paths.runtime()).unwrap();
        assert!(watched.next().files);
        fs::create_dir_all(paths.running("")).unwrap();
        watched.watch.renew(&paths);
        watched.watch.take(0);
        fs::rename(watched.base.path().join("run"), watched.base.path().join("away")).unwrap();
        assert_eq!(watched.next(), files(), "a directory above it");
        watched.watch.renew(&paths);
        fs::remove_dir_all(paths.state()).unwrap();
        assert!(watched.next().files);
    }
}
