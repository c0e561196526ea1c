//! What the tracing thread traces: threads are stopped, rewritten, carried on, and let go.

use crossbeam_channel::Sender;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::seize::{await_stop, seize};
use super::{At, GoOn, SeenThread, StopError, StoppedThread};
use crate::carry::{Carried, Carry, Carrying};
use crate::injected::{self, Masks};
use crate::tracee::reap;
use crate::{hand_over, process, registers};

/// The number of threads of a process that are tried in the search for a thread that can hand over
/// descriptors.
const MOST_GIVERS: usize = 16;

/// An order to the tracer thread.
pub(super) enum Order {
    /// Stop all threads of these processes, and of the processes named before.
    Stop(Vec<i32>),
    /// Stop these threads, unless ended.
    StopThreads(Vec<SeenThread>),
    /// Decide how the calls of these go on.
    Rewrite(Vec<(i32, GoOn)>),
    /// Make the rest of the calls of these.
    Carry(Vec<Carry>, Carrying),
    /// Have a process hand over descriptors.
    HandOver {
        pid: i32,
        numbers: Vec<i32>,
        reply: Sender<Result<Vec<OwnedFd>, Errno>>,
    },
    /// Let all threads go. The reply is not awaited.
    Release,
}

/// The threads of the tracer.
pub(super) struct Tracees {
    deadline: Instant,
    pids: Vec<i32>,
    /// Every thread ever seized, including ended threads.
    seized: HashSet<i32>,
    stopped: Vec<StoppedThread>,
    carried: Carried,
    carrying: Option<Carrying>,
    /// The signal masks of threads after their calls, by thread id, for threads for which the
    /// kernel has forgotten this mask. Set again before a thread is let go.
    masks: HashMap<i32, u64>,
}

impl Tracees {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            pids: Vec::new(),
            seized: HashSet::new(),
            stopped: Vec::new(),
            carried: Carried::default(),
            carrying: None,
            masks: HashMap::new(),
        }
    }

    /// The threads that are stopped.
    pub(super) fn stopped(&self) -> Vec<StoppedThread> {
        self.stopped.clone()
    }

    /// Makes the rest of the calls that are carried, until those end.
    pub(super) fn finish(mut self) {
        self.release();
        self.carried.finish();
        if let Some(carrying) = &self.carrying {
            carrying.end();
        }
    }

    pub(super) fn obey(&mut self, order: Order) -> Result<(), StopError> {
        match order {
            Order::Stop(pids) => return self.stop(pids),
            Order::StopThreads(threads) => return self.stop_each(threads).map(|_| ()),
            Order::Rewrite(rewrites) => {
                for (tid, go_on) in rewrites {
                    let _ = registers::write(tid, go_on);
                }
            }
            Order::Carry(carries, carrying) => {
                for carry in carries {
                    self.carried.prepare(carry);
                }
                self.carrying = Some(carrying);
            }
            Order::HandOver { pid, numbers, reply } => {
                let _ = reply.send(self.hand_over(pid, &numbers));
            }
            Order::Release => self.release(),
        }
        Ok(())
    }

    /// Stops these threads, unless stopped already; true if there was any to stop. All threads are
    /// told to stop before the first wait. All these threads are waited for, even if one cannot be
    /// stopped: their calls are interrupted.
    fn stop_each(&mut self, threads: Vec<SeenThread>) -> Result<bool, StopError> {
        let mut new = Vec::with_capacity(threads.len());
        let mut trouble = Ok(());
        for thread in threads {
            let SeenThread { pid, tid, .. } = thread;
            if self.seized.contains(&tid) {
                continue;
            }
            match seize(thread, self.deadline) {
                Ok(true) => {
                    self.seized.insert(tid);
                    new.push((pid, tid));
                }
                Ok(false) => {}
                Err(error) => {
                    trouble = Err(error);
                    break;
                }
            }
        }
        let found = !new.is_empty();
        for (pid, tid) in new {
            match await_stop(pid, tid, self.deadline) {
                Ok(at) => self.stopped.extend(at.map(|at| StoppedThread { pid, tid, at })),
                Err(error) => trouble = trouble.and(Err(error)),
            }
        }
        trouble.map(|()| found)
    }

    /// Stops all threads of `pids` and of the processes named before, which are seen just now.
    fn stop(&mut self, pids: Vec<i32>) -> Result<(), StopError> {
        self.pids.extend(pids);
        loop {
            let of = |pid: &i32| {
                let pid = *pid;
                let threads = process::threads(pid).into_iter();
                threads.map(move |tid| SeenThread::just_now(pid, tid))
            };
            let threads = self.pids.iter().flat_map(of).collect();
            // A thread that starts another thread is stopped after the start, so a look at stopped
            // threads alone sees all.
            if !self.stop_each(threads)? {
                return Ok(());
            }
        }
    }

    /// Makes a thread of a process hand over descriptors: the first thread if possible, as its
    /// descriptors are those of the process.
    fn hand_over(&mut self, pid: i32, numbers: &[i32]) -> Result<Vec<OwnedFd>, Errno> {
        for tid in self.givers(pid) {
            let (handed_over, masks) = hand_over::hand_over(pid, tid, numbers);
            if let Some(masks) = masks.filter(|masks| masks.differ()) {
                self.masks.entry(tid).or_insert(masks.afterwards);
            }
            if !matches!(handed_over, Err(Errno::EOPNOTSUPP)) {
                return handed_over;
            }
        }
        Err(Errno::EOPNOTSUPP)
    }

    /// The threads of a process that may hand over descriptors, the best first. A thread that waits
    /// with another signal mask comes last: after PTRACE_SETSIGMASK the kernel no longer restores
    /// the thread's earlier mask.
    fn givers(&self, pid: i32) -> Vec<i32> {
        let threads = || self.stopped.iter().filter(move |thread| thread.pid == pid);
        if threads().any(|thread| thread.at == At::GroupStop) {
            return Vec::new();
        }
        let mut tids: Vec<i32> = threads().map(|thread| thread.tid).collect();
        tids.retain(|tid| !self.carried.contains(*tid));
        tids.sort_by_key(|tid| *tid != pid);
        tids.truncate(MOST_GIVERS);
        tids.sort_by_key(|tid| self.masks.contains_key(tid) || Masks::of(*tid).is_ok_and(Masks::differ));
        tids
    }

    /// Lets all go that have stopped; the end of this thread does the rest.
    fn release(&mut self) {
        for (tid, mask) in self.masks.drain() {
            // ESRCH: killed meanwhile.
            let _ = injected::set_mask(tid, mask);
        }
        for thread in self.stopped.drain(..) {
            if self.carried.contains(thread.tid) {
                self.carried.let_go(thread.tid);
                continue;
            }
            // ESRCH: killed meanwhile.
            if ptrace::detach(Pid::from_raw(thread.tid), None).is_err() {
                reap(thread.pid, thread.tid);
            }
        }
    }
}
