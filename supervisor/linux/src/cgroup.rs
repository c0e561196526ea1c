//! The freezer of one host: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::cgroup_paths;
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use thiserror::Error;

/// The time that killed leftovers of a dead supervisor may take to end.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// The time for which a cgroup whose last process has just ended may return EBUSY.
const REMOVAL_TIMEOUT: Duration = Duration::from_millis(200);

/// How long cgroup.events is read again and again, letting others run in between. The kernel
/// notifies at most once in 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV, kernel/cgroup/cgroup.c), and a
/// freeze that follows a thaw would wait that long; five threads are frozen within 60 us, and the
/// shortest wait with a time limit takes twice that.
const BUSY_WAIT: Duration = Duration::from_micros(300);

/// The first interval between later reads.
const FIRST_LOOK: Duration = Duration::from_micros(50);

/// How seldom cgroup.events is read in the end.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Why no cgroup could be made or used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum CgroupError {
    /// No cgroup2 file system is mounted that shows this process's own cgroup.
    #[error("no cgroup v2 hierarchy is mounted that contains this process; mount one at /sys/fs/cgroup")]
    NotMounted,
    /// Not wanted: the kernel does not duplicate the program's descriptors, and a frozen thread
    /// cannot hand descriptors over.
    #[error(
        "a frozen thread could not hand over its descriptors, which the kernel does not duplicate here (pidfd_getfd(2))"
    )]
    Unwanted,
    /// The directory could not be made.
    #[error("cgroup {} cannot be made ({source}); it needs a writable cgroup v2, as root or delegated (systemd: Delegate=yes)", .path.display())]
    Make { path: PathBuf, source: io::Error },
    /// The cgroup was made, and has no freezer (Linux 5.2) or cannot be used.
    #[error("cgroup {} cannot be used ({source}); its freezer needs Linux 5.2 and a writable cgroup v2", .path.display())]
    Use { path: PathBuf, source: io::Error },
    /// Another live supervisor has the cgroup.
    #[error("cgroup {} belongs to another supervisor that is alive", .path.display())]
    InUse { path: PathBuf },
    /// Processes left by a dead supervisor do not end.
    #[error("cgroup {} still has processes that do not end; look for them with: cat {}/cgroup.procs", .path.display(), .path.display())]
    Occupied { path: PathBuf },
    /// The cgroup was made, and has been removed since.
    #[error("cgroup {} was removed, after its processes had been moved to another one", .path.display())]
    Removed { path: PathBuf },
    /// A process cannot be moved into the cgroup.
    #[error("process {pid} cannot be moved into cgroup {} ({source}); both cgroups must be writable and of one subtree", .path.display())]
    Move { pid: i32, path: PathBuf, source: io::Error },
}

/// Why a cgroup could not be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FreezeError {
    /// A process did not stop in time: it is in uninterruptible sleep (state D), or waits for an
    /// answer to a trapped call.
    #[error("the freezer did not answer in time: a process is in uninterruptible sleep (state D in ps)")]
    TimedOut,
    /// The kernel refused.
    #[error("the cgroup cannot be frozen ({})", .0.desc())]
    Refused(Errno),
}

/// A cgroup of ours, with the processes of one host.
///
/// Locked (flock(2)) while this value lives. The lock tells the cgroup of a dead supervisor from a
/// cgroup in use: clusters of the same name in two runtime directories have the same cgroup names.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// cgroup.events.
    events: File,
    /// cgroup.freeze.
    freezer: File,
    _lock: File,
}

impl Cgroup {
    /// Makes cgroup `name` below the cgroup of this process.
    ///
    /// The cgroup of a dead supervisor is taken over, after killing the processes and thawing.
    ///
    /// # Errors
    /// Any [`CgroupError`] but `Move`.
    pub fn make(name: &str) -> Result<Self, CgroupError> {
        Self::make_at(own_directory()?.join(name))
    }

