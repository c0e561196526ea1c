//! The state of a stopped thread, by the thread's registers: ptrace(2), arch/x86/entry/calling.h.

use nix::errno::Errno;

/// The state of a stopped thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// In user mode: the thread was running.
    UserMode,
    /// In an interrupted system call, which will be restarted or will return EINTR: the thread was
    /// blocked in the call.
    Blocked {
        /// The call. Bit 30 is set for a call of a 32-bit program, and for no call of the native
        /// table.
        number: i64,
        /// The arguments of the call. For restart_syscall(2), these are the arguments of the
        /// continued call.
        args: [u64; 6],
        /// The stack pointer, which tells a restarted call from another call.
        stack: u64,
        /// True if the call returns EINTR: the kernel does not restart this call by itself
        /// (epoll_wait, recv with SO_RCVTIMEO; signal(7)).
        eintr: bool,
        /// The mark set by [`GoOn::Anew`]; 0 if there is no mark.
        mark: u32,
    },
    /// The call had completed, with this result.
    Completed {
        /// The call.
        number: i64,
        /// Its arguments.
        args: [u64; 6],
        /// The result of the call.
        result: i64,
    },
    /// In a group-stop (SIGSTOP) already.
    GroupStop,
}

/// ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND and ERESTART_RESTARTBLOCK (include/linux/errno.h),
/// which no program sees, and EINTR: the results of a call that was interrupted during a wait.
#[cfg(target_arch = "x86_64")]
const INTERRUPTED: [i64; 5] = [-512, -513, -514, -516, -(libc::EINTR as i64)];

/// Reads the state of the stopped thread `tid`.
///
/// # Errors
/// ESRCH if the thread was killed.
#[cfg(target_arch = "x86_64")]
pub(super) fn read(tid: i32) -> Result<At, Errno> {
    Ok(decode(&nix::sys::ptrace::getregs(nix::unistd::Pid::from_raw(tid))?))
}

/// Other processors store an interrupted call differently (arm64 rewinds the call before a tracer
/// can look), so the state of a thread cannot be read.
///
/// # Errors
/// ENOSYS, always.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn read(_tid: i32) -> Result<At, Errno> {
    Err(Errno::ENOSYS)
}

/// A system call's number: the kernel itself looks at the low half only (arch/x86/entry/entry_64.S,
/// `movslq %eax, %rsi`).
#[cfg(target_arch = "x86_64")]
fn low_half(register: u64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "that is what is meant")]
    let half = register as u32;
    i64::from(half.cast_signed())
}

#[cfg(target_arch = "x86_64")]
fn decode(registers: &libc::user_regs_struct) -> At {
    /// The code segment of 32-bit programs (arch/x86/include/asm/segment.h, `__USER32_CS`).
    const USER32_CS: u64 = 0x23;
    /// `__X32_SYSCALL_BIT`.
    const OTHER_TABLE: i64 = 0x4000_0000;

    let number = low_half(registers.orig_rax);
    let result = registers.rax.cast_signed();
    // Exceptions and interrupts store -1 there.
    if number < 0 {
        return At::UserMode;
    }
    let compat = registers.cs == USER32_CS;
    let number = if compat { number | OTHER_TABLE } else { number };
    let r = registers;
    let args = if compat {
        [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp]
    } else {
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
    };
    if !INTERRUPTED.contains(&result) {
        return At::Completed { number, args, result };
    }
    At::Blocked {
        number,
        args,
        stack: registers.rsp,
        eintr: result == -i64::from(libc::EINTR),
        mark: mark_of(registers.orig_rax),
    }
}

#[cfg(target_arch = "x86_64")]
fn mark_of(register: u64) -> u32 {
    u32::try_from(register >> 32).unwrap_or(0)
}

/// How an interrupted call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoOn {
    /// The call is begun anew. A call that would return EINTR does so only if a signal handler runs
    /// first, as natively (-ERESTARTNOHAND).
    Anew {
        /// A mark to recognize the call as long as the call goes on; 0 for no mark. The mark is
        /// stored in the upper half of the register with the call's number. The kernel ignores this
        /// half, and the result replaces the register, so the program never sees the mark.
        mark: u32,
    },
    /// The call returns this value.
    Return(i64),
}

/// -ERESTARTNOHAND (include/linux/errno.h).
#[cfg(target_arch = "x86_64")]
const ERESTARTNOHAND: i64 = -514;

/// Decides how the interrupted call of a stopped thread goes on.
///
/// # Errors
/// ESRCH if the thread was killed.
#[cfg(target_arch = "x86_64")]
pub(super) fn write(tid: i32, go_on: GoOn) -> Result<(), Errno> {
    let thread = nix::unistd::Pid::from_raw(tid);
    let mut registers = nix::sys::ptrace::getregs(thread)?;
    decide(&mut registers, go_on);
    nix::sys::ptrace::setregs(thread, registers)
}

/// Has a call that is over made again, with these arguments, unless a signal comes first
/// (-ERESTARTSYS).
#[cfg(target_arch = "x86_64")]
pub(super) fn make_again(registers: &mut libc::user_regs_struct, args: &[u64; 6]) {
    registers.rax = (-512_i64).cast_unsigned();
    [
        registers.rdi,
        registers.rsi,
        registers.rdx,
        registers.r10,
        registers.r8,
        registers.r9,
    ] = *args;
}

