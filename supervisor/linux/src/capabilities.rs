//! What this process is privileged to do: capabilities(7).

/// Debugging processes of others: ptrace(2), pidfd_getfd(2) and the like (capabilities(7)).
pub const CAP_SYS_PTRACE: u64 = 1 << 19;

/// Whether this process has an effective capability (capabilities(7)), given as a mask.
pub fn has_capability(mask: u64) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.bits() & mask != 0)
}