    /// The same, in this place.
    ///
    /// # Errors
    /// As [`Cgroup::make`].
    pub fn make_at(path: PathBuf) -> Result<Self, CgroupError> {
        let lock = make_locked(&path)?;
        let open = |file: &str, write: bool| {
            let path = path.join(file);
            let opened = OpenOptions::new().read(!write).write(write).open(&path);
            opened.map_err(|source| CgroupError::Use { path, source })
        };
        let cgroup = Self {
            events: open("cgroup.events", false)?,
            freezer: open("cgroup.freeze", true)?,
            path: path.clone(),
            _lock: lock,
        };
        cgroup.clear()?;
        Ok(cgroup)
    }

    /// True if the cgroup has been removed (rmdir(2)), which the kernel allows once it has no
    /// processes. Its open files return ENODEV from then on (fs/kernfs/file.c, kernfs_get_active;
    /// pinned in supervisor/linux/tests/kernel/freezer.rs), even if another cgroup is made at the
    /// same path.
    pub fn is_removed(&self) -> bool {
        let read = self.events.read_at(&mut [0], 0);
        read.is_err_and(|error| errno_of(&error) == Errno::ENODEV)
    }

    /// The location.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, to start a process inside the cgroup (clone3(2), CLONE_INTO_CGROUP).
    pub fn directory(&self) -> BorrowedFd<'_> {
        self._lock.as_fd()
    }

    /// The CPU time of all processes that ever ran in the cgroup (cpu.stat, which exists without
    /// the cpu controller as well).
    pub fn cpu(&self) -> Option<Duration> {
        let text = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        Some(Duration::from_micros(micros.parse().ok()?))
    }

    /// The id, by which the kernel knows a socket's cgroup, and the ids of cgroups below: the inode
    /// numbers (include/linux/kernfs.h, kernfs_id).
    pub fn ids(&self) -> Vec<u64> {
        let directories = subtree(&self.path).into_iter();
        directories
            .filter_map(|path| Some(fs::metadata(path).ok()?.ino()))
            .collect()
    }

    /// Kills the remaining processes and thaws the cgroup.
    fn clear(&self) -> Result<(), CgroupError> {
        let using = |source: io::Error| CgroupError::Use {
            path: self.path.clone(),
            source,
        };
        if self.says("populated 1") {
            // Kills frozen processes, too, and processes that fork meanwhile (5.14).
            fs::write(self.path.join("cgroup.kill"), "1").map_err(using)?;
        }
        self.thaw().map_err(|errno| using(errno.into()))?;
        if self.wait_for("populated 0", TAKE_OVER_TIMEOUT) {
            Ok(())
        } else {
            Err(CgroupError::Occupied {
                path: self.path.clone(),
            })
        }
    }

    /// Moves a process with all its threads; its later children are in the cgroup as well. The
    /// kernel first waits for an RCU grace period (cgroup_attach_lock; 4-14 ms measured), so a
    /// program is better started there: [`Cgroup::directory`].
    ///
    /// # Errors
    /// [`CgroupError::Move`]: ESRCH if the process is gone, EACCES or EPERM if it may not be moved.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).map_err(|source| CgroupError::Move {
            pid,
            path: self.path.clone(),
            source,
        })
    }

    /// The processes of the cgroup and of cgroups below. Zombies are not included.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for directory in subtree(&self.path) {
            let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            // 0 is a process of another pid namespace.
            found.extend(
                list.lines()
                    .filter_map(|pid| pid.parse::<i32>().ok())
                    .filter(|pid| *pid != 0),
            );
        }
        found
    }

    /// Freezes the cgroup, and returns when every process is frozen.
    ///
    /// # Errors
    /// [`FreezeError::TimedOut`] after `timeout`. The cgroup is to be thawed then, after the
    /// decision how the interrupted calls go on.
    pub fn freeze(&self, timeout: Duration) -> Result<(), FreezeError> {
        self.set_frozen(true).map_err(FreezeError::Refused)?;
        if self.wait_frozen(timeout) {
            return Ok(());
        }
        Err(FreezeError::TimedOut)
    }

    /// Waits until the cgroup is frozen, for example after stopped threads were released; true if
    /// frozen.
    pub fn wait_frozen(&self, timeout: Duration) -> bool {
        self.wait_for("frozen 1", timeout)
    }

    /// Thaws the cgroup.
    ///
    /// # Errors
    /// Errors of write(2); ENODEV if the cgroup has been removed.
    pub fn thaw(&self) -> Result<(), Errno> {
        self.set_frozen(false)
    }

    /// Ends the processes, frozen or not (Linux 5.14).
    pub fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Removes the cgroup and all children. The processes have ended; the exit of the last process
    /// is waited for.
    pub fn remove(self) {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        // From the bottom up.
        for directory in subtree(&self.path).into_iter().rev() {
            while fs::remove_dir(&directory).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && Instant::now() < deadline
            {
                self.wait_for("populated 0", LAST_LOOK);
                std::thread::yield_now();
            }
        }
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), Errno> {
        let value: &[u8] = if frozen { b"1" } else { b"0" };
        let written = self.freezer.write_at(value, 0);
        written.map(drop).map_err(|error| errno_of(&error))
    }

    fn says(&self, line: &str) -> bool {
        let mut text = [0; 128];
        let count = self.events.read_at(&mut text, 0).unwrap_or(0);
        text[..count]
            .split(|byte| *byte == b'\n')
            .any(|have| have == line.as_bytes())
    }

    /// Waits until cgroup.events has `line`; true if found.
    ///
    /// Blocking: for `timeout` at most. The loop cannot answer the calls of a host that is being
    /// frozen.
    fn wait_for(&self, line: &str, timeout: Duration) -> bool {
        let began = Instant::now();
        let deadline = began + timeout;
        let mut look = FIRST_LOOK;
        loop {
            if self.says(line) {
                return true;
            }
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            if now.duration_since(began) < BUSY_WAIT {
                std::thread::yield_now();
                continue;
            }
            let mut polled = [PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::PRI)];
            let timeout = Timespec::try_from(left.min(look)).ok();
            let _ = rustix::event::poll(&mut polled, timeout.as_ref());
            look = (look * 2).min(LAST_LOOK);
        }
    }
}

