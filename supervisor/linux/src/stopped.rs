//! Threads that are stopped and read: ptrace(2), kernel/ptrace.c.
//!
//! A thread of our own is the tracer. A thread that does not stop (it waits for a vfork(2) child, or for the answer to a
//! trapped call) cannot be detached by PTRACE_DETACH, but the end of its tracer detaches it wherever it is; so giving up leaves
//! nobody traced.

mod seize;
mod tracees;
mod tracer;

use crossbeam_channel::unbounded;
use std::collections::HashSet;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use thiserror::Error;

use self::tracees::Order;
use self::tracer::Tracer;
use super::carry::{Carry, Carrying};
use super::process;
pub use super::registers::{At, GoOn};

/// A thread that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppedThread {
    /// Its process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// Where it is.
    pub at: At,
}

/// A thread as it was seen once: its number may be another thread's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenThread {
    /// Its process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// When it was made, in clock ticks since boot; `None` if it was seen just now, or is frozen, so that it has its number still.
    pub started: Option<u64>,
}

impl SeenThread {
    /// The thread that has these numbers now, to be known again later; `None` if there is none.
    pub fn remember(pid: i32, tid: i32) -> Option<Self> {
        let started = Some(process::started(pid, tid)?);
        Some(Self { pid, tid, started })
    }

    /// A thread that cannot have ended since it was seen.
    pub fn just_now(pid: i32, tid: i32) -> Self {
        let started = None;
        Self { pid, tid, started }
    }

    /// Whether the numbers are still this thread's.
    fn is_there(self) -> bool {
        self.started.is_none() || process::started(self.pid, self.tid) == self.started
    }
}

/// Why threads could not be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum StopError {
    /// Somebody else traces a process.
    #[error("process {pid} cannot be stopped: something else traces it (a debugger, strace)")]
    Traced { pid: i32 },
    /// A thread did not stop in time.
    #[error("thread {tid} of process {pid} did not stop in time: it is in a system call that cannot be interrupted")]
    Busy { pid: i32, tid: i32 },
    /// The kernel refused.
    #[error(
        "process {pid} cannot be stopped ({}): it is another user's, or ptrace(2) may not be used, which `imsup doctor` says; CAP_SYS_PTRACE allows both \
         (in a container --cap-add SYS_PTRACE)", .errno.desc()
    )]
    Refused {
        pid: i32,
        /// What ptrace(2) says: EPERM for one of another user or with more privileges, ENOSYS on a processor other than x86-64.
        errno: Errno,
    },
    /// There is no thread to stop them with.
    #[error("no thread can be started to stop processes with; raise the limit of processes (ulimit -u)")]
    NoTracer,
}

/// All threads of some processes, stopped; dropping it lets them go.
#[derive(Debug)]
pub struct Stopped {
    threads: Vec<StoppedThread>,
    tracer: Tracer,
    /// Kept from other threads, that the answers of /proc and the wait for children stay the supervisor's own.
    not_send: PhantomData<*const ()>,
}

/// Stops every thread of the processes that `pids` names, again and again until no new one appears, and reads where it is.
///
/// The processes' parents see nothing of it, nor do the threads, but for EINTR where Linux restarts no call (epoll_wait,
/// signal(7)). Signals wait until they are let go. Zombies are left out, as is a process's first thread that has ended
/// before others.
///
/// # Errors
/// Any [`StopError`]; everything has been let go then.
pub fn stop(pids: &dyn Fn() -> Vec<i32>, timeout: Duration) -> Result<Stopped, StopError> {
    wholly(stop_some(pids, timeout)?)
}

