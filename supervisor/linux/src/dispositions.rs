//! Signal dispositions of imsup's own processes, and of the programs that they start: signal(7),
//! execve(2).

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

use super::syscall::syscall;

/// The signals that glibc keeps for itself (nptl(7)). Its posix_spawn(3) leaves them ignored in
/// children, such as imsup's own processes; a shell, which forks, does not.
const INTERNAL: [libc::c_int; 2] = [32, 33];

/// Signals whose disposition imsup's own processes need different from the inherited one (`trap ""
/// CHLD`; systemd's services ignore SIGPIPE).
const CHANGED: [Signal; 4] = [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTTOU, Signal::SIGCHLD];

/// Whether each was ignored when this process was started.
static IGNORED: [AtomicBool; CHANGED.len()] = [const { AtomicBool::new(false) }; CHANGED.len()];

/// Rust ignores SIGPIPE before `main`, so the earlier disposition is read earlier still: ld.so
/// calls the functions of this section.
// SAFETY: a function of C, which needs nothing that is not there yet: sigaction(2) and atomics.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = note_ignored;

extern "C" fn note_ignored() {
    for (changed, ignored) in CHANGED.into_iter().zip(&IGNORED) {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: `action` outlives the call, which changes nothing, and all zeros are a valid one
        // (SIG_DFL) if it fails.
        let handler = unsafe {
            libc::sigaction(changed as libc::c_int, ptr::null(), action.as_mut_ptr());
            action.assume_init().sa_sigaction
        };
        ignored.store(handler == libc::SIG_IGN, Ordering::Relaxed);
    }
}

/// Sets the dispositions that imsup's own processes need. A write beyond the limit of a file's size
/// (`ulimit -f`) fails with EFBIG instead of ending the process (setrlimit(2), RLIMIT_FSIZE).
/// Output in the background of a terminal stops neither imsup nor a program of its process group
/// (`stty tostop`, termios(3)). Children can be waited for (wait(2)). Rust itself ignores SIGPIPE.
///
/// # Errors
/// sigaction(2).
pub fn set_own() -> Result<(), Errno> {
    // SAFETY: neither is a handler of ours.
    unsafe {
        signal(Signal::SIGXFSZ, SigHandler::SigIgn)?;
        signal(Signal::SIGTTOU, SigHandler::SigIgn)?;
        signal(Signal::SIGCHLD, SigHandler::SigDfl)?;
    }
    Ok(())
}

/// This process was started by imsup: signals it found ignored are imsup's own affair, and not its
/// program's.
pub fn disregard_inherited() {
    for ignored in &IGNORED {
        ignored.store(false, Ordering::Relaxed);
    }
}

/// Sets the dispositions that a program expects, in a process that is about to execute it: imsup's
/// changes are undone.
pub(super) fn set_a_programs() -> Result<(), Errno> {
    for (changed, ignored) in CHANGED.into_iter().zip(&IGNORED) {
        let handler = match ignored.load(Ordering::Relaxed) {
            true => SigHandler::SigIgn,
            false => SigHandler::SigDfl,
        };
        // SAFETY: neither is a handler of ours.
        unsafe { signal(changed, handler) }?;
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
    unsafe {
        syscall!(
            libc::SYS_rt_sigaction,
            signal,
            DEFAULT.as_ptr(),
            ptr::null_mut::<u64>(),
            SET
        )
    }
    .map(drop)
}
