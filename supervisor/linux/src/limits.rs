//! Limits of a host: the controllers memory, cpu and pids of cgroups(7), of version 2
//! (Documentation/admin-guide/cgroup-v2.rst) and of version 1
//! (Documentation/admin-guide/cgroup-v1/, Documentation/scheduler/sched-bwc.rst).

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup_paths;
use imsup_wire::Limits;
use nix::errno::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use thiserror::Error;

use super::cgroup::{CgroupError, make_locked, subtree};
use super::memory_watch::MemoryWatch;
use super::pidfd;

/// The period of a quota, in microseconds: docker's, and the kernel's own.
const PERIOD_US: u64 = 100_000;
/// The smallest quota (kernel/sched/core.c, min_cfs_quota_period).
const SMALLEST_QUOTA_US: u64 = 1_000;
/// How long processes that were killed may take to be gone.
const REMOVAL_TIMEOUT: Duration = Duration::from_millis(500);
/// The interval of checks: version 1 has no event for that.
const LOOK: Duration = Duration::from_millis(1);

/// The cgroup below a limited host's, of version 2, that the commands of `imsup exec` are in: the
/// freezer has the program's alone.
const COMMANDS: &str = "commands";
/// The same of the program.
pub const PROGRAM: &str = "program";

/// The limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// `memory_bytes`.
    Memory,
    /// `milli_cpus`.
    Cpu,
    /// `pids`.
    Pids,
}

impl Controller {
    /// The controllers that these limits need.
    pub fn of(limits: &Limits) -> Vec<Self> {
        let wanted = [
            (Self::Memory, limits.memory_bytes),
            (Self::Cpu, limits.milli_cpus),
            (Self::Pids, limits.pids),
        ];
        let wanted = wanted.into_iter().filter(|(_, limit)| limit.is_some());
        wanted.map(|(controller, _)| controller).collect()
    }

    /// The kernel's name of the controller.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A limit that does not hold.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum LimitError {
    /// No cgroup can be made or used.
    #[error("the limit of {controller} does not hold: {source}")]
    Cgroup {
        controller: Controller,
        source: CgroupError,
    },
    /// The file cannot be written.
    #[error("the limit of {controller} does not hold: {}: {source}", .path.display())]
    Write {
        controller: Controller,
        path: PathBuf,
        source: io::Error,
    },
    /// No hierarchy has the controller.
    #[error(
        "the limit of {controller} does not hold: no cgroup of this machine that imsup may use has that controller"
    )]
    NoController { controller: Controller },
    /// A process could not be moved into it.
    #[error("process {pid} cannot be moved into {}: {source}", .path.display())]
    Join { pid: i32, path: PathBuf, source: io::Error },
}

/// A cgroup of version 1, locked like those of version 2 while this value lives.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// True for the host's supervisor: `None` for a command beside the program.
    lock: Option<File>,
}

/// The confinement of a host's processes beside the cgroup of its freezer.
#[derive(Debug, Default)]
pub struct Confined {
    groups: Vec<Group>,
    /// True if the host's cgroup of version 2 is limited: its program and the commands beside it
    /// are in two cgroups below it.
    pub is_unified: bool,
    /// The cgroup in which a command is started.
    commands: Option<File>,
    /// Tells of processes that the kernel kills for want of memory.
    pub memory: Option<MemoryWatch>,
}

impl Confined {
    /// Makes cgroups of this name in the hierarchies of version 1, and limits those, or `unified`,
    /// the host's of version 2. Returns the resources that stay unlimited.
    pub fn make(name: &str, limits: &Limits, unified: Option<&Path>) -> (Self, Vec<LimitError>) {
        let mut confined = Self::default();
        let mut failed = Vec::new();
        for controller in Controller::of(limits) {
            let done = match directory_of(controller) {
                Some(directory) => confined.limit_group(&directory.join(name), controller, limits),
                None => match unified {
                    Some(path) => confined.limit_unified(path, controller, limits),
                    None => Err(LimitError::NoController { controller }),
                },
            };
            failed.extend(done.err());
        }
        (confined, failed)
    }

    fn limit_group(&mut self, path: &Path, controller: Controller, limits: &Limits) -> Result<(), LimitError> {
        if !self.groups.iter().any(|group| group.path == path) {
            let lock = make_locked(path).map_err(|source| LimitError::Cgroup { controller, source })?;
            // Leftovers of a dead supervisor.
            kill_all(path, Instant::now() + REMOVAL_TIMEOUT);
            self.groups.push(Group {
                path: path.to_owned(),
                lock: Some(lock),
            });
        }
        write_all(path, controller, &files_of_version_1(controller, limits))?;
        if let (Controller::Memory, Some(limit)) = (controller, limits.memory_bytes) {
            self.memory = watched(MemoryWatch::of_version_1(path, limit));
        }
        Ok(())
    }

