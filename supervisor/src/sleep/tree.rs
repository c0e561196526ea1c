//! The processes of a host, and how the processes are held during a sleep.

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use imsup_wire::Limits;
use nix::errno::Errno;

use imsup_linux::carry::{Carry, Carrying};
use imsup_linux::cgroup::{Cgroup, CgroupError, FreezeError};
use imsup_linux::duplicates::Duplicates;
use imsup_linux::limits::{self, Confined, LimitError};
use imsup_linux::memory_watch::MemoryWatch;
use imsup_linux::process;
use imsup_linux::stopped::{self, GoOn, Releasing, SeenThread, StopError, Stopped, StoppedThread};
use imsup_linux::support::Support;

/// How long a host may take to stand still, and how much longer for each thread. A host that takes
/// longer is in an operation that cannot be interrupted, and goes on. 4,000 threads were frozen
/// within 50 ms, and stopped within 60 (measured).
const TIMEOUT: Duration = Duration::from_millis(20);
const TIMEOUT_PER_THREAD: Duration = Duration::from_micros(50);

/// The reason why a host could not be held. The host then runs as before.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The freezer did not answer.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// A thread could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
}

/// The processes of a host.
#[derive(Debug)]
pub struct ProcessTree {
    freezer: Option<Cgroup>,
    /// The cgroup around the freezer's cgroup, if the host has limits of cgroup v2.
    around: Option<Cgroup>,
    confined: Confined,
    /// Why there is no cgroup.
    without: Option<CgroupError>,
    /// All threads, stopped by ptrace(2): for a moment with a freezer, else for the whole hold.
    stopped: Option<Stopped>,
    /// Stopped threads that are being released.
    releasing: Option<Releasing>,
    /// Processes that have left the cgroup, as of the last search. These processes are held by
    /// ptrace(2).
    strays: Vec<i32>,
    /// Threads that go on with calls that were cut short.
    carrying: Vec<Carrying>,
}

impl ProcessTree {
    /// A tree that is never held: the tree of a command of `imsup exec`.
    pub fn unheld() -> Self {
        Self {
            freezer: None,
            around: None,
            confined: Confined::default(),
            without: None,
            stopped: None,
            releasing: None,
            strays: Vec::new(),
            carrying: Vec::new(),
        }
    }

    /// A tree with no process yet. `name` is the name of the cgroup, if a cgroup can be made.
    pub fn new(name: &str) -> Self {
        let made = match Support::present().pidfd_getfd {
            true => Cgroup::make(name),
            false => Err(CgroupError::Unwanted),
        };
        let (freezer, without) = match made {
            Ok(cgroup) => (Some(cgroup), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            freezer,
            around: None,
            confined: Confined::default(),
            without,
            stopped: None,
            releasing: None,
            strays: Vec::new(),
            carrying: Vec::new(),
        }
    }

    /// Limits the use of all processes together, processes of `imsup exec` included, before the
    /// first process exists. Returns the limits that do not hold. `name` is the name of the
    /// cgroups.
    pub fn limit(&mut self, name: &str, limits: &Limits) -> Vec<LimitError> {
        if limits.is_empty() {
            return Vec::new();
        }
        let (confined, failed) = Confined::make(name, limits, self.freezer.as_ref().map(Cgroup::path));
        self.confined = confined;
        if self.confined.is_unified
            && let Some(around) = self.freezer.take()
        {
            match Cgroup::make_at(around.path().join(limits::PROGRAM)) {
                Ok(program) => {
                    self.freezer = Some(program);
                    self.around = Some(around);
                }
                Err(error) => {
                    tracing::warn!(%error, "commands beside the program are not limited together with it");
                    self.freezer = Some(around);
                }
            }
        }
        failed
    }

    /// Confines the tree together with a process of the host whose cgroups have this name.
    pub fn confine_beside(&mut self, pid: u32, name: &str) {
        self.confined = Confined::beside(pid, name);
    }

    /// Moves a process that has not executed the program yet into the cgroups with the limits.
    ///
    /// # Errors
    /// [`LimitError::Join`].
    pub fn join(&self, pid: i32) -> Result<(), LimitError> {
        self.confined.join(pid)
    }

    /// The watch for processes that are killed for want of memory, on the first call.
    pub fn take_memory_watch(&mut self) -> Option<MemoryWatch> {
        self.confined.memory.take()
    }

    /// The directory of the tree's cgroup, in which the program is made.
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        let own = self.freezer.as_ref().map(Cgroup::directory);
        own.or_else(|| self.confined.birthplace())
    }

    /// The processes of the tree, as far as known without a walk over all processes.
    pub fn processes(&self) -> Vec<i32> {
        match &self.freezer {
            Some(cgroup) => {
                let mut pids = cgroup.processes();
                let strays = self.strays.iter().filter(|pid| !pids.contains(pid)).copied();
                pids.extend(strays.filter(|pid| !process::is_gone(*pid)).collect::<Vec<_>>());
                pids
            }
            None => process::descendants(),
        }
    }

