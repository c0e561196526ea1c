//! Threads that are stopped and read: ptrace(2), kernel/ptrace.c.
//!
//! A thread of our own is the tracer. A thread that does not stop (it waits for a vfork(2) child, or for the answer to a
//! trapped call) cannot be detached by PTRACE_DETACH, but the end of its tracer detaches it wherever it is; so giving up leaves
//! nobody traced.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::{Pid, gettid};
use rustix::process::{WaitId, WaitIdOptions};
use thiserror::Error;

use super::carry::{Carried, Carry, Carrying};
use super::injected::{self, Masks};
use super::{duplicates, process, registers};

pub use super::registers::{At, GoOn};

/// What a tracer's stack needs: little, as it is one for each sleeper where there is no freezer.
const TRACER_STACK_BYTES: usize = 64 * 1024;

/// How long a thread that has not stopped is looked at again and again: five threads stop within 150 us. No event can be
/// waited for with a limit: SIGCHLD belongs to the receive loop, and pidfds do not tell of stops.
pub(super) const BUSY_WAIT: Duration = Duration::from_millis(1);

/// How often it is looked at after that.
pub(super) const LATER_LOOK: Duration = Duration::from_micros(200);

/// How much longer a thread is waited for that is about to run, on a machine that has other work.
const PATIENCE_IF_RUNNABLE: Duration = Duration::from_millis(200);

/// `PTRACE_EVENT_STOP`: a stop by PTRACE_INTERRUPT or a group-stop, where the thread was seized.
pub(super) const EVENT_STOP: i32 = 128;

/// So many threads of a process are looked at for one that can hand its descriptors over.
const MOST_GIVERS: usize = 16;

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
pub fn stop(pids: &dyn Fn() -> Vec<i32>, patience: Duration) -> Result<Stopped, StopError> {
    wholly(stop_some(pids, patience)?)
}

