//! Ending the leftovers of a dead supervisor.
//!
//! A living supervisor ends the program itself. The processes left by a killed supervisor are
//! recognized by any of: the boot's token in the environment, the session or cgroup made by the
//! supervisor, or being orphaned to this process, the subreaper. SIGKILL also ends processes that
//! were frozen or stopped (ptrace(2)) for a sleep. The parent of this process may have left
//! children here as well (`sh -c 'agent & exec imsup up'`), which are not leftovers.
//!
//! Blocking: a thread of its own for each dead supervisor, without the lock that the loop takes; a
//! command; or before and after the loop.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use imsup_protocol::zygote::BOOT_VARIABLE;
use imsup_wire::ExitStatus;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, pidfd_send_signal};

use super::child::open;
use super::zygote::Reply;
use super::{Pids, cgroups};

/// How often the tree is looked through: a process may fork between being seen and being killed.
const MAX_ROUNDS: usize = 100;
/// The time that a round waits for killed processes.
const ROUND: Duration = Duration::from_millis(500);

/// How the processes of a host, or of several, are recognized.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostProcesses {
    /// The boots' tokens.
    pub(crate) boots: Vec<u64>,
    /// Known processes, whose sessions are the host's own.
    pub(crate) pids: Pids,
}

/// A process according to /proc.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    session: u32,
    dead: bool,
    started: u64,
}

/// The children of this process that are not orphans.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children {
    /// Children started by this process.
    pub(crate) supervisors: HashSet<u32>,
    /// Children from before the start.
    pub(crate) inherited: HashSet<u32>,
    /// How many supervisors the zygote was asked for and has not told of.
    pub(crate) asked: usize,
    /// Children that were reaped meanwhile, perhaps including a requested supervisor.
    pub(crate) early: HashMap<u32, ExitStatus>,
    /// Walks over /proc that are under way.
    walks: usize,
    /// Children that were reaped during these: what a walk has seen of them is no leftover.
    reaped: HashSet<u32>,
}

impl Children {
    /// Those that this process has already.
    pub(crate) fn of_this_process() -> Self {
        Self {
            inherited: children_of(std::process::id()).into_iter().collect(),
            ..Self::default()
        }
    }

    fn has(&self, pid: u32) -> bool {
        self.supervisors.contains(&pid) || self.inherited.contains(&pid) || self.reaped.contains(&pid)
    }

    /// A child was reaped; true if it was a supervisor.
    pub(crate) fn reap(&mut self, pid: u32) -> bool {
        if self.walks > 0 {
            self.reaped.insert(pid);
        }
        self.inherited.remove(&pid);
        self.supervisors.remove(&pid)
    }

    /// The zygote has replied. The status of the child that it has made, if that has ended already.
    pub(crate) fn heard(&mut self, reply: Reply) -> Option<ExitStatus> {
        if matches!(reply, Reply::Late) {
            // It may come still: it is one of those that may have been made.
            return None;
        }
        self.asked = self.asked.saturating_sub(1);
        let Reply::Made(pid) = reply else { return None };
        let status = self.early.remove(&pid);
        if status.is_none() {
            self.supervisors.insert(pid);
        }
        status
    }

    /// The processes that a walk over /proc finds, and the children that this process had during
    /// the walk.
    ///
    /// The loop takes the lock for each child that it makes or reaps, so the walk is without it.
    /// The lock is held while a child is made: whatever the walk has seen is known by the time that
    /// the lock is free.
    fn during<T>(children: &Mutex<Self>, walk: impl FnOnce() -> T) -> (T, Self) {
        children.lock().walks += 1;
        let found = walk();
        let mut children = children.lock();
        let known = children.clone();
        children.walks -= 1;
        if children.walks == 0 {
            children.reaped.clear();
        }
        (found, known)
    }

    /// True if a child was orphaned by a supervisor. A host's processes are never of this process's
    /// session or of an older session: a session cannot be joined (setsid(2)).
    fn is_orphan(&self, process: &Process, own: &Process) -> bool {
        // The first process of a container inherits the orphans of all processes.
        own.pid != 1
            && process.parent == own.pid
            && process.session != own.session
            && !self.has(process.pid)
            && !self.inherited.contains(&process.session)
            // Perhaps a supervisor of which the zygote has not told yet.
            && !(self.asked > 0 && may_run_imsup(process.pid))
    }
}