    /// The ids of the tree's cgroup, and of the cgroups that the program made below; empty if a
    /// process has left these cgroups.
    pub fn cgroups(&self) -> Vec<u64> {
        let cgroup = self.freezer.as_ref().filter(|_| self.strays.is_empty());
        cgroup.map(Cgroup::ids).unwrap_or_default()
    }

    /// The processes of the tree in any cgroup: a privileged process may have moved itself, or
    /// started processes, to another cgroup.
    fn processes_anywhere(&self) -> Vec<i32> {
        let Some(cgroup) = &self.freezer else {
            return process::descendants();
        };
        // A process that moves meanwhile is in either list.
        let mut pids = process::living_descendants();
        let known: HashSet<i32> = pids.iter().copied().collect();
        pids.extend(cgroup.processes().into_iter().filter(|pid| !known.contains(pid)));
        pids
    }

    /// True if processes are found that have left the cgroup since the last search: the activity of
    /// these processes was not seen until then.
    pub fn finds_more_strays(&mut self) -> bool {
        let before = std::mem::take(&mut self.strays);
        self.find_strays(&self.processes_anywhere());
        self.strays.iter().any(|pid| !before.contains(pid))
    }

    /// Goes on without the cgroup if an outsider has removed the cgroup: from then on the processes
    /// are found as descendants, and held by ptrace(2). The processes are not moved into a new
    /// cgroup, since the outsider wants the processes in their present cgroup.
    pub fn notice_removal(&mut self) {
        if let Some(cgroup) = self.freezer.take_if(|cgroup| cgroup.is_removed()) {
            let path = cgroup.path().to_owned();
            self.without = Some(CgroupError::Removed { path });
            self.strays.clear();
        }
    }

    fn find_strays(&mut self, pids: &[i32]) {
        let Some(cgroup) = &self.freezer else { return };
        let inside: HashSet<i32> = cgroup.processes().into_iter().collect();
        self.strays = pids.iter().filter(|pid| !inside.contains(pid)).copied().collect();
    }

    /// True if an outsider has moved any of these processes out of the cgroup of the freezer: the
    /// moved process runs.
    pub fn has_lost(&self, pids: &[i32]) -> bool {
        let Some(cgroup) = self.freezer.as_ref().filter(|_| self.strays.is_empty()) else {
            return false;
        };
        let inside: HashSet<i32> = cgroup.processes().into_iter().collect();
        pids.iter().any(|pid| !inside.contains(pid) && !process::is_gone(*pid))
    }

    /// The CPU time of all processes of the tree, ended processes included; `None` if the kernel
    /// keeps no account, or if a process is outside the cgroup.
    pub fn cpu(&self) -> Option<Duration> {
        let cgroup = self.freezer.as_ref().filter(|_| self.strays.is_empty());
        cgroup.and_then(Cgroup::cpu)
    }

    /// Holds every process, and returns the calls of all threads. [`ProcessTree::settle`] or
    /// [`ProcessTree::release`] must follow.
    ///
    /// If not all processes can be held, the error comes with the threads that were stopped. The
    /// caller decides how the interrupted calls of these threads go on. [`ProcessTree::release`]
    /// must follow as well.
    ///
    /// Of threads in `counted` the waits are counted: each has waited once to be frozen.
    pub fn hold(&mut self, counted: &[i32]) -> (Vec<StoppedThread>, Option<HoldError>) {
        self.releasing = None;
        let threads: u32 = self.processes().into_iter().map(process::count_threads).sum();
        let timeout = TIMEOUT + TIMEOUT_PER_THREAD * threads;
        let frozen = match &self.freezer {
            Some(cgroup) => cgroup.freeze(timeout).inspect(|()| await_waits(counted)),
            None => Ok(()),
        };
        // A walk over all processes takes as long as the rest of the hold if there are many
        // threads. One walk is enough, once the known processes stand still.
        let looked = Cell::new(false);
        let pids = || match looked.replace(true) {
            false => self.processes(),
            true => self.processes_anywhere(),
        };
        let (threads, trouble) = match stopped::stop_some(&pids, timeout) {
            Ok((stopped, trouble)) => {
                let threads = stopped.threads().to_vec();
                self.stopped = Some(stopped);
                let pids: HashSet<i32> = threads.iter().map(|thread| thread.pid).collect();
                self.find_strays(&pids.into_iter().collect::<Vec<_>>());
                (threads, trouble)
            }
            Err(error) => (Vec::new(), Some(error)),
        };
        (
            threads,
            frozen.err().map(HoldError::from).or(trouble.map(HoldError::from)),
        )
    }