/// Makes the directory and takes the directory's lock.
pub(super) fn make_locked(path: &Path) -> Result<File, CgroupError> {
    let making = |source| CgroupError::Make {
        path: path.to_owned(),
        source,
    };
    loop {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(making(error)),
            _ => {}
        }
        let directory = match File::open(path) {
            // Removed by the owner.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(making)?,
        };
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(CgroupError::InUse { path: path.to_owned() }),
            result => result.map_err(|errno| making(errno.into()))?,
        }
        // The directory may have been removed, and made again by another process, before it was
        // locked.
        let still = fs::metadata(path).is_ok_and(|now| directory.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
        if still {
            return Ok(directory);
        }
    }
}

/// A cgroup's directory and all below, each after its children.
pub(super) fn subtree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        // Each directory below adds a link, and mostly there is none: the many files need not be
        // read.
        let is_leaf = fs::metadata(directory).is_ok_and(|metadata| metadata.nlink() <= 2);
        let entries = (!is_leaf)
            .then(|| fs::read_dir(directory))
            .into_iter()
            .flatten()
            .flatten()
            .flatten();
        let below: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// The directory below which this process makes cgroups: that of its own cgroup when it, or its
/// zygote, first asked (mountinfo takes the kernel 100 us), or the parent of a leaf of brokers and
/// supervisors.
pub fn own_directory() -> Result<PathBuf, CgroupError> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let directory = find_own_directory()?;
    Ok(FOUND.get_or_init(|| directory).clone())
}

fn find_own_directory() -> Result<PathBuf, CgroupError> {
    let read = |path: &str| fs::read_to_string(path).map_err(|_| CgroupError::NotMounted);
    let found = cgroup_paths::unified(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let mut bases = found.iter().map(|path| cgroup_paths::base(path));
    let there = bases.find(|path| path.is_dir()).map(Path::to_owned);
    there.ok_or(CgroupError::NotMounted)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
