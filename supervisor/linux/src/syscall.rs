//! System calls that no library has: syscall(2).
//!
//! syscall(2) is variadic and hands whole registers to the kernel, so an argument that is narrower
//! than a register leaves the upper half of one undefined. Here each argument is widened before:
//! `clippy.toml` allows `libc::syscall` in this file alone.

use std::ffi::c_long;

use nix::errno::Errno;

/// The possible types of an argument in a register.
pub(super) trait Argument {
    /// The value, as wide as a register.
    fn word(self) -> c_long;
}

macro_rules! widened {
    ($($kind:ty),*) => {$(
        impl Argument for $kind {
            fn word(self) -> c_long {
                c_long::from(self)
            }
        }
    )*};
}

widened!(i32, u32, i64);

impl Argument for u64 {
    fn word(self) -> c_long {
        self.cast_signed()
    }
}

impl Argument for usize {
    fn word(self) -> c_long {
        (self as u64).cast_signed()
    }
}

impl<T> Argument for *const T {
    fn word(self) -> c_long {
        self.expose_provenance().word()
    }
}

impl<T> Argument for *mut T {
    fn word(self) -> c_long {
        self.expose_provenance().word()
    }
}

/// A system call with these arguments; missing arguments are 0. As async-signal-safe as the call
/// itself (signal-safety(7)).
///
/// # Errors
/// As the call.
///
/// # Safety
/// As the call: the kernel reads and writes memory through pointers among the arguments.
pub(super) unsafe fn call<const N: usize>(number: c_long, arguments: [c_long; N]) -> Result<c_long, Errno> {
    const { assert!(N <= 6, "a system call has six arguments") };
    let mut words = [0; 6];
    words[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = words;
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where its arguments are known to be wide enough"
    )]
    // SAFETY: all arguments are as wide as a register; their meaning is the caller's
    // responsibility.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(result)
}

/// A system call with widened arguments: `syscall!(libc::SYS_kcmp, one, other, 2)`. As unsafe as
/// [`call`].
macro_rules! syscall {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::syscall::call($number, [$($crate::syscall::Argument::word($argument)),*])
    };
}

pub(super) use syscall;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_as_wide_as_a_register() {
        assert_eq!((-1_i32).word(), -1, "the sign goes into the upper half");
        assert_eq!(u32::MAX.word(), 0xffff_ffff, "and nothing where there is none");
        assert_eq!(u64::MAX.word(), -1);
        assert_eq!(
            std::ptr::without_provenance::<u8>(0x1234_5678_9abc).word(),
            0x1234_5678_9abc
        );
    }
}
