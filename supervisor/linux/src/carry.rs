//! Calls that were cut short and go on with the rest: ptrace(2), PTRACE_SYSCALL.
//!
//! The thread makes its call again with other arguments, and stays traced until the end of the
//! call. Then its result becomes the sum, and its registers and memory are restored. A signal that
//! comes meanwhile cuts the call short as it natively would.
//!
//! Blocking: in the tracer's thread only.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::memory::{TargetMemory, ThreadMemory};
use super::registers;
use super::tracee::{EVENT_STOP, detach_with, reap};

/// Memory that is other while the rest of a call is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Its address.
    pub address: u64,
    /// Memory contents while the rest of the call is made.
    pub now: Vec<u8>,
    /// The original contents, restored afterwards.
    pub afterwards: Vec<u8>,
}

/// A call that goes on with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carry {
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// The call's result so far.
    pub done: i64,
    /// The addend for the result of the rest, if that is positive.
    pub base: i64,
    /// A 32-bit count that the rest writes again, and its earlier value: the two are added as well
    /// (`msg_len` of sendmmsg(2)).
    pub counted: Option<(u64, u32)>,
    /// The arguments of the rest.
    pub args: [u64; 6],
    /// Further replaced memory.
    pub patches: Vec<Patch>,
}

/// Calls that go on with the rest, until all are over.
#[derive(Clone, Debug)]
pub struct Carrying {
    /// The process of one of the threads.
    pub pid: i32,
    over: Arc<AtomicBool>,
}

impl Carrying {
    /// Threads of `pid` and perhaps of other processes.
    pub fn new(pid: i32) -> Self {
        Self {
            pid,
            over: Arc::default(),
        }
    }

    /// Whether all are over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}

/// A carried call.
struct UnderWay {
    carry: Carry,
    before: libc::user_regs_struct,
    /// True once the call was made, so that the next stop at a call is its end.
    entered: bool,
}

/// The carried calls of a tracer.
#[derive(Default)]
pub(super) struct Carried {
    calls: HashMap<i32, UnderWay>,
}

impl Carried {
    /// True if this thread is among them.
    pub(super) fn contains(&self, tid: i32) -> bool {
        self.calls.contains_key(&tid)
    }

    /// Prepares a stopped thread; false if the call keeps its result, since the thread's memory
    /// cannot be written.
    pub(super) fn prepare(&mut self, carry: Carry) -> bool {
        let thread = Pid::from_raw(carry.tid);
        let Ok(before) = ptrace::getregs(thread) else {
            return false;
        };
        let memory = ThreadMemory::of(carry.tid);
        for (position, patch) in carry.patches.iter().enumerate() {
            if memory.write(patch.address, &patch.now).is_err() {
                unpatch(&carry.patches[..position], &memory);
                return false;
            }
        }
        let mut registers = before;
        registers::make_again(&mut registers, &carry.args);
        if ptrace::setregs(thread, registers).is_err()
            || ptrace::setoptions(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).is_err()
        {
            unpatch(&carry.patches, &memory);
            return false;
        }
        let call = UnderWay {
            before,
            entered: false,
            carry,
        };
        self.calls.insert(call.carry.tid, call);
        true
    }

    /// Lets a prepared thread go.
    pub(super) fn let_go(&self, tid: i32) {
        let _ = ptrace::syscall(Pid::from_raw(tid), None);
    }

