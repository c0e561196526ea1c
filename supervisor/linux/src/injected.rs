//! Calls that a stopped thread makes for the supervisor: ptrace(2), PTRACE_SYSCALL.
//!
//! The thread waits in an interrupted call. It is sent to the instruction again that entered the
//! kernel, with other registers, and afterwards has its own back: the kernel decides from those
//! whether the interrupted call is made again, once the thread is let go (arch/x86/kernel/signal.c,
//! arch_do_signal_or_restart). The limit of a call that goes on as restart_syscall(2) is kept in
//! the thread's `restart_block`, which no call touches that does not sleep. No memory of the
//! program is borrowed, and no signal is delivered in between: all are blocked.
//!
//! Blocking: in the tracer's thread only.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions};

use super::memory::{TargetMemory, ThreadMemory};
use super::signals::SignalMasks;
use super::syscall::syscall;
use super::tracee::{BUSY_WAIT, EVENT_STOP, LATER_LOOK, has_ended, reap, wait_all};
use super::{process, registers};

/// What PTRACE_O_TRACESYSGOOD adds to SIGTRAP.
const AT_A_CALL: i32 = libc::SIGTRAP | 0x80;

/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG` (6.4, include/uapi/linux/ptrace.h),
/// `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK` (3.11).
const GET_DISPATCH: libc::c_uint = 0x4211;
const GET_MASK: libc::c_uint = 0x420a;
const SET_MASK: libc::c_uint = 0x420b;

/// Bytes of the kernel's `sigset_t`.
const MASK_BYTES: usize = 8;

/// The number of seccomp filters that the supervisor began with, which its program has too, plus
/// the notify filter. A thread with more has filters of its own, which may kill it for a call that
/// it does not make itself.
static OUR_FILTERS: LazyLock<Option<u64>> = LazyLock::new(|| Some(filters_of(nix::unistd::gettid().as_raw())? + 1));

/// Counts the filters of this thread, once for the process: before it is confined, which adds a
/// filter that its program lacks.
pub(super) fn note_filters() {
    LazyLock::force(&OUR_FILTERS);
}

fn filters_of(tid: i32) -> Option<u64> {
    process::status_field(tid, "Seccomp_filters:")?.parse().ok()
}

/// The signals that a thread blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Masks {
    /// During its call.
    pub(super) now: u64,
    /// After its call, with another mask in ppoll(2) and the like.
    pub(super) afterwards: u64,
}

impl Masks {
    /// The masks of a stopped thread.
    pub(super) fn of(tid: i32) -> Result<Self, Errno> {
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
        let mut afterwards = 0_u64;
        let address: *mut libc::c_void = (&raw mut afterwards).cast();
        // SAFETY: the kernel writes MASK_BYTES there, which it has.
        unsafe { syscall!(libc::SYS_ptrace, GET_MASK, tid, MASK_BYTES, address) }?;
        Ok(Self {
            now: SignalMasks::parse(&status).blocked,
            afterwards,
        })
    }

    /// True if the thread waits with another mask than its usual one.
    pub(super) fn differ(self) -> bool {
        self.now != self.afterwards
    }
}

/// Sets the signals that a stopped thread blocks, now and afterwards.
pub(super) fn set_mask(tid: i32, mut mask: u64) -> Result<(), Errno> {
    let address: *mut libc::c_void = (&raw mut mask).cast();
    // SAFETY: the kernel reads MASK_BYTES there.
    unsafe { syscall!(libc::SYS_ptrace, SET_MASK, tid, MASK_BYTES, address) }.map(drop)
}

/// A stopped thread that makes calls. To be ended by [`Injection::end`].
pub(super) struct Injection {
    pid: i32,
    tid: i32,
    before: libc::user_regs_struct,
    entry: u64,
    masks: Masks,
    called: bool,
    /// Stops that came meanwhile, and are sent again.
    stops: BTreeSet<i32>,
}

impl Injection {
    /// Prepares a thread.
    ///
    /// # Errors
    /// EOPNOTSUPP for a thread that may not be made to call (it has seccomp filters of its own, or
    /// its call did not come from a `syscall` instruction), ESRCH for a killed thread.
    pub(super) fn begin(pid: i32, tid: i32) -> Result<Self, Errno> {
        let thread = Pid::from_raw(tid);
        let before = ptrace::getregs(thread)?;
        let entry = registers::entry(&before).ok_or(Errno::EOPNOTSUPP)?;
        let bytes = ThreadMemory::of(tid).read_array(entry)?;
        let own_filters = OUR_FILTERS.is_none_or(|ours| filters_of(tid).is_none_or(|count| count > ours));
        if bytes != registers::ENTRY || own_filters || dispatches(tid) {
            return Err(Errno::EOPNOTSUPP);
        }
        let masks = Masks::of(tid)?;
        ptrace::setoptions(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
        set_mask(tid, u64::MAX)?;
        Ok(Self {
            pid,
            tid,
            before,
            entry,
            masks,
            called: false,
            stops: BTreeSet::new(),
        })
    }

    /// Makes a call that does not block, and returns its result.
    ///
    /// # Errors
    /// Errors of the call; ESRCH if the thread was killed.
    pub(super) fn call(&mut self, number: i64, args: [u64; 6]) -> Result<u64, Errno> {
        let thread = Pid::from_raw(self.tid);
        let mut registers = self.before;
        registers::make_call(&mut registers, self.entry, number, &args);
        ptrace::setregs(thread, registers)?;
        self.called = true;
        let mut entered = false;
        loop {
            ptrace::syscall(thread, None)?;
            match self.next_stop()? {
                AT_A_CALL if entered => break,
                AT_A_CALL => entered = true,
                status => self.note(status)?,
            }
        }
        let result = registers::result(&ptrace::getregs(thread)?);
        match i32::try_from(-result) {
            Ok(errno @ 1..4096) => Err(Errno::from_raw(errno)),
            _ => Ok(result.cast_unsigned()),
        }
    }

    /// Restores the thread, stopped as before. Returns its masks, which are to be set on release if
    /// they differ, and whether its process was stopped by a signal meanwhile, as it will be on
    /// release.
    ///
    /// # Errors
    /// ESRCH if the thread was killed.
    pub(super) fn end(mut self) -> Result<(Masks, bool), Errno> {
        let thread = Pid::from_raw(self.tid);
        if self.called {
            // The thread stops on its way back from the call, where the kernel decides how the
            // interrupted call goes on.
            ptrace::interrupt(thread)?;
            loop {
                ptrace::cont(thread, None)?;
                let status = self.next_stop()?;
                if status >> 8 == EVENT_STOP {
                    break;
                }
                self.note(status)?;
            }
        }
        ptrace::setregs(thread, self.before)?;
        set_mask(self.tid, self.masks.now)?;
        ptrace::setoptions(thread, ptrace::Options::empty())?;
        for signal in &self.stops {
            // SAFETY: tgkill takes three integers.
            let _ = unsafe { syscall!(libc::SYS_tgkill, self.pid, self.tid, *signal) };
        }
        Ok((self.masks, !self.stops.is_empty()))
    }

    /// A stop outside a call: of signals only SIGSTOP comes, which cannot be blocked.
    fn note(&mut self, status: i32) -> Result<(), Errno> {
        match (status >> 8, status & 0xff) {
            (0, libc::SIGSTOP) => {
                self.stops.insert(libc::SIGSTOP);
                Ok(())
            }
            (EVENT_STOP, _) => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Waits for the next stop, however long that takes: a thread that makes a call cannot be left
    /// alone. The status is as wait(2) encodes it.
    ///
    /// The state is polled, since the end of a process's first thread is not reported while other
    /// traced threads of it have not been waited for (kernel/exit.c, wait_consider_task and
    /// delay_group_leader).
    fn next_stop(&self) -> Result<i32, Errno> {
        let options =
            WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG | wait_all();
        let id = rustix::process::Pid::from_raw(self.tid).ok_or(Errno::ESRCH)?;
        let since = Instant::now();
        loop {
            match rustix::process::waitid(WaitId::Pid(id), options) {
                Ok(Some(status)) => {
                    let Some(code) = status.trapping_signal().or(status.stopping_signal()) else {
                        reap(self.pid, self.tid);
                        return Err(Errno::ESRCH);
                    };
                    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | wait_all();
                    let _ = rustix::process::waitid(WaitId::Pid(id), options);
                    return Ok(code);
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) if since.elapsed() < BUSY_WAIT => std::thread::yield_now(),
                Ok(None) if has_ended(self.tid) => {
                    reap(self.pid, self.tid);
                    return Err(Errno::ESRCH);
                }
                Ok(None) => std::thread::sleep(LATER_LOOK),
                Err(_) => return Err(Errno::ESRCH),
            }
        }
    }
}

/// Whether calls of a thread end in signals (PR_SET_SYSCALL_USER_DISPATCH, prctl(2)).
fn dispatches(tid: i32) -> bool {
    let mut config = [0_u64; 4];
    let (size, address) = (size_of_val(&config), (&raw mut config).cast::<libc::c_void>());
    // SAFETY: the kernel writes `size` bytes there.
    let read = unsafe { syscall!(libc::SYS_ptrace, GET_DISPATCH, tid, size, address) };
    // EIO: an older kernel cannot say.
    read.is_ok() && config[0] != 0
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    /// kernel/exit.c, wait_consider_task: a first thread that is a zombie is not reported while
    /// other threads exist, which last until their tracer waits for them.
    #[test]
    fn a_process_of_several_threads_that_is_killed_is_not_waited_for() {
        let source = "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); print('.', flush=True); time.sleep(600)";
        let mut command = Command::new("python3");
        let mut child = command.args(["-c", source]).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        // Kept open: a python without a buffer (PYTHONUNBUFFERED) writes the end of the line by
        // itself.
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let tids = process::threads(pid);
        assert_eq!(tids.len(), 2);
        let tracer = std::thread::spawn(move || {
            for tid in tids.into_iter().map(Pid::from_raw) {
                ptrace::seize(tid, ptrace::Options::empty()).unwrap();
                ptrace::interrupt(tid).unwrap();
                let id = rustix::process::Pid::from_raw(tid.as_raw()).unwrap();
                rustix::process::waitid(WaitId::Pid(id), WaitIdOptions::STOPPED | wait_all()).unwrap();
            }
            let injection = Injection::begin(pid, pid).unwrap();
            nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
            injection.next_stop()
        });
        assert_eq!(tracer.join().unwrap(), Err(Errno::ESRCH));
        child.wait().unwrap();
    }
}
