//! The memory of a thread that waits in a trapped call: process_vm_readv(2) and
//! process_vm_writev(2), or /proc/TID/mem if those are refused (proc_pid_mem(5)): three system
//! calls instead of one, measured 2 us.

#[cfg(any(test, feature = "testing"))]
pub mod array;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::support::Support;
use super::{inspect, process_vm};

/// The memory of another process. A trait, so that decisions can be tested on memory that is an
/// array.
pub trait TargetMemory {
    /// Reads as many bytes as available, up to the length of `buffer`; EFAULT if the first byte is
    /// not mapped.
    ///
    /// # Errors
    /// EFAULT for a bad address, EPERM or ESRCH for a process that cannot be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As [`TargetMemory::read`]; also EFAULT if only a part was written.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Reads exactly `N` bytes.
    ///
    /// # Errors
    /// As [`TargetMemory::read`]; also EFAULT if fewer bytes are mapped.
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
    by_file: bool,
}

impl ThreadMemory {
    /// The memory of thread `tid`.
    pub fn of(tid: i32) -> Self {
        Self {
            by_file: !Support::present().process_vm,
            tid: Pid::from_raw(tid),
        }
    }

    /// The same memory, always accessed through /proc/TID/mem.
    pub fn by_file(tid: i32) -> Self {
        Self {
            by_file: true,
            ..Self::of(tid)
        }
    }
}

impl TargetMemory for ThreadMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if !self.by_file {
            match process_vm::read(self.tid, address, buffer) {
                // The kernel refuses because the process belongs to another user.
                Err(Errno::EPERM) => {}
                result => return result,
            }
        }
        let file = self.open(OpenOptions::new().read(true))?;
        match file.read_at(buffer, address) {
            // The process has no memory any more, or has executed another program.
            Ok(0) if !buffer.is_empty() => Err(Errno::EFAULT),
            Ok(count) => Ok(count),
            Err(error) => Err(fault(&error)),
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if !self.by_file {
            match process_vm::write(self.tid, address, bytes) {
                Err(Errno::EPERM) => {}
                result => return result,
            }
        }
        // Writes through the file also reach read-only memory (mm/gup.c, FOLL_FORCE), for which the
        // kernel itself would return EFAULT.
        if !self.is_writable(address, bytes.len()) {
            return Err(Errno::EFAULT);
        }
        let file = self.open(OpenOptions::new().write(true))?;
        match file.write_at(bytes, address) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(Errno::EFAULT),
            Err(error) => Err(fault(&error)),
        }
    }
}

impl ThreadMemory {
    /// Opened anew for each access: an open file keeps the memory that the process had at that
    /// time, also after an execve(2).
    fn open(&self, options: &OpenOptions) -> Result<File, Errno> {
        let tid = self.tid.as_raw();
        inspect::as_owner(tid, || options.open(format!("/proc/{tid}/mem"))).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ENOENT) | None => Errno::ESRCH,
                Some(errno) => Errno::from_raw(errno),
            }
        })
    }

    /// Whether all of a range lies in mappings that may be written to (proc_pid_maps(5)).
    fn is_writable(&self, address: u64, length: usize) -> bool {
        let tid = self.tid.as_raw();
        let maps = inspect::as_owner(tid, || std::fs::read_to_string(format!("/proc/{tid}/maps"))).unwrap_or_default();
        let Some(end) = address.checked_add(length as u64) else {
            return false;
        };
        let mut reached = address;
        for (from, to) in maps.lines().filter_map(writable_range) {
            if (from..to).contains(&reached) {
                reached = to;
            }
        }
        reached >= end
    }
}

/// The range of a line of /proc/PID/maps; `None` if the range is not writable.
fn writable_range(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    fields.next()?.get(1..2).filter(|flag| *flag == "w")?;
    Some((number(from)?, number(to)?))
}

/// Access through the file fails with EIO for a bad address, and with EINVAL for an address beyond
/// the largest offset.
fn fault(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(libc::EIO | libc::EINVAL) => Errno::EFAULT,
        other => Errno::from_raw(other.unwrap_or(libc::EFAULT)),
    }
}
