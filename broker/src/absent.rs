//! A project whose broker was killed: the survivors, and how to take the project away.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imsup_wire::Index;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Signal, pidfd_send_signal};

use crate::files;
use crate::launcher::{self, HostProcesses, Pids, cgroups};
use crate::paths::Paths;
use crate::routes::{self, RouteError};
use crate::shared_networks;

/// The time for supervisors to end programs.
const GRACE: Duration = Duration::from_secs(12);
/// How long killed processes may take to be gone.
const LAST: Duration = Duration::from_secs(5);

/// The reasons why the rest of a project could not be taken away.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum AbsentError {
    /// There is a broker.
    #[error("project '{0}' has a broker after all: ask it (`imsup down`)")]
    HasBroker(String),
    /// A host's supervisor survived.
    #[error("the supervisor of host '{host}' (pid {pid}) could not be ended; end it and repeat `imsup down`")]
    Survived { host: String, pid: u32 },
    /// Leftovers of dead supervisors survived.
    #[error("processes that killed supervisors left could not be ended; `imsup down` tries again")]
    Left,
    /// The keeper survived.
    #[error("the project's keeper could not be ended; end the process that holds {} with flock and repeat `imsup down`", .0.display())]
    Keeper(PathBuf),
    /// A route is left.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Files could not be removed, or be believed.
    #[error("what the project left in {path} could not be removed: {source}")]
    Files {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
}

/// A host whose supervisor lives.
#[derive(Debug)]
pub(crate) struct Adoptable {
    /// Its name.
    pub(crate) host: String,
    /// The supervisor, if the kernel reports its number.
    pub(crate) pid: Option<u32>,
    /// The boot's token, if a broker launched the supervisor.
    pub(crate) boot: Option<u64>,
    /// Its address.
    pub(crate) index: Option<Index>,
}

/// The hosts with living supervisors, according to the files locked by these with flock(2).
pub(crate) fn adoptable(paths: &Paths) -> Vec<Adoptable> {
    let Ok(entries) = fs::read_dir(paths.running("")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| is_locked(&entry.path()))
        .filter_map(|entry| {
            Some(Adoptable {
                host: entry.file_name().into_string().ok()?,
                pid: holder(&entry.path()),
                boot: token_in(&entry.path()),
                index: index_in(&entry.path()),
            })
        })
        .collect()
}

/// The process that has locked a file or directory with flock(2), according to the kernel
/// (proc_locks(5)): a number in the file may be of another pid namespace, or of a process that has
/// ended.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    // Empty for a directory.
    let text = fs::read_to_string(path).unwrap_or_default();
    let written = text.lines().next().and_then(|line| line.trim().parse().ok());
    holder_of(metadata.dev(), metadata.ino(), written)
}

/// The process that has locked a file with flock(2), even if the file has no path; `written` is the
/// holder according to the file, if known.
pub(crate) fn holder_of(device: u64, inode: u64, written: Option<u32>) -> Option<u32> {
    holder_in(&fs::read_to_string("/proc/locks").ok()?, device, inode, written)
}

/// The processes that hold any file with flock.
pub(crate) fn holders() -> BTreeSet<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().filter_map(lock_in).map(|(pid, _)| pid).collect()
}

fn holder_in(locks: &str, device: u64, inode: u64, written: Option<u32>) -> Option<u32> {
    let device = format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().filter_map(lock_in).find_map(|(pid, file)| {
        let (on, number) = file.rsplit_once(':')?;
        // btrfs and overlayfs have devices that differ from stat(2); then the number must be the
        // number written in the file.
        let same = number.parse() == Ok(inode) && (on == device || written == Some(pid));
        same.then_some(pid)
    })
}

/// The process that holds an exclusive lock of flock, and the locked file, in a line of
/// proc_locks(5): `1: FLOCK ADVISORY WRITE 18435 fe:00:10698913 0 EOF`.
fn lock_in(line: &str) -> Option<(u32, &str)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (kind, _, mode) = (fields.next()?, fields.next()?, fields.next()?);
    let (pid, file) = (fields.next()?.parse().ok()?, fields.next()?);
    (kind == "FLOCK" && mode == "WRITE" && pid != 0).then_some((pid, file))
}

pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
    locked == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Whether a broker of the project lives.
pub fn has_broker(paths: &Paths) -> bool {
    is_locked(&paths.lock())
}

/// Takes away the rest of a killed broker: live hosts, their processes, and the project's files.
/// Does nothing if there is no rest. Returns the hosts that were ended.
///
/// # Errors
/// [`AbsentError`].
pub fn down_without_broker(project: &str, paths: &Paths) -> Result<Vec<String>, AbsentError> {
    // Under /tmp any user may have made the directories, and would choose here the processes to be
    // ended.
    for directory in [paths.runtime(), paths.state()] {
        files::check_private_directory(directory).map_err(|source| AbsentError::Files {
            path: directory.to_owned(),
            source,
        })?;
    }
    if has_broker(paths) {
        return Err(AbsentError::HasBroker(project.to_owned()));
    }
    end_keeper(paths)?;
    // The keeper may just have started a broker.
    if has_broker(paths) {
        return Err(AbsentError::HasBroker(project.to_owned()));
    }
    let ended = end_adoptable(paths)?;
    end_cgroups(project, paths);
    if !end_left(paths) {
        return Err(AbsentError::Left);
    }
    routes::release(paths)?;
    remove_files(paths)?;
    Ok(ended)
}

/// Ends a keeper whose next broker has not come: the keeper would make another.
fn end_keeper(paths: &Paths) -> Result<(), AbsentError> {
    let path = paths.keeper();
    let survived = || AbsentError::Keeper(path.clone());
    while is_locked(&path) {
        let Some(pid) = holder(&path) else {
            return Err(survived());
        };
        let Some(process) = launcher::open(pid) else { continue };
        // The number is still the holder's, now that the process is pinned.
        if holder(&path) != Some(pid) {
            continue;
        }
        let _ = pidfd_send_signal(&process, Signal::KILL);
        if !gone_by(&process, Instant::now() + LAST) {
            return Err(survived());
        }
    }
    Ok(())
}

/// Records the directories in which the project's supervisors make cgroups, so that leftovers are
/// found after the death of the supervisors and this broker.
pub(crate) fn note_cgroups(paths: &Paths, directories: &[PathBuf]) {
    let path = paths.cgroups();
    let mut known = fs::read_to_string(&path).unwrap_or_default();
    let before = known.len();
    for directory in directories.iter().filter_map(|directory| directory.to_str()) {
        if !known.lines().any(|line| line == directory) {
            known.extend([directory, "\n"]);
        }
    }
    if known.len() > before
        && let Err(error) = files::replace(&path, known.as_bytes())
    {
        tracing::warn!(%error, "cgroups that killed supervisors leave will not be found by the next broker");
    }
}

/// Ends leftovers in the cgroups of dead supervisors, frozen or not.
pub(crate) fn end_cgroups(project: &str, paths: &Paths) {
    let known = fs::read_to_string(paths.cgroups()).unwrap_or_default();
    for directory in known.lines() {
        if !cgroups::end_all(Path::new(directory), project) {
            tracing::warn!(
                directory,
                "processes of the project in a cgroup below this one could not be ended"
            );
        }
    }
}

/// Ends leftovers of killed supervisors outside of cgroups, by the boots' tokens: each supervisor
/// had written the token into the running file, which is no longer locked. All tokens at once,
/// since the environments of all processes are read. False if a process survived.
pub(crate) fn end_left(paths: &Paths) -> bool {
    let entries = fs::read_dir(paths.running("")).into_iter().flatten().flatten();
    let boots: Vec<u64> = entries.filter_map(|entry| token_left(&entry.path())).collect();
    boots.is_empty()
        || launcher::clear_alone(&HostProcesses {
            boots,
            pids: Pids::default(),
        })
}

/// The token in a file of a supervisor that was killed.
fn token_left(path: &Path) -> Option<u64> {
    // Read before the check: a supervisor that takes the lock meanwhile replaces the token.
    let token = token_in(path)?;
    (!is_locked(path)).then_some(token)
}

