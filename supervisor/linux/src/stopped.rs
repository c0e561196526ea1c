//! Threads that are stopped and read: ptrace(2), kernel/ptrace.c.
//!
//! A thread of our own is the tracer. A thread that does not stop (waiting for a vfork(2) child, or
//! for the reply to a trapped call) cannot be detached by PTRACE_DETACH. But the end of the tracer
//! detaches such a thread in any state. So no thread stays traced after giving up.

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
    /// The location.
    pub at: At,
}

/// A thread as seen at some time: its id may belong to another thread by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenThread {
    /// Its process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// The start time, in clock ticks since boot. `None` if the thread was seen just now, or is
    /// frozen, so that the id still belongs to the thread.
    pub started: Option<u64>,
}

impl SeenThread {
    /// The thread that has these numbers now, to be known again later; `None` if there is none.
    pub fn remember(pid: i32, tid: i32) -> Option<Self> {
        let started = Some(process::started(pid, tid)?);
        Some(Self { pid, tid, started })
    }

    /// A thread that the caller has seen, and that cannot have ended since.
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
    /// Another tracer traces a process.
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
        /// Errors of ptrace(2): EPERM for a process of another user or with more privileges, ENOSYS
        /// on a processor other than x86-64.
        errno: Errno,
    },
    /// The tracer thread could not be started.
    #[error("no thread can be started to stop processes with; raise the limit of processes (ulimit -u)")]
    NoTracer,
}

/// All threads of some processes, stopped; dropping this value lets the threads go.
#[derive(Debug)]
pub struct Stopped {
    threads: Vec<StoppedThread>,
    tracer: Tracer,
    /// Kept from other threads, that the answers of /proc and the wait for children stay the
    /// supervisor's own.
    not_send: PhantomData<*const ()>,
}

/// Stops every thread of the processes that `pids` names, repeatedly until no new process appears,
/// and reads the state of each thread.
///
/// Neither the threads nor the parents of the processes notice the stop, except for EINTR from
/// calls that Linux does not restart (epoll_wait, signal(7)). Signals wait until the threads are
/// let go. Zombies are left out, as is a process's first thread that has ended before others.
///
/// # Errors
/// Any [`StopError`]; all threads have been let go then.
pub fn stop(pids: &dyn Fn() -> Vec<i32>, timeout: Duration) -> Result<Stopped, StopError> {
    wholly(stop_some(pids, timeout)?)
}

/// As [`stop`]. If some threads cannot be stopped, the stopped threads are returned with the error.
/// The calls of these threads were interrupted, and the caller can decide how the calls go on
/// before the threads are let go.
///
/// # Errors
/// [`StopError::NoTracer`].
pub fn stop_some(pids: &dyn Fn() -> Vec<i32>, timeout: Duration) -> Result<(Stopped, Option<StopError>), StopError> {
    let mut stopped = Stopped::none(timeout)?;
    let mut known = HashSet::new();
    loop {
        let new: Vec<i32> = pids().into_iter().filter(|pid| known.insert(*pid)).collect();
        // All known processes are stopped, so `pids` lists every process that they started.
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

/// Stops only these threads, and reads the state of each thread. Threads that have ended are left
/// out, even if their ids were reused. Threads that cannot be stopped are treated as in
/// [`stop_some`].
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

    /// Decides how the calls of some of these threads go on after the threads are let go.
    pub fn rewrite(&self, rewrites: Vec<(i32, GoOn)>) {
        if !rewrites.is_empty() {
            // A killed thread has no call to go on with.
            let _ = self.tracer.ask(Order::Rewrite(rewrites));
        }
    }

    /// Makes some of these threads go on with the rest of their calls after being let go. The
    /// threads stay traced until the end of these calls.
    pub fn carry(&mut self, carries: Vec<Carry>) -> Option<Carrying> {
        let carrying = Carrying::new(carries.first()?.pid);
        let _ = self.tracer.ask(Order::Carry(carries, carrying.clone()));
        self.tracer.leave_carrying();
        Some(carrying)
    }

    /// Makes a thread of process `pid` hand over open descriptors. Returns duplicates in the same
    /// order. The threads are afterwards as before.
    ///
    /// Blocking: for the thread's own calls, which wait for nothing.
    ///
    /// # Errors
    /// EOPNOTSUPP if no thread of the process can hand over; errors of the thread's calls, and
    /// EMFILE if descriptors run out here; EINTR if the process was stopped by a signal meanwhile.
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

    /// Lets the threads go.
    pub fn release(self) {}

    /// Lets the threads go, and waits until the kernel has also detached threads that could not be
    /// stopped.
    pub fn release_wholly(mut self) {
        self.tracer.end_wholly();
    }

    /// Lets the threads go without waiting for the end of the tracer; dropping the result waits.
    /// Before that, the tracer thread does no other work: a thread that is let go may have to run
    /// on the same processor.
    #[must_use = "dropping it waits"]
    pub fn release_soon(self) -> Releasing {
        let tracer = self.tracer;
        tracer.release_soon();
        Releasing { _tracer: tracer }
    }
}

/// Threads that are being let go; dropping this value waits until all are gone.
#[derive(Debug)]
pub struct Releasing {
    _tracer: Tracer,
}
