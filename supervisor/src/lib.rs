//! The supervisor: runs a program as a host, and answers the program's trapped system calls.
//!
//! Data flows one way. The crate `imsup-linux` receives a notification. A handler in [`syscalls`]
//! parses the arguments, decides on a plan that is a value, and has `imsup-linux` carry the plan
//! out. A call that must wait is [`pending`], and the receive loop goes on.
#![forbid(unsafe_code)]

mod environment;
mod error;
mod farewell;
pub mod handover;
pub mod host;
pub mod identity;
pub mod incoming;
mod init;
pub mod link;
pub mod mirror;
mod own_hosts;
pub mod pending;
mod questions;
mod receive;
mod reconnect;
mod resolvers;
mod rooted;
mod run;
mod running;
pub mod said;
pub mod sleep;
pub mod sockets;
pub mod strangers;
pub mod syscalls;
pub mod trace;
pub mod unhonoured;
mod user;
mod verdict;

pub use error::RunError;
pub use run::{Assignment, prepare, run};
pub use running::RunningLockError;
pub use user::UserError;