/// As [`stop`]. If some threads cannot be stopped, those that were are given with the error: their calls were interrupted, and it can be decided how
/// they go on before they are let go.
///
/// # Errors
/// [`StopError::NoTracer`].
pub fn stop_some(pids: &dyn Fn() -> Vec<i32>, timeout: Duration) -> Result<(Stopped, Option<StopError>), StopError> {
    let mut stopped = Stopped::none(timeout)?;
    let mut known = HashSet::new();
    loop {
        let new: Vec<i32> = pids().into_iter().filter(|pid| known.insert(*pid)).collect();
        // Everything known is stopped, so whatever it has started is in the list by now.
        if new.is_empty() {
            return Ok((stopped, None));
        }
        let (threads, error) = stopped.tracer.ask(Order::Stop(new))?;
        stopped.threads = threads;
        if error.is_some() {
            return Ok((stopped, error));
        }
    }
}

/// Stops these threads only, and reads where they are. Those that have ended are left out, whoever has their numbers now, and what cannot be stopped
/// is as with [`stop_some`].
///
/// # Errors
/// [`StopError::NoTracer`].
pub fn stop_threads(threads: Vec<SeenThread>, timeout: Duration) -> Result<(Stopped, Option<StopError>), StopError> {
    let mut stopped = Stopped::none(timeout)?;
    let (threads, error) = stopped.tracer.ask(Order::StopThreads(threads))?;
    stopped.threads = threads;
    Ok((stopped, error))
}

fn wholly((stopped, error): (Stopped, Option<StopError>)) -> Result<Stopped, StopError> {
    match error {
        None => Ok(stopped),
        Some(error) => {
            stopped.release_wholly();
            Err(error)
        }
    }
}

impl Stopped {
    fn none(timeout: Duration) -> Result<Self, StopError> {
        Ok(Self {
            threads: Vec::new(),
            tracer: Tracer::start(Instant::now() + timeout)?,
            not_send: PhantomData,
        })
    }

    /// Decides how the calls of some of these threads go on when they are let go.
    pub fn rewrite(&self, rewrites: Vec<(i32, GoOn)>) {
        if !rewrites.is_empty() {
            // A thread that was killed meanwhile goes on with nothing.
            let _ = self.tracer.ask(Order::Rewrite(rewrites));
        }
    }

    /// Has some of these threads go on with the rest of their calls when they are let go. They stay traced until those end.
    pub fn carry(&mut self, carries: Vec<Carry>) -> Option<Carrying> {
        let carrying = Carrying::new(carries.first()?.pid);
        let _ = self.tracer.ask(Order::Carry(carries, carrying.clone()));
        self.tracer.leave_carrying();
        Some(carrying)
    }

    /// Has one of the threads of process `pid` hand over descriptors, which are open: duplicates of them, in their order. The threads are afterwards as
    /// they were.
    ///
    /// # Errors
    /// EOPNOTSUPP if no thread of it can; what its calls say, and EMFILE if descriptors run out here; EINTR if somebody has stopped it meanwhile.
    pub fn hand_over(&self, pid: i32, numbers: Vec<i32>) -> Result<Vec<OwnedFd>, Errno> {
        let (reply, replies) = unbounded();
        self.tracer
            .ask(Order::HandOver { pid, numbers, reply })
            .map_err(|_| Errno::ESRCH)?;
        replies.recv().unwrap_or(Err(Errno::ESRCH))
    }

    /// The threads.
    pub fn threads(&self) -> &[StoppedThread] {
        &self.threads
    }

    /// Lets them go.
    pub fn release(self) {}

    /// Lets them go, and waits until the kernel has detached also what could not be stopped.
    pub fn release_wholly(mut self) {
        self.tracer.end_wholly();
    }

    /// Lets them go without waiting until they are gone, which dropping what this gives back does. The thread that traces does no more
    /// than that before: what is let go may have to run where it runs.
    #[must_use = "dropping it waits"]
    pub fn release_soon(self) -> Releasing {
        let tracer = self.tracer;
        tracer.release_soon();
        Releasing { _tracer: tracer }
    }
}

/// Threads that are being let go; dropping it waits until they are.
#[derive(Debug)]
pub struct Releasing {
    _tracer: Tracer,
}
