//! What signals do to imsup's own processes, and to the programs that they start: signal(7), execve(2).

use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

/// The signals that glibc keeps for itself (nptl(7)). Its posix_spawn(3) leaves them ignored in what it starts, which is how imsup's own processes come by
/// that; a shell, which forks, does not.
const INTERNAL: [libc::c_int; 2] = [32, 33];

/// Whether children were ignored when this process was started (`trap "" CHLD`).
static CHILDREN_IGNORED: AtomicBool = AtomicBool::new(false);

/// Sets what imsup's own processes need: that a write beyond the limit of a file's size (`ulimit -f`) fails with EFBIG instead of ending the process
/// (setrlimit(2), RLIMIT_FSIZE), and that children can be waited for (wait(2)). Rust itself ignores SIGPIPE.
///
/// # Errors
/// sigaction(2).
pub fn set_own() -> Result<(), Errno> {
    // SAFETY: neither is a handler of ours.
    let before = unsafe {
        signal(Signal::SIGXFSZ, SigHandler::SigIgn)?;
        signal(Signal::SIGCHLD, SigHandler::SigDfl)?
    };
    CHILDREN_IGNORED.store(matches!(before, SigHandler::SigIgn), Ordering::Relaxed);
    Ok(())
}

/// Sets what a program expects, in a process that is about to execute it: what imsup has changed is undone.
pub(super) fn set_a_programs() -> Result<(), Errno> {
    let children = match CHILDREN_IGNORED.load(Ordering::Relaxed) {
        true => SigHandler::SigIgn,
        false => SigHandler::SigDfl,
    };
    // SAFETY: neither is a handler of ours.
    unsafe {
        signal(Signal::SIGPIPE, SigHandler::SigDfl)?;
        signal(Signal::SIGXFSZ, SigHandler::SigDfl)?;
        signal(Signal::SIGCHLD, children)?;
    }
    INTERNAL.into_iter().try_for_each(set_default)
}

/// Sets the default of a signal that glibc's sigaction(3) refuses to touch.
fn set_default(signal: libc::c_int) -> Result<(), Errno> {
    /// The kernel's own sigaction, all zero: SIG_DFL, no flags, an empty mask (rt_sigaction(2)).
    const DEFAULT: [u64; 4] = [0; 4];
    /// Bytes in the kernel's sigset_t.
    const SET: usize = 8;
    // SAFETY: the kernel reads the structure, which is as long as its own, and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::c_long::from(signal),
            DEFAULT.as_ptr(),
            std::ptr::null_mut::<u64>(),
            SET,
        )
    };
    Errno::result(result).map(drop)
}
