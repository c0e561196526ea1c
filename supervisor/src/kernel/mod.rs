//! What touches the kernel: structures, ioctl numbers, raw calls. All `unsafe` of imsup is here.

pub mod cgroup;
pub mod cpu;
pub mod descriptors;
pub mod features;
pub mod memory;
pub mod notify;
pub mod pageout;
pub mod process;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod stopped;
pub mod succession;
pub mod task;
pub mod timers;
pub mod traffic;
