//! Proof that a process has a single thread, for functions that fork.

use std::marker::PhantomData;

use nix::errno::Errno;

use super::process;

/// Proof that this process has a single thread. It stays with that thread, and is to be dropped
/// before another is made.
#[derive(Debug)]
pub struct SingleThread(PhantomData<*const ()>);

impl SingleThread {
    /// Looks whether there is one thread.
    ///
    /// # Errors
    /// EBUSY if there are more.
    pub fn prove() -> Result<Self, Errno> {
        match process::count_threads(std::process::id().cast_signed()) {
            1 => Ok(Self(PhantomData)),
            _ => Err(Errno::EBUSY),
        }
    }

    /// A token without proof.
    ///
    /// # Safety
    /// What is forked with the token does only what is async-signal-safe (signal-safety(7)) until
    /// it executes.
    pub unsafe fn unproven() -> Self {
        Self(PhantomData)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_more_threads_has_no_proof() {
        // The main thread of the test's program waits for this one.
        assert_eq!(SingleThread::prove().unwrap_err(), Errno::EBUSY);
    }
}