/// The instruction that enters the kernel: `syscall`.
pub(super) const ENTRY: [u8; 2] = [0x0f, 0x05];

/// The address of the instruction by which a stopped thread entered the kernel, if this was
/// [`ENTRY`]; `None` for a 32-bit program.
#[cfg(target_arch = "x86_64")]
pub(super) fn entry(registers: &libc::user_regs_struct) -> Option<u64> {
    /// `__USER_CS` (arch/x86/include/asm/segment.h).
    const USER_CS: u64 = 0x33;
    (registers.cs == USER_CS).then(|| registers.rip.wrapping_sub(ENTRY.len() as u64))
}

/// Has a stopped thread make another call, from this instruction. No call is restarted meanwhile
/// (`orig_rax` of -1).
#[cfg(target_arch = "x86_64")]
pub(super) fn make_call(registers: &mut libc::user_regs_struct, entry: u64, number: i64, args: &[u64; 6]) {
    make_again(registers, args);
    registers.rip = entry;
    registers.rax = number.cast_unsigned();
    registers.orig_rax = u64::MAX;
}

/// The result of a completed call.
#[cfg(target_arch = "x86_64")]
pub(super) fn result(registers: &libc::user_regs_struct) -> i64 {
    registers.rax.cast_signed()
}

/// Has a call return this.
#[cfg(target_arch = "x86_64")]
pub(super) fn set_result(registers: &mut libc::user_regs_struct, result: i64) {
    registers.rax = result.cast_unsigned();
}

/// As [`read`]: never called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn make_again(_registers: &mut libc::user_regs_struct, _args: &[u64; 6]) {}

/// As [`read`]: never called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn entry(_registers: &libc::user_regs_struct) -> Option<u64> {
    None
}

/// As [`read`]: never called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn make_call(_registers: &mut libc::user_regs_struct, _entry: u64, _number: i64, _args: &[u64; 6]) {}

/// As [`read`]: never called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn result(_registers: &libc::user_regs_struct) -> i64 {
    0
}

/// As [`read`]: never called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn set_result(_registers: &mut libc::user_regs_struct, _result: i64) {}

#[cfg(target_arch = "x86_64")]
fn decide(registers: &mut libc::user_regs_struct, go_on: GoOn) {
    match go_on {
        GoOn::Return(result) => registers.rax = result.cast_unsigned(),
        GoOn::Anew { mark } => {
            if registers.rax.cast_signed() == -i64::from(libc::EINTR) {
                registers.rax = ERESTARTNOHAND.cast_unsigned();
            }
            if mark != 0 {
                registers.orig_rax = u64::from(mark) << 32 | registers.orig_rax & u64::from(u32::MAX);
            }
        }
    }
}

/// As [`read`]: never called, since no state can be read.
///
/// # Errors
/// ENOSYS, always.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn write(_tid: i32, _go_on: GoOn) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn registers(number: i64, result: i64, cs: u64) -> libc::user_regs_struct {
        // SAFETY: the structure consists of integers only; all zeros is a valid value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        registers.orig_rax = number.cast_unsigned();
        registers.rax = result.cast_unsigned();
        registers.cs = cs;
        (registers.rdi, registers.rbx, registers.rsp) = (7, 8, 9);
        registers
    }

    #[test]
    fn an_interrupted_call_is_told_from_one_that_is_over() {
        for result in INTERRUPTED {
            assert_eq!(
                decode(&registers(libc::SYS_poll, result, 0x33)),
                At::Blocked {
                    number: libc::SYS_poll,
                    args: [7, 0, 0, 0, 0, 0],
                    stack: 9,
                    eintr: result == -4,
                    mark: 0,
                }
            );
        }
        for result in [0, 1, -11] {
            let number = libc::SYS_poll;
            assert_eq!(
                decode(&registers(number, result, 0x33)),
                At::Completed {
                    number,
                    args: [7, 0, 0, 0, 0, 0],
                    result
                }
            );
        }
        assert_eq!(decode(&registers(-1, -512, 0x33)), At::UserMode);
    }

    #[test]
    fn a_32_bit_call_is_no_call_of_the_native_table() {
        let At::Blocked { number, args, .. } = decode(&registers(168, -512, 0x23)) else {
            panic!("blocked")
        };
        assert_eq!((number, args[0]), (168 | 0x4000_0000, 8));
    }

    #[test]
    fn a_mark_is_read_again_and_is_no_part_of_the_number() {
        let mut stopped = registers(libc::SYS_epoll_wait, -4, 0x33);
        decide(&mut stopped, GoOn::Anew { mark: 77 });
        assert_eq!(stopped.rax.cast_signed(), ERESTARTNOHAND);
        let At::Blocked {
            number, eintr, mark, ..
        } = decode(&stopped)
        else {
            panic!("blocked")
        };
        assert_eq!((number, eintr, mark), (libc::SYS_epoll_wait, false, 77));
        // A call that is interrupted again keeps the mark. A restart that the kernel makes by
        // itself stays unchanged.
        decide(&mut stopped, GoOn::Anew { mark: 0 });
        stopped.rax = (-512_i64).cast_unsigned();
        decide(&mut stopped, GoOn::Anew { mark: 77 });
        assert_eq!(stopped.rax.cast_signed(), -512);
        let At::Blocked { mark, .. } = decode(&stopped) else {
            panic!("blocked")
        };
        assert_eq!(mark, 77);
    }
}