/// The token that a launched supervisor has written into its file.
fn token_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.lines().nth(1)?.parse().ok()
}

fn index_in(path: &Path) -> Option<Index> {
    Index::new(fs::read_to_string(path).ok()?.lines().nth(2)?.parse().ok()?)
}

/// Ends the supervisors that hold a host's file, and all processes below.
pub(crate) fn end_adoptable(paths: &Paths) -> Result<Vec<String>, AbsentError> {
    let mut ended = Vec::new();
    let mut live = Vec::new();
    for Adoptable { host, pid, boot, .. } in adoptable(paths) {
        let Some(pid) = pid else { continue };
        let Some(process) = launcher::open(pid) else { continue };
        // The number is still the holder's, now that the process is pinned.
        if holder(&paths.running(&host)) != Some(pid) {
            continue;
        }
        let mut children = launcher::children_of(pid).into_iter();
        let tree = HostProcesses {
            boots: boot.into_iter().collect(),
            pids: Pids {
                // A supervisor started by a user may lead a session with processes of others.
                supervisor: boot.map(|_| pid),
                program: children.find(|child| boot.is_some() && launcher::leads_session(*child, pid)),
                ..Pids::default()
            },
        };
        let _ = pidfd_send_signal(&process, Signal::TERM);
        live.push((host, pid, process, tree));
    }
    let deadline = Instant::now() + GRACE;
    for (host, pid, process, tree) in live {
        if !gone_by(&process, deadline) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
        if !gone_by(&process, Instant::now() + LAST) || !launcher::clear_alone(&tree) {
            return Err(AbsentError::Survived { host, pid });
        }
        ended.push(host);
    }
    Ok(ended)
}

/// Removes the project's files, except files kept across `down`. The lock is removed last: a
/// process that makes the lock anew begins without old files, and the new files are not removed.
///
/// # Errors
/// [`AbsentError::Files`].
pub(crate) fn remove_files(paths: &Paths) -> Result<(), AbsentError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| AbsentError::Files { path, source }
    };
    files::remove_tree(paths.state()).map_err(failed(paths.state()))?;
    shared_networks::leave(paths).map_err(failed(&paths.networks()))?;
    let runtime = paths.runtime();
    for entry in fs::read_dir(runtime).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            _ if path == paths.lock() => Ok(()),
            Ok(kind) if kind.is_dir() => files::remove_tree(&path),
            _ => files::remove(&path),
        };
        removed.map_err(failed(&path))?;
    }
    files::remove(&paths.lock()).map_err(failed(&paths.lock()))?;
    match fs::remove_dir(runtime) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(failed(runtime)(error))
        }
        _ => Ok(()),
    }
}

/// Whether the process has ended by then.
///
/// Blocking: a command that takes away what a killed broker left, or a broker before and after its
/// loop.
fn gone_by(process: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_holder_is_who_the_kernel_says() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fe:01:7 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:2a:7 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 13 fe:01:7 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 14 fe:01:7 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 15 fe:01:7 0 EOF\n";
        let device = rustix::fs::makedev(0xfe, 1);
        assert_eq!(holder_in(locks, device, 7, None), Some(14));
        assert_eq!(holder_in(locks, device, 8, Some(14)), None);
        let unknown = rustix::fs::makedev(0, 0x99);
        assert_eq!(holder_in(locks, unknown, 7, Some(12)), Some(12));
        assert_eq!(holder_in(locks, unknown, 7, Some(1)), None);
    }

    #[test]
    fn what_others_may_have_left_ends_nothing() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().to_owned();
        let paths = Paths::new("shop", 0, |_| Some(directory.clone()), |_| true);
        fs::create_dir(paths.runtime()).unwrap();
        fs::set_permissions(paths.runtime(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = down_without_broker("shop", &paths);
        assert!(matches!(refused, Err(AbsentError::Files { .. })), "{refused:?}");
        assert!(paths.runtime().exists());
        fs::set_permissions(paths.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
        down_without_broker("shop", &paths).unwrap();
        assert!(!paths.runtime().exists());
    }
}