    /// Waits until all are over.
    pub(super) fn finish(&mut self) {
        while !self.calls.is_empty() {
            match next_stop() {
                Ok((tid, Seen::Stopped(status))) => self.on_stop(tid, status),
                Ok((tid, Seen::Ended)) => {
                    let pid = self.calls.remove(&tid).map_or(tid, |call| call.carry.pid);
                    reap(pid, tid);
                    // A child of ours stays a zombie until the receive loop reaps it, and
                    // next_stop() only looks: it would report the child again at once. This thread
                    // has no event to wait for, since SIGCHLD is the loop's.
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn on_stop(&mut self, tid: i32, status: i32) {
        /// What PTRACE_O_TRACESYSGOOD adds to SIGTRAP.
        const AT_A_CALL: i32 = libc::SIGTRAP | 0x80;
        let Some(call) = self.calls.get_mut(&tid) else {
            // A thread that was seized by mistake, and took a signal of its own.
            let signal = if status >> 8 == 0 && status != AT_A_CALL {
                status & 0xff
            } else {
                0
            };
            return detach_with(tid, signal);
        };
        if status == AT_A_CALL && !call.entered {
            call.entered = true;
            return self.let_go(tid);
        }
        let signal = match (status >> 8, status & 0xff) {
            _ if status == AT_A_CALL => 0,
            // A signal or a stop before the rest was made: the call is cut short, as it would have
            // been.
            (0, signal) => signal,
            (EVENT_STOP, libc::SIGTRAP) => return self.let_go(tid),
            _ => 0,
        };
        if let Some(call) = self.calls.remove(&tid) {
            call.end();
        }
        detach_with(tid, signal);
    }
}

impl UnderWay {
    /// Makes the result the sum, and restores everything else.
    fn end(self) {
        let thread = Pid::from_raw(self.carry.tid);
        let memory = ThreadMemory::of(self.carry.tid);
        unpatch(&self.carry.patches, &memory);
        let Ok(registers) = ptrace::getregs(thread) else { return };
        let more = if self.entered { registers::result(&registers) } else { 0 };
        let result = if more > 0 {
            if let Some((address, before)) = self.carry.counted {
                let added = memory.read_array(address).map_or(0, u32::from_ne_bytes);
                let _ = memory.write(address, &before.wrapping_add(added).to_ne_bytes());
            }
            self.carry.base + more
        } else {
            self.carry.done
        };
        let mut registers = self.before;
        registers::set_result(&mut registers, result);
        let _ = ptrace::setregs(thread, registers);
    }
}

fn unpatch(patches: &[Patch], memory: &ThreadMemory) {
    for patch in patches {
        let _ = memory.write(patch.address, &patch.afterwards);
    }
}

enum Seen {
    /// The thread's stop, as wait(2) encodes it.
    Stopped(i32),
    Ended,
}

/// Waits for the next stop or end of a thread that this thread traces.
fn next_stop() -> Result<(i32, Seen), Errno> {
    let options = libc::WSTOPPED | libc::WEXITED | libc::__WALL | libc::__WNOTHREAD;
    let wait = |options| {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` has room for what waitid(2) writes.
        Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) })?;
        // SAFETY: zeroed before, and written by the kernel; all bit patterns are values. The fields
        // are those of SIGCHLD, which waitid(2) always fills.
        let (tid, status, code) = unsafe {
            let info = info.assume_init();
            (info.si_pid(), info.si_status(), info.si_code)
        };
        Ok((tid, status, code))
    };
    // Stops are taken, ends are left to `reap`.
    let (tid, status, code) = wait(options | libc::WNOWAIT)?;
    if [libc::CLD_TRAPPED, libc::CLD_STOPPED].contains(&code) {
        let options = libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = tid.cast_unsigned();
        // SAFETY: as above.
        Errno::result(unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), options) })?;
        return Ok((tid, Seen::Stopped(status)));
    }
    Ok((tid, Seen::Ended))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// ptrace(2), signal-delivery-stop: a detached thread loses its signal unless the signal is
    /// passed on.
    #[test]
    fn a_thread_that_is_in_no_list_keeps_its_signal() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let thread = Pid::from_raw(child.id().cast_signed());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        nix::sys::signal::kill(thread, nix::sys::signal::Signal::SIGTERM).unwrap();
        let Ok((tid, Seen::Stopped(status))) = next_stop() else {
            panic!("it stops for its signal");
        };
        assert_eq!((tid, status), (thread.as_raw(), libc::SIGTERM));
        Carried::default().on_stop(tid, status);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