    /// True if [`ProcessTree::hold`] freezes the threads of a process before the stop.
    pub fn freezes(&self, pid: i32) -> bool {
        self.freezer.is_some() && !self.strays.contains(&pid)
    }

    /// Lets every process go on after not all could be held.
    pub fn give_up(&mut self, rewrites: Vec<(i32, GoOn)>) {
        if let Some(stopped) = self.stopped.take() {
            stopped.rewrite(rewrites);
            stopped.release_wholly();
        }
        self.release();
    }

    /// Has calls that were cut short go on with the rest when the host is released.
    pub fn carry(&mut self, carries: Vec<Carry>) {
        let carrying = self.stopped.as_mut().and_then(|stopped| stopped.carry(carries));
        self.carrying.extend(carrying);
    }

    /// The same of threads of a host that runs, stopped for a moment.
    pub fn carry_of(&mut self, stopped: &mut Stopped, carries: Vec<Carry>) {
        self.carrying.extend(stopped.carry(carries));
    }

    /// A process with a call that goes on with the rest.
    pub fn carries(&mut self) -> Option<i32> {
        self.carrying.retain(|carrying| !carrying.is_over());
        self.carrying.first().map(|carrying| carrying.pid)
    }

    /// How descriptors of the tree's processes are duplicated during a hold.
    pub fn duplicates(&self) -> Duplicates<'_> {
        self.stopped.as_ref().map_or(Duplicates::Kernel, Duplicates::of)
    }

    /// Decides how the calls of some threads go on when the host is released, which is held on.
    pub fn settle(&mut self, rewrites: Vec<(i32, GoOn)>) {
        if let Some(stopped) = &self.stopped {
            stopped.rewrite(rewrites);
        }
        if self.freezer.is_some() && self.strays.is_empty() {
            // The freezer holds the processes.
            self.let_go();
        }
    }

    /// Decides anew how the calls of some threads of a host that is held go on: process and thread
    /// each.
    pub fn rewrite(&mut self, rewrites: Vec<((i32, i32), GoOn)>) {
        if rewrites.is_empty() {
            return;
        }
        let by_thread = rewrites.iter().map(|((_, tid), go_on)| (*tid, *go_on)).collect();
        if let Some(stopped) = &self.stopped {
            stopped.rewrite(by_thread);
            return;
        }
        self.releasing = None;
        // The threads are frozen, and keep their numbers.
        let threads = rewrites
            .into_iter()
            .map(|((pid, tid), _)| SeenThread::just_now(pid, tid));
        match stopped::stop_threads(threads.collect(), TIMEOUT) {
            Ok((stopped, None)) => stopped.rewrite(by_thread),
            Ok((stopped, Some(error))) => {
                stopped.rewrite(by_thread);
                stopped.release_wholly();
                tracing::warn!(%error, "a call of a host cannot be told that its time is over");
            }
            Err(error) => tracing::warn!(%error, "the calls of a host cannot be told that their time is over"),
        }
    }

    /// Lets every process go on. [`ProcessTree::rest`] does the work that can wait.
    pub fn release(&mut self) {
        self.let_go();
        // The removal of the cgroup (ENODEV) moved the processes out first, and so thawed the
        // processes.
        if let Some(cgroup) = &self.freezer
            && let Err(errno) = cgroup.thaw()
            && errno != Errno::ENODEV
        {
            tracing::error!(%errno, "a host could not be thawed");
        }
    }

    /// Finishes the release of the processes, which takes as long again.
    pub fn rest(&mut self) {
        self.releasing = None;
    }

    fn let_go(&mut self) {
        self.releasing = self.stopped.take().map(Stopped::release_soon);
    }

    /// The method of the hold, for people.
    pub fn method(&self) -> String {
        match &self.without {
            None if self.strays.is_empty() => "cgroup freezer".to_owned(),
            None => format!(
                "cgroup freezer, and stopped threads, since {} of its processes left the cgroup",
                self.strays.len()
            ),
            Some(error) => format!("stopped threads, since {error}"),
        }
    }
}

/// Waits until frozen threads have left the processors. A thread counts as frozen before the thread
/// waits, may be preempted there, and would be stopped before the thread has run again. The kernel
/// waits for a thread to leave the processor before showing the call in which the thread is blocked
/// (lib/syscall.c, collect_syscall; wait_task_inactive).
fn await_waits(tids: &[i32]) {
    for tid in tids {
        let _ = process::blocked_in(*tid, *tid);
    }
}

/// Removes the cgroup with the tree: the processes have ended.
impl Drop for ProcessTree {
    fn drop(&mut self) {
        if let Some(cgroup) = self.freezer.take() {
            cgroup.remove();
        }
        if let Some(around) = self.around.take() {
            // Commands beside the program end with the program, as in a container.
            around.kill();
            around.remove();
        }
    }
}