/// Whether a process runs this program, or cannot be looked into.
fn may_run_imsup(pid: u32) -> bool {
    let program = |of: &str| {
        let metadata = fs::metadata(format!("/proc/{of}/exe")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    program(&pid.to_string()).is_none_or(|other| program("self") == Some(other))
}

/// Kills the rest of the tree; with `children`, also the processes orphaned to this process. False
/// if a process survived.
pub(crate) fn clear(tree: &HostProcesses, children: Option<&Mutex<Children>>) -> bool {
    // First: no process in a cgroup can be missed.
    let emptied = tree.pids.cgroups.iter().filter(|path| !cgroups::end(path)).count() == 0;
    for _ in 0..MAX_ROUNDS {
        let killed = kill_all(tree, children);
        if killed.is_empty() {
            return emptied;
        }
        wait_for(&killed);
    }
    false
}

/// Waits for the end of this process's children that are about to end by themselves, for two rounds
/// at most. They are found by a walk over /proc: the file `children` omits some while others end
/// (proc_pid_task_tid_children(5)).
pub(crate) fn await_children(children: &Children) {
    let own = std::process::id();
    let deadline = Instant::now() + ROUND;
    while Instant::now() < deadline {
        let is_ending =
            |process: &Process| process.parent == own && !process.dead && !children.inherited.contains(&process.pid);
        let Some(ending) = all().into_iter().find(is_ending) else {
            return;
        };
        wait_for(&open(ending.pid).into_iter().collect::<Vec<_>>());
    }
}

/// As [`clear`], for a process that is not the subreaper.
pub(crate) fn clear_alone(tree: &HostProcesses) -> bool {
    clear(tree, None)
}

fn kill_all(tree: &HostProcesses, children: Option<&Mutex<Children>>) -> Vec<OwnedFd> {
    let (processes, children) = match children {
        Some(children) => {
            let (processes, children) = Children::during(children, all);
            (processes, Some(children))
        }
        None => (all(), None),
    };
    let own = read(std::process::id());
    let is_orphan = |process: &Process| {
        let known = children.as_ref().zip(own.as_ref());
        known.is_some_and(|(children, own)| children.is_orphan(process, own))
            && !tree.pids.connected.contains(&process.pid)
    };
    let spared = |pid: u32| pid == std::process::id() || children.as_ref().is_some_and(|children| children.has(pid));
    members(tree, &processes, is_orphan, spared)
        .into_iter()
        .filter_map(|process| kill(&process))
        .collect()
}

/// The living processes that belong to the tree, and their descendants.
fn members(
    tree: &HostProcesses,
    processes: &[Process],
    is_orphan: impl Fn(&Process) -> bool,
    spared: impl Fn(u32) -> bool,
) -> Vec<Process> {
    let leaders = [tree.pids.supervisor, tree.pids.program];
    let mut children: HashMap<u32, Vec<&Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let is_root = |process: &&Process| {
        leaders.contains(&Some(process.session)) || is_orphan(process) || carries_any(process.pid, &tree.boots)
    };
    let mut found: HashMap<u32, &Process> = HashMap::new();
    let mut open: Vec<&Process> = processes.iter().filter(is_root).collect();
    while let Some(process) = open.pop() {
        if !spared(process.pid) && found.insert(process.pid, process).is_none() {
            open.extend(children.get(&process.pid).into_iter().flatten());
        }
    }
    found.into_values().filter(|process| !process.dead).cloned().collect()
}

fn kill(process: &Process) -> Option<OwnedFd> {
    let pidfd = open(process.pid)?;
    // The number may have been reused since the read; the descriptor stays that of a single
    // process.
    if read(process.pid)?.started != process.started {
        return None;
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => Some(pidfd),
        Err(_) => None,
    }
}

fn wait_for(killed: &[OwnedFd]) {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(ROUND.subsec_nanos()),
    };
    for pidfd in killed {
        let _ = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout));
    }
}

/// True if the process's environment, as of execve(2), has any of the tokens.
fn carries_any(pid: u32, boots: &[u64]) -> bool {
    if boots.is_empty() {
        return false;
    }
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut tokens = environ.split(|byte| *byte == 0).filter_map(token_in);
    tokens.any(|token| boots.contains(&token))
}