/// As [`stop`]. If some threads cannot be stopped, those that were are given with the error: their calls were interrupted, and it can be decided how
/// they go on before they are let go.
///
/// # Errors
/// [`StopError::NoTracer`].
pub fn stop_some(pids: &dyn Fn() -> Vec<i32>, patience: Duration) -> Result<(Stopped, Option<StopError>), StopError> {
    let mut stopped = Stopped::none(patience)?;
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
pub fn stop_threads(threads: Vec<SeenThread>, patience: Duration) -> Result<(Stopped, Option<StopError>), StopError> {
    let mut stopped = Stopped::none(patience)?;
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
    fn none(patience: Duration) -> Result<Self, StopError> {
        Ok(Self {
            threads: Vec::new(),
            tracer: Tracer::start(Instant::now() + patience)?,
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
        self.tracer.carries = true;
        Some(carrying)
    }

    /// Has one of the threads of process `pid` hand over descriptors, which are open: duplicates of them, in their order. The threads are afterwards as
    /// they were.
    ///
    /// # Errors
    /// EOPNOTSUPP if no thread of it can; what its calls say, and EMFILE if descriptors run out here; EINTR if somebody has stopped it meanwhile.
    pub fn hand_over(&self, pid: i32, numbers: Vec<i32>) -> Result<Vec<OwnedFd>, Errno> {
        let (reply, replies) = channel();
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
        // Where it has ended, it has let go.
        let _ = tracer.orders.as_ref().map(|orders| orders.send(Order::Release));
        Releasing { _tracer: tracer }
    }
}

/// Threads that are being let go; dropping it waits until they are.
#[derive(Debug)]
pub struct Releasing {
    _tracer: Tracer,
}

/// What the thread that traces is told.
enum Order {
    /// Stop all threads of these processes, and of those named before.
    Stop(Vec<i32>),
    /// Stop these, if they are there still.
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
    /// Let all go. Nobody waits for the answer.
    Release,
}

/// The threads that are stopped, and why not all are that should be.
type Answer = (Vec<StoppedThread>, Option<StopError>);

/// The thread that traces.
#[derive(Debug)]
struct Tracer {
    thread: Option<JoinHandle<i32>>,
    /// Closed, to let all go.
    orders: Option<Sender<Order>>,
    answers: Receiver<Answer>,
    /// It goes on tracing, for longer than anybody waits.
    carries: bool,
}

impl Tracer {
    fn start(deadline: Instant) -> Result<Self, StopError> {
        let (orders, received) = channel();
        let (answer, answers) = channel();
        let thread = std::thread::Builder::new()
            .name("imsup-tracer".to_owned())
            .stack_size(TRACER_STACK_BYTES)
            .spawn(move || {
                let mut tracees = Tracees::new(deadline);
                for order in received {
                    let error = tracees.obey(order).err();
                    if answer.send((tracees.stopped.clone(), error)).is_err() {
                        break;
                    }
                }
                tracees.release();
                tracees.carried.finish();
                if let Some(carrying) = &tracees.carrying {
                    carrying.end();
                }
                gettid().as_raw()
            })
            .map_err(|_| StopError::NoTracer)?;
        Ok(Self {
            thread: Some(thread),
            orders: Some(orders),
            answers,
            carries: false,
        })
    }

    fn ask(&self, order: Order) -> Result<Answer, StopError> {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        sent.then_some(()).ok_or(StopError::NoTracer)?;
        self.answers.recv().map_err(|_| StopError::NoTracer)
    }

    /// Lets go, and returns the tracer's thread id.
    fn end(&mut self) -> Option<i32> {
        self.orders = None;
        let thread = self.thread.take().filter(|_| !self.carries)?;
        thread.join().ok()
    }

    /// Waits until the kernel has detached also what could not be stopped, which is a little after the thread can be joined.
    fn end_wholly(&mut self) {
        if let Some(tid) = self.end() {
            let task = format!("/proc/self/task/{tid}");
            while Path::new(&task).exists() {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the tracer traces.
struct Tracees {
    deadline: Instant,
    pids: Vec<i32>,
    /// Every thread ever seized, those that have ended included.
    seized: HashSet<i32>,
    stopped: Vec<StoppedThread>,
    carried: Carried,
    carrying: Option<Carrying>,
    /// What threads block when their calls have ended, by thread, if that was forgotten for them: to be set when they are let go.
    masks: HashMap<i32, u64>,
}

impl Tracees {
    fn new(deadline: Instant) -> Self {
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

    fn obey(&mut self, order: Order) -> Result<(), StopError> {
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

    /// Stops these threads, as far as they were not; whether there was any. All are told to stop before any is waited for; and all that were told are
    /// waited for, also if one cannot be stopped: their calls are interrupted.
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
            // A thread that starts another is stopped after it, so a look at stopped threads alone sees all.
            if !self.stop_each(threads)? {
                return Ok(());
            }
        }
    }

    /// Has a thread of a process hand over descriptors: its first one if that can, as its descriptors are those of the process.
    fn hand_over(&mut self, pid: i32, numbers: &[i32]) -> Result<Vec<OwnedFd>, Errno> {
        for tid in self.givers(pid) {
            let (handed_over, masks) = duplicates::hand_over(pid, tid, numbers);
            if let Some(masks) = masks.filter(|masks| masks.differ()) {
                self.masks.entry(tid).or_insert(masks.afterwards);
            }
            if !matches!(handed_over, Err(Errno::EOPNOTSUPP)) {
                return handed_over;
            }
        }
        Err(Errno::EOPNOTSUPP)
    }

    /// The threads of a process that may hand something over, the best first. One that waits with another signal mask forgets that it is to have its own
    /// back (PTRACE_SETSIGMASK), so it comes last.
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

/// Seizes a thread and asks it to stop; false where it has ended.
fn seize(seen: SeenThread, deadline: Instant) -> Result<bool, StopError> {
    let SeenThread { pid, tid, .. } = seen;
    let thread = Pid::from_raw(tid);
    if !seen.is_there() {
        return Ok(false);
    }
    match ptrace::seize(thread, ptrace::Options::empty()) {
        // Its number was another thread's by then.
        Ok(()) if !seen.is_there() => {
            let_go(pid, tid, deadline);
            Ok(false)
        }
        Ok(()) => {
            // ESRCH: it has ended meanwhile, which waiting for it will say.
            let _ = ptrace::interrupt(thread);
            Ok(true)
        }
        Err(Errno::ESRCH) => Ok(false),
        // A zombie is EPERM, too.
        Err(_) if has_ended(tid) => Ok(false),
        Err(Errno::EPERM) if is_traced(tid) => Err(StopError::Traced { pid }),
        Err(errno) => Err(StopError::Refused { pid, errno }),
    }
}

/// Lets a thread go that was seized by mistake: the tracer may be there for long, and would keep it at its next signal. PTRACE_DETACH takes one that stands still.
/// One that does not stop in time stays until the tracer ends.
fn let_go(pid: i32, tid: i32, deadline: Instant) {
    // ESRCH: it has ended meanwhile, which waiting for it says.
    let _ = ptrace::interrupt(Pid::from_raw(tid));
    if matches!(await_stop(pid, tid, deadline), Ok(Some(_))) {
        detach_with(tid, 0);
    }
}

/// Waits for a seized thread's stop; `None` where it has ended.
fn await_stop(pid: i32, tid: i32, deadline: Instant) -> Result<Option<At>, StopError> {
    // Only stops: the exit status of our own child is for those who wait for it.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | wait_all();
    let Some(id) = rustix::process::Pid::from_raw(tid) else {
        return Ok(None);
    };
    let mut since = None;
    loop {
        match rustix::process::waitid(WaitId::Pid(id), options) {
            Ok(Some(status)) => {
                let code = status.trapping_signal().unwrap_or(0);
                match (code >> 8, code & 0xff) {
                    (EVENT_STOP, libc::SIGTRAP) => match registers::read(tid) {
                        Ok(at) => return Ok(Some(at)),
                        // Killed; it ends now.
                        Err(Errno::ESRCH) => {}
                        Err(errno) => {
                            let _ = ptrace::detach(Pid::from_raw(tid), None);
                            return Err(StopError::Refused { pid, errno });
                        }
                    },
                    (EVENT_STOP, _) => return Ok(Some(At::GroupStop)),
                    // It was about to take a signal when it was seized: it does, and then stops as it was asked to.
                    (0, signal) => resume(tid, signal),
                    _ => resume(tid, 0),
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => {
                reap(pid, tid);
                return Ok(None);
            }
            Ok(None) => {
                let now = Instant::now();
                if now.duration_since(*since.get_or_insert(now)) < BUSY_WAIT {
                    std::thread::yield_now();
                    continue;
                }
                // A process's first thread that ends before others is not reported until they have ended.
                if has_ended(tid) {
                    reap(pid, tid);
                    return Ok(None);
                }
                // One that may run stops as soon as it does: giving up on it would show it that its call was interrupted.
                if now >= deadline + PATIENCE_IF_RUNNABLE || (now >= deadline && !is_runnable(tid)) {
                    return Err(StopError::Busy { pid, tid });
                }
                std::thread::sleep(LATER_LOOK);
            }
        }
    }
}

/// Takes the exit status of a thread that ended while it was traced, which its process or parent waits for; not that of our
/// own child, which its own parent's wait takes.
pub(super) fn reap(pid: i32, tid: i32) {
    if tid == pid && process::status_field(pid, "PPid:") == Some(std::process::id().to_string()) {
        return;
    }
    if let Some(id) = rustix::process::Pid::from_raw(tid) {
        let _ = rustix::process::waitid(
            WaitId::Pid(id),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | wait_all(),
        );
    }
}

/// `__WALL`, also threads.
pub(super) fn wait_all() -> WaitIdOptions {
    WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned())
}

/// PTRACE_DETACH with any signal.
pub(super) fn detach_with(tid: i32, signal: i32) {
    let signal: *mut libc::c_void = std::ptr::without_provenance_mut(signal.cast_unsigned() as usize);
    // SAFETY: PTRACE_DETACH takes a thread id and a number and touches no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, std::ptr::null_mut::<libc::c_void>(), signal) };
}

/// PTRACE_CONT with any signal, real-time ones included, which nix has no names for.
fn resume(tid: i32, signal: i32) {
    let signal: *mut libc::c_void = std::ptr::without_provenance_mut(signal.cast_unsigned() as usize);
    // SAFETY: PTRACE_CONT takes a thread id and a number and touches no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_CONT, tid, std::ptr::null_mut::<libc::c_void>(), signal) };
}

fn is_traced(tid: i32) -> bool {
    process::status_field(tid, "TracerPid:").is_some_and(|tracer| tracer != "0")
}

fn is_runnable(tid: i32) -> bool {
    process::status_field(tid, "State:").is_some_and(|state| state.starts_with('R'))
}

/// Whether a thread is gone, a zombie, or dead.
pub(super) fn has_ended(tid: i32) -> bool {
    process::status_field(tid, "State:").is_none_or(|state| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ptrace(2), PTRACE_DETACH.
    #[test]
    fn what_was_seized_by_mistake_is_let_go_at_once() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()).unwrap();
        assert!(is_traced(pid));
        let_go(pid, pid, Instant::now() + Duration::from_secs(60));
        let is_free = !is_traced(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_free);
    }
}
