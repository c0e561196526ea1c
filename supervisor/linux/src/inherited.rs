//! Descriptors that imsup was started with: close_range(2).

use nix::errno::Errno;

use super::syscall::syscall;

/// The first that is not standard input, output or error.
const FIRST: libc::c_uint = 3;

/// Makes all descriptors that are open now close-on-exec, except the standard ones.
///
/// # Errors
/// close_range(2): EINVAL before Linux 5.11.
pub fn keep_from_programs() -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: a flag of descriptors changes, which stay open as whoever owns them has them.
    unsafe { syscall!(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) }.map(drop)
}
