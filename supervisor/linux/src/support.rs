//! The calls that imsup may use on the processes of its program: probed once. Docker's default
//! seccomp profile refuses pidfd_getfd(2), and in some versions process_vm_readv(2), to a container
//! without CAP_SYS_PTRACE; each call has a substitute.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::LazyLock;

use imsup_bpf_filters::Sockets;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::{capabilities, pidfd, process_vm};

/// Names, separated by commas, of facilities that imsup must not use: `pidfd_getfd`,
/// `process_vm_readv`, `ptrace`, `pidfd_thread`. For tests and benchmarks of a container's, or of
/// an older kernel's (before 6.9; Debian 12 has 6.1) behaviour on any machine.
pub const WITHOUT: &str = "IMSUP_WITHOUT";

static PRESENT: LazyLock<Support> = LazyLock::new(Support::probe);

/// The usable facilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// pidfd_getfd(2): else the supervisor makes the program's sockets, and keeps copies (the
    /// supervisor's module `mirror`).
    pub pidfd_getfd: bool,
    /// ptrace(2): a stopped thread hands descriptors over ([`super::duplicates`]).
    pub ptrace: bool,
    /// process_vm_readv(2) and process_vm_writev(2): else /proc/TID/mem ([`super::memory`]).
    pub process_vm: bool,
    /// PIDFD_THREAD (pidfd_open(2)): else descriptors come from the thread's process, and no pidfd
    /// is remembered ([`super::task::Tasks`]).
    pub pidfd_thread: bool,
    /// Processes of other users may be inspected only with their own file-system user
    /// ([`super::inspect`]).
    pub as_owner: bool,
}

impl Support {
    /// The facilities usable by this process.
    pub fn present() -> Self {
        *PRESENT
    }

    /// The access to the program's sockets, by which its filter differs.
    pub fn sockets(self) -> Sockets {
        if self.pidfd_getfd {
            Sockets::Duplicated
        } else {
            Sockets::Made
        }
    }

    /// True if descriptors of a stopped program can be duplicated, so that the host may sleep.
    pub fn duplicates_of_held(self) -> bool {
        self.pidfd_getfd || self.ptrace
    }

    /// Root without CAP_SYS_PTRACE could duplicate descriptors of its own processes only, and an
    /// image's entrypoint often becomes another user: so pidfd_getfd(2) is not used there.
    fn probe() -> Self {
        let as_owner = nix::unistd::geteuid().is_root() && !capabilities::has_capability(capabilities::CAP_SYS_PTRACE);
        let named = std::env::var(WITHOUT).unwrap_or_default();
        let without = |name: &str| named.split(',').any(|word| word.trim() == name);
        Self {
            ptrace: !without("ptrace") && try_ptrace().is_ok(),
            pidfd_getfd: !without("pidfd_getfd") && !as_owner && try_pidfd_getfd().is_ok(),
            pidfd_thread: !without("pidfd_thread") && pidfd::has_thread_pidfds(),
            process_vm: !without("process_vm_readv") && process_vm::try_process_vm().is_ok(),
            as_owner,
        }
    }
}

/// Tries pidfd_getfd(2) on this process.
///
/// # Errors
/// EPERM or ENOSYS if refused or unknown.
pub fn try_pidfd_getfd() -> Result<OwnedFd, Errno> {
    let pidfd = pidfd::open_process(std::process::id().cast_signed())?;
    pidfd::duplicate_from(&pidfd, pidfd.as_raw_fd())
}

/// Tries ptrace(2), without a target.
///
/// # Errors
/// EPERM or ENOSYS if refused: by a seccomp filter, by Yama for all but CAP_SYS_PTRACE
/// (Documentation/admin-guide/LSM/Yama.rst), or since imsup does not know this processor's
/// registers.
pub fn try_ptrace() -> Result<(), Errno> {
    /// Yama: only processes with CAP_SYS_PTRACE may attach to a process, even to children of their
    /// own.
    const ADMIN_ONLY: u32 = 2;
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Errno::ENOSYS);
    }
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let scope = scope.trim().parse().unwrap_or(0_u32);
    if scope > ADMIN_ONLY || (scope == ADMIN_ONLY && !capabilities::has_capability(capabilities::CAP_SYS_PTRACE)) {
        return Err(Errno::EPERM);
    }
    // No process has the number 0.
    match ptrace::seize(Pid::from_raw(0), ptrace::Options::empty()) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}
