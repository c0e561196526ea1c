//! What touches the kernel: structures, ioctl numbers, raw calls. All `unsafe` of imsup is here.

pub mod features;
pub mod memory;
pub mod notify;
pub mod process;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod task;