/// The token, if this entry of an environment is that of [`BOOT_VARIABLE`].
fn token_in(entry: &[u8]) -> Option<u64> {
    let value = entry.strip_prefix(BOOT_VARIABLE.as_bytes())?.strip_prefix(b"=")?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// True if a process is a child of `supervisor` and leads a session. The number that a supervisor
/// reports for its program is of the supervisor's pid namespace, and may be that of any process
/// here.
pub(crate) fn leads_session(pid: u32, supervisor: u32) -> bool {
    read(pid).is_some_and(|process| process.parent == supervisor && process.session == pid)
}

/// The children of a process, over all its threads.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

fn read(pid: u32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): the name, in parentheses, may contain any characters; field 3 follows the last
/// parenthesis.
fn parse(pid: u32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn process(pid: u32, parent: u32, session: u32) -> Process {
        Process {
            pid,
            parent,
            session,
            dead: false,
            started: 0,
        }
    }

    /// The loop makes a supervisor, and reaps another, while the walk goes on: neither is an orphan
    /// of which the walk has found the process.
    #[test]
    fn a_walk_holds_up_nobody_and_takes_no_supervisor_for_an_orphan() {
        let [kept, ended, made] = [11, 12, 13];
        let children = Mutex::new(Children {
            supervisors: [kept, ended].into(),
            ..Children::default()
        });
        let (found, known) = Children::during(&children, || {
            let mut children = children.try_lock().expect("the loop waits for no walk");
            children.supervisors.insert(made);
            assert!(children.reap(ended));
            [kept, ended, made, 14]
        });
        assert_eq!(found.map(|pid| known.has(pid)), [true, true, true, false]);
        let children = children.into_inner();
        assert!(!children.has(ended), "its number may become another's");
        assert!(children.has(made));
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_parser() {
        let stat = "7 (a) b (c)) S 3 7 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let expected = Process {
            started: 4242,
            ..process(7, 3, 5)
        };
        assert_eq!(parse(7, stat), Some(expected));
    }

    #[test]
    fn members_are_sessions_orphans_and_their_descendants_but_not_spared_ones() {
        let processes = [
            process(10, 1, 10),
            process(11, 10, 11),
            process(12, 11, 11),
            process(20, 5, 20),
            process(21, 20, 20),
            process(30, 5, 30),
        ];
        let tree = HostProcesses {
            boots: Vec::new(),
            pids: Pids {
                program: Some(11),
                ..Pids::default()
            },
        };
        let mut found: Vec<u32> = members(&tree, &processes, |process| process.pid == 20, |pid| pid == 30)
            .iter()
            .map(|process| process.pid)
            .collect();
        found.sort_unstable();
        assert_eq!(found, [11, 12, 20, 21]);
    }

    #[test]
    fn only_what_a_supervisor_can_have_left_is_an_orphan() {
        let children = Children {
            supervisors: HashSet::from([20]),
            inherited: HashSet::from([30]),
            ..Children::default()
        };
        let own = process(5, 1, 4);
        let is_orphan = |pid, parent, session| children.is_orphan(&process(pid, parent, session), &own);
        assert!(is_orphan(40, 5, 40));
        assert!(!is_orphan(40, 6, 40), "a child of somebody else");
        assert!(!is_orphan(20, 5, 20), "a supervisor");
        assert!(!is_orphan(30, 5, 30), "there before");
        assert!(!is_orphan(40, 5, 30), "left by what was there before");
        assert!(!is_orphan(40, 5, 4), "of the session the broker was started in");
        let first = process(1, 0, 1);
        assert!(
            !children.is_orphan(&process(40, 1, 40), &first),
            "anybody's, in a container"
        );
    }

    #[test]
    fn what_carries_the_token_is_ended() {
        let boot = 0x1d5e_0000_0000_0000 | u64::from(std::process::id());
        let spawn = |program: &str, arguments: &[&str], boot: Option<u64>| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
            let child = command.envs(boot.map(|boot| (BOOT_VARIABLE, boot.to_string()))).spawn();
            let child = child.unwrap();
            // The parent goes on in the middle of execve(2), where vfork's wait ends (fs/exec.c,
            // begin_new_exec), before the arguments are there.
            while std::fs::read(format!("/proc/{}/cmdline", child.id()))
                .unwrap()
                .is_empty()
            {
                std::thread::yield_now();
            }
            child
        };
        let token = boot.to_string();
        let mut child = spawn("sleep", &["1000"], Some(boot));
        let mut told = spawn("sh", &["-c", "read line", "run", "--boot", &token], Some(boot));
        let mut other = spawn("sleep", &["1000"], None);
        assert!(children_of(std::process::id()).contains(&child.id()));
        let tree = HostProcesses {
            boots: vec![boot],
            pids: Pids::default(),
        };
        assert!(clear_alone(&tree));
        assert!(!child.wait().unwrap().success());
        assert!(!told.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "a process of nobody's was ended");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
