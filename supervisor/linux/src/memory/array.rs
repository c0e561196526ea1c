//! Memory that is an array, for tests of code that reads a program's memory.

use std::cell::RefCell;

use super::*;

/// A stretch of memory that is not a process's.
pub struct Array {
    base: u64,
    bytes: RefCell<Vec<u8>>,
}

impl Array {
    /// Memory that begins at address 0.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::at(0, bytes)
    }

    /// Memory that begins at the address `base`.
    pub fn at(base: u64, bytes: Vec<u8>) -> Self {
        Self {
            base,
            bytes: RefCell::new(bytes),
        }
    }

    fn place(&self, address: u64) -> Result<usize, Errno> {
        let offset = address.checked_sub(self.base).ok_or(Errno::EFAULT)?;
        usize::try_from(offset).map_err(|_| Errno::EFAULT)
    }

    /// The current bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner()
    }
}

impl TargetMemory for Array {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let memory = self.bytes.borrow();
        let rest = memory.get(self.place(address)?..).ok_or(Errno::EFAULT)?;
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        if count == 0 { Err(Errno::EFAULT) } else { Ok(count) }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut memory = self.bytes.borrow_mut();
        let start = self.place(address)?;
        let place = memory.get_mut(start..start + bytes.len()).ok_or(Errno::EFAULT)?;
        place.copy_from_slice(bytes);
        Ok(())
    }
}
