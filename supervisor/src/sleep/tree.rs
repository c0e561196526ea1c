//! The processes of a host, and how they are held while it sleeps.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::kernel::cgroup::{Cgroup, CgroupError, FreezeError};
use crate::kernel::process;
use crate::kernel::stopped::{self, GoOn, Releasing, StopError, Stopped, StoppedThread};

/// How long a host may take to stand still, and how much longer for each thread. One that takes longer is in something that cannot be
/// interrupted, and goes on. 4,000 threads were frozen within 50 ms, and stopped within 60 (measured).
const PATIENCE: Duration = Duration::from_millis(20);
const PATIENCE_PER_THREAD: Duration = Duration::from_micros(50);

/// Why a host could not be held. It runs then as before.
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
pub struct Tree {
    freezer: Option<Cgroup>,
    /// Why there is no cgroup.
    without: Option<CgroupError>,
    /// All threads, stopped by ptrace(2): for a moment where there is a freezer, else for as long as the host is held.
    stopped: Option<Stopped>,
    /// Those that were stopped and are being let go.
    releasing: Option<Releasing>,
}

impl Tree {
    /// A tree that is never held: that of a command of `imsup exec`.
    pub fn unheld() -> Self {
        Self {
            freezer: None,
            without: None,
            stopped: None,
            releasing: None,
        }
    }

    /// A tree with no process yet. `name` is that of its cgroup, where one can be made.
    pub fn new(name: &str) -> Self {
        let (freezer, without) = match Cgroup::make(name) {
            Ok(cgroup) => (Some(cgroup), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            freezer,
            without,
            stopped: None,
            releasing: None,
        }
    }

    /// The directory of its cgroup, for the program to be made in.
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.freezer.as_ref().map(Cgroup::directory)
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<i32> {
        match &self.freezer {
            Some(cgroup) => cgroup.processes(),
            None => process::descendants(),
        }
    }

    /// The ids of its cgroup, and of those that the program made below it.
    pub fn cgroups(&self) -> Vec<u64> {
        self.freezer.as_ref().map(Cgroup::ids).unwrap_or_default()
    }

    /// The CPU time of all its processes, those that have ended included, where the kernel accounts for it.
    pub fn cpu(&self) -> Option<Duration> {
        self.freezer.as_ref().and_then(Cgroup::cpu)
    }

    /// Holds every process, and says what each of their threads was in. To be followed by [`Tree::settle`] or [`Tree::release`].
    ///
    /// # Errors
    /// Any [`HoldError`]; everything runs then.
    pub fn hold(&mut self) -> Result<Vec<StoppedThread>, HoldError> {
        self.releasing = None;
        let threads: u32 = self.processes().into_iter().map(process::count_threads).sum();
        let patience = PATIENCE + PATIENCE_PER_THREAD * threads;
        if let Some(cgroup) = &self.freezer {
            cgroup.freeze(patience)?;
        }
        match stopped::stop(&|| self.processes(), patience) {
            Ok(stopped) => {
                let threads = stopped.threads().to_vec();
                self.stopped = Some(stopped);
                Ok(threads)
            }
            Err(error) => {
                self.release();
                Err(error.into())
            }
        }
    }

    /// Decides how the calls of some threads go on when the host is released, which is held on.
    pub fn settle(&mut self, rewrites: Vec<(i32, GoOn)>) {
        if let Some(stopped) = &self.stopped {
            stopped.rewrite(rewrites);
        }
        if self.freezer.is_some() {
            // The freezer has them.
            self.let_go();
        }
    }

    /// Decides anew how the calls of some threads of a host that is held go on: process and thread each.
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
        let threads = rewrites.into_iter().map(|(thread, _)| thread).collect();
        match stopped::stop_threads(threads, PATIENCE) {
            Ok(stopped) => stopped.rewrite(by_thread),
            Err(error) => tracing::warn!(%error, "the calls of a host cannot be told that their time is over"),
        }
    }

    /// Lets every process go on; [`Tree::rest`] does what can wait.
    pub fn release(&mut self) {
        self.let_go();
        if let Some(cgroup) = &self.freezer
            && let Err(errno) = cgroup.thaw()
        {
            tracing::error!(%errno, "a host could not be thawed");
        }
    }

    /// Ends what let processes go on, which takes as long again.
    pub fn rest(&mut self) {
        self.releasing = None;
    }

    fn let_go(&mut self) {
        self.releasing = self.stopped.take().map(Stopped::release_soon);
    }

    /// How it is held, for people.
    pub fn method(&self) -> String {
        match &self.without {
            None => "cgroup freezer".to_owned(),
            Some(error) => format!("stopped threads, since {error}"),
        }
    }
}

/// Its cgroup is removed with it: its processes have ended.
impl Drop for Tree {
    fn drop(&mut self) {
        if let Some(cgroup) = self.freezer.take() {
            cgroup.remove();
        }
    }
}
