//! The memory of another process in one system call: process_vm_readv(2) and process_vm_writev(2).

use std::io::{IoSlice, IoSliceMut};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// Reads as many bytes as there are, up to the length of `buffer`.
pub(crate) fn read(tid: Pid, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let remote = RemoteIoVec {
        base: usize::try_from(address).map_err(|_| Errno::EFAULT)?,
        len: buffer.len(),
    };
    process_vm_readv(tid, &mut [IoSliceMut::new(buffer)], &[remote])
}

/// Writes all of `bytes`; EFAULT if only a part could be written.
pub(crate) fn write(tid: Pid, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let remote = RemoteIoVec {
        base: usize::try_from(address).map_err(|_| Errno::EFAULT)?,
        len: bytes.len(),
    };
    match process_vm_writev(tid, &[IoSlice::new(bytes)], &[remote])? {
        count if count == bytes.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Tries process_vm_readv(2) and process_vm_writev(2) on this process.
///
/// # Errors
/// EPERM or ENOSYS if a call is refused or unknown.
pub fn try_process_vm() -> Result<(), Errno> {
    let mut value = [7_u8; 8];
    let address = value.as_mut_ptr().expose_provenance() as u64;
    let own = nix::unistd::gettid();
    let mut bytes = [0; 8];
    read(own, address, &mut bytes)?;
    write(own, address, &bytes)
}