    fn limit_unified(&mut self, path: &Path, controller: Controller, limits: &Limits) -> Result<(), LimitError> {
        let files = files_of_version_2(controller, limits);
        if files
            .iter()
            .any(|file| !file.optional && !path.join(file.name).exists())
        {
            // Not for a cgroup without limits so far: a cgroup with processes returns EBUSY, which
            // `delegation` is for.
            let enable = path.parent().map(|parent| parent.join("cgroup.subtree_control"));
            let enabled = enable.is_some_and(|file| fs::write(file, format!("+{controller}")).is_ok());
            if !enabled {
                return Err(LimitError::NoController { controller });
            }
        }
        write_all(path, controller, &files)?;
        self.is_unified = true;
        if let (Controller::Memory, Some(limit)) = (controller, limits.memory_bytes) {
            self.memory = watched(MemoryWatch::of_version_2(path, limit));
        }
        Ok(())
    }

    /// The confinement of the host of `pid`, whose cgroup has this name, for a command beside its
    /// program.
    pub fn beside(pid: u32, name: &str) -> Self {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut confined = Self::default();
        for controller in cgroup_paths::CONTROLLERS {
            for path in cgroup_paths::of_controller(controller, &own, &mountinfo) {
                if path.file_name().is_some_and(|last| last == name) && path.is_dir() {
                    confined.groups.push(Group { path, lock: None });
                    break;
                }
            }
        }
        let program = cgroup_paths::unified(&own, &mountinfo)
            .into_iter()
            .find(|path| path.is_dir());
        let host = program.as_deref().and_then(Path::parent);
        confined.commands = host
            .filter(|host| host.file_name().is_some_and(|last| last == name))
            .and_then(|host| {
                let path = host.join(COMMANDS);
                // Another command may have made it.
                let _ = fs::create_dir(&path);
                File::open(path).ok()
            });
        confined
    }

