//! What touches the kernel: structures, ioctl numbers, raw calls. All `unsafe` of imsup is here.

pub mod cgroup;
pub mod cpu;
pub mod descriptors;
pub mod features;
pub mod holders;
pub mod inspect;
pub mod means;
pub mod memory;
pub mod message;
pub mod notify;
pub mod pageout;
pub mod patience;
pub mod process;
mod registers;
pub mod settings;
pub mod signals;
mod sock_diag;
pub mod socket;
pub mod source;
pub mod spawn;
pub mod stopped;
pub mod succession;
pub mod task;
mod tcp_info;
pub mod timers;
pub mod traffic;
