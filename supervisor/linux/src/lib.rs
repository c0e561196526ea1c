//! What touches the kernel: structures, ioctl numbers, raw calls. All `unsafe` of imsup is here.
//!
//! Each module is a facility of Linux. The supervisor and the broker decide; a module here asks the
//! kernel or tells it, and knows neither hosts nor messages.

pub mod aio;
pub mod arrivals;
pub mod carry;
pub mod cgroup;
pub mod cgroup_paths;
pub mod clock;
pub mod confinement;
pub mod cpu;
pub mod delegation;
pub mod descriptors;
pub mod dispositions;
pub mod duplicates;
pub mod family;
pub mod features;
pub mod guard;
pub mod holders;
pub mod inherited;
mod injected;
pub mod inspect;
pub mod limits;
pub mod means;
pub mod memory;
pub mod memory_watch;
pub mod message;
pub mod neighbours;
pub mod notify;
pub mod nursery;
pub mod owner;
pub mod pageout;
pub mod patience;
pub mod priority;
pub mod privileges;
pub mod process;
mod registers;
pub mod replace;
pub mod settings;
pub mod signals;
mod sock_diag;
pub mod socket;
pub mod source;
pub mod spawn;
pub mod static_libc;
pub mod stopped;
pub mod succession;
mod syscall;
pub mod task;
mod tcp_info;
pub mod terminal;
pub mod timers;
pub mod traffic;
pub mod unix_diag;