    /// The directory of the cgroup in which a command is started, for version 2.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.commands.as_ref().map(File::as_fd)
    }

    /// Moves a process that has not executed its program yet into the cgroups of version 1. A move
    /// costs up to 14 ms (an RCU grace period; kernel/cgroup/cgroup.c, cgroup_attach_lock), which
    /// hosts without limits are spared.
    ///
    /// # Errors
    /// [`LimitError::Join`].
    pub fn join(&self, pid: i32) -> Result<(), LimitError> {
        for Group { path, .. } in &self.groups {
            fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(|source| LimitError::Join {
                pid,
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

/// The host has ended: commands beside its program end as well, and the cgroups are removed.
impl Drop for Confined {
    // Blocking: after the loop, for REMOVAL_TIMEOUT at most.
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        for Group { path, .. } in self.groups.iter().filter(|group| group.lock.is_some()) {
            kill_all(path, deadline);
            // From the bottom up.
            for directory in subtree(path).into_iter().rev() {
                while fs::remove_dir(&directory).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                    && Instant::now() < deadline
                {
                    std::thread::sleep(LOOK);
                }
            }
        }
    }
}

/// Kills the processes in a cgroup of version 1 until none is left, or the time is over.
///
/// Blocking: to the deadline.
fn kill_all(path: &Path, deadline: Instant) {
    loop {
        let pids = processes_in(path);
        if pids.is_empty() || Instant::now() >= deadline {
            return;
        }
        for pid in pids {
            // The number may have passed to another process since it was read; the descriptor is of
            // this process.
            if let Ok(process) = pidfd::open_process(pid)
                && processes_in(path).contains(&pid)
            {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// The processes of a cgroup and those below.
fn processes_in(path: &Path) -> Vec<i32> {
    let lists = subtree(path)
        .into_iter()
        .filter_map(|directory| fs::read_to_string(directory.join("cgroup.procs")).ok());
    // 0 is a process of another pid namespace.
    lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .filter(|pid| *pid > 0)
        .collect()
}

/// A host whose memory cannot be watched has its limit all the same.
fn watched(watch: Result<MemoryWatch, io::Error>) -> Option<MemoryWatch> {
    watch
        .inspect_err(|error| tracing::warn!(%error, "processes that are killed for want of memory will not be told of"))
        .ok()
}

/// The directory of this process's cgroup in the hierarchy of version 1 that has the controller.
pub fn directory_of(controller: Controller) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let found = cgroup_paths::of_controller(controller.name(), &own, &mountinfo);
    found.into_iter().find(|path| path.is_dir())
}

/// A file of a cgroup, and its new content.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    name: &'static str,
    value: String,
    /// Not every kernel has the file (swap is not accounted for), or accepts the value (the parent
    /// has a tighter limit).
    optional: bool,
}

fn setting(name: &'static str, value: impl ToString) -> Setting {
    Setting {
        name,
        value: value.to_string(),
        optional: false,
    }
}

fn optional(name: &'static str, value: impl ToString) -> Setting {
    Setting {
        optional: true,
        ..setting(name, value)
    }
}

/// In the order of writing. As much swap as memory, as docker's default has it; version 1 counts
/// both together.
fn files_of_version_1(controller: Controller, limits: &Limits) -> Vec<Setting> {
    match controller {
        Controller::Memory => limits.memory_bytes.map_or_else(Vec::new, |bytes| {
            let both = bytes.saturating_mul(2);
            vec![
                // A cgroup that was left behind may have less of both than is now to be of memory,
                // which is EINVAL (mm/memcontrol-v1.c, mem_cgroup_resize_max).
                optional("memory.memsw.limit_in_bytes", -1),
                setting("memory.limit_in_bytes", bytes),
                optional("memory.memsw.limit_in_bytes", both),
            ]
        }),
        // EINVAL: the parent has a smaller quota, which holds (kernel/sched/core.c,
        // tg_cfs_schedulable_down).
        Controller::Cpu => limits.milli_cpus.map_or_else(Vec::new, |milli| {
            vec![
                setting("cpu.cfs_period_us", PERIOD_US),
                optional("cpu.cfs_quota_us", quota_us(milli)),
            ]
        }),
        Controller::Pids => limits
            .pids
            .map_or_else(Vec::new, |pids| vec![setting("pids.max", pids)]),
    }
}

fn files_of_version_2(controller: Controller, limits: &Limits) -> Vec<Setting> {
    match controller {
        Controller::Memory => limits.memory_bytes.map_or_else(Vec::new, |bytes| {
            vec![setting("memory.max", bytes), optional("memory.swap.max", bytes)]
        }),
        Controller::Cpu => limits.milli_cpus.map_or_else(Vec::new, |milli| {
            vec![setting("cpu.max", format!("{} {PERIOD_US}", quota_us(milli)))]
        }),
        Controller::Pids => limits
            .pids
            .map_or_else(Vec::new, |pids| vec![setting("pids.max", pids)]),
    }
}

fn quota_us(milli_cpus: u64) -> u64 {
    (milli_cpus.saturating_mul(PERIOD_US) / 1000).max(SMALLEST_QUOTA_US)
}

fn write_all(path: &Path, controller: Controller, settings: &[Setting]) -> Result<(), LimitError> {
    for Setting { name, value, optional } in settings {
        let path = path.join(name);
        // Not `fs::write`, which would create a missing file in a directory that is no cgroup.
        let written = File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        match written {
            Err(source) if !*optional || !is_excused(&source) => {
                return Err(LimitError::Write {
                    controller,
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_excused(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limits = Limits {
        memory_bytes: Some(64 << 20),
        milli_cpus: Some(1_500),
        pids: Some(100),
    };

    fn written(settings: &[Setting]) -> Vec<(&str, &str)> {
        let pairs = settings.iter().map(|setting| (setting.name, setting.value.as_str()));
        pairs.collect()
    }

    #[test]
    fn limits_are_written_as_docker_does() {
        let v1 = |controller| files_of_version_1(controller, &ALL);
        let v2 = |controller| files_of_version_2(controller, &ALL);
        let memory = v1(Controller::Memory);
        let expected = [
            ("memory.memsw.limit_in_bytes", "-1"),
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "134217728"),
        ];
        assert_eq!(written(&memory), expected);
        let cpu = v1(Controller::Cpu);
        assert_eq!(
            written(&cpu),
            [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "150000")]
        );
        assert_eq!(written(&v1(Controller::Pids)), [("pids.max", "100")]);
        let memory = v2(Controller::Memory);
        assert_eq!(
            written(&memory),
            [("memory.max", "67108864"), ("memory.swap.max", "67108864")]
        );
        assert_eq!(written(&v2(Controller::Cpu)), [("cpu.max", "150000 100000")]);
        assert_eq!(written(&v2(Controller::Pids)), [("pids.max", "100")]);
        assert_eq!(quota_us(1), SMALLEST_QUOTA_US);
        assert_eq!(Controller::of(&Limits::default()), []);
    }

    #[test]
    fn what_a_kernel_lacks_of_swap_does_no_harm_and_of_memory_does() {
        let directory = tempfile::tempdir().unwrap();
        let settings = files_of_version_2(Controller::Memory, &ALL);
        let missing = write_all(directory.path(), Controller::Memory, &settings);
        assert!(matches!(missing, Err(LimitError::Write { .. })), "{missing:?}");
        fs::write(directory.path().join("memory.max"), "max").unwrap();
        write_all(directory.path(), Controller::Memory, &settings).unwrap();
        assert_eq!(
            fs::read_to_string(directory.path().join("memory.max")).unwrap(),
            "67108864"
        );
        assert!(!directory.path().join("memory.swap.max").exists());
    }
}
