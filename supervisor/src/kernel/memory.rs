//! The memory of a thread that waits in a trapped call: process_vm_readv(2), process_vm_writev(2).

use std::io::{IoSlice, IoSliceMut};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// The memory of another process. A trait, so that decisions can be tested on memory that is an array.
pub trait TargetMemory {
    /// Reads as many bytes as there are, up to the length of `buffer`; EFAULT where the first is not there.
    ///
    /// # Errors
    /// EFAULT for a bad address, EPERM or ESRCH for a process that cannot be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As [`TargetMemory::read`]; EFAULT also where only a part could be written.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Reads exactly `N` bytes.
    ///
    /// # Errors
    /// As [`TargetMemory::read`]; EFAULT also where fewer are there.
    fn read_array<const N: usize>(&self, address: u64) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        if self.read(address, &mut bytes)? != N {
            return Err(Errno::EFAULT);
        }
        Ok(bytes)
    }

    /// Reads exactly `length` bytes. The caller bounds `length`.
    ///
    /// # Errors
    /// As [`TargetMemory::read_array`].
    fn read_vec(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        if length > 0 && self.read(address, &mut bytes)? != length {
            return Err(Errno::EFAULT);
        }
        Ok(bytes)
    }
}

/// The memory of the process that a thread belongs to.
#[derive(Clone, Copy, Debug)]
pub struct ThreadMemory {
    tid: Pid,
}

impl ThreadMemory {
    /// The memory of thread `tid`.
    pub fn of(tid: i32) -> Self {
        Self {
            tid: Pid::from_raw(tid),
        }
    }
}

impl TargetMemory for ThreadMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let remote = RemoteIoVec {
            base: usize::try_from(address).map_err(|_| Errno::EFAULT)?,
            len: buffer.len(),
        };
        process_vm_readv(self.tid, &mut [IoSliceMut::new(buffer)], &[remote])
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let remote = RemoteIoVec {
            base: usize::try_from(address).map_err(|_| Errno::EFAULT)?,
            len: bytes.len(),
        };
        match process_vm_writev(self.tid, &[IoSlice::new(bytes)], &[remote])? {
            count if count == bytes.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }
}
