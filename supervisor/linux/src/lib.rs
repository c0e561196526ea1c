//! The interface to the kernel: structures, ioctl numbers, raw calls. All `unsafe` of imsup is
//! here.
//!
//! Each module is a facility of Linux. The supervisor and the broker decide; a module here asks the
//! kernel or instructs it, and knows neither hosts nor messages.
//!
//! Signatures of imsup's own functions speak of errors as `nix::errno::Errno`; [`socket::errno_of`]
//! converts the errors of rustix at its calls.

pub mod aio;
pub mod arrivals;
pub mod capabilities;
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
mod hand_over;
pub mod holders;
pub mod inherited;
mod injected;
pub mod inspect;
pub mod limits;
pub mod memory;
pub mod memory_watch;
pub mod message;
pub mod neighbours;
pub mod notify;
pub mod occupants;
pub mod owner;
pub mod pageout;
pub mod pidfd;
pub mod priority;
pub mod privileges;
pub mod process;
mod process_vm;
mod registers;
pub mod replace;
pub mod root;
pub mod settings;
pub mod signals;
pub mod single_thread;
mod sock_diag;
pub mod socket;
pub mod source;
pub mod spawn;
pub mod static_libc;
pub mod stopped;
pub mod support;
mod syscall;
pub mod takeover;
pub mod task;
mod tcp_info;
pub mod terminal;
pub mod timers;
mod tracee;
pub mod traffic;
pub mod unix_diag;
pub mod user_namespace;
pub mod watchdog;
pub mod zygote;
