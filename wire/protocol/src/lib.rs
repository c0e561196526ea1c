//! What imsup's processes say to each other: the messages between supervisor and broker, the
//! requests of the command line, and how all of it is framed.
//!
//! Messages are values; [`channel`] alone does I/O: it moves frames, and the descriptors that
//! belong to them, over a Unix socket. Messages name hosts and addresses, never the pids or paths
//! of one machine, except if a field says that it is only shown to people.
#![forbid(unsafe_code)]

pub mod asked;
pub mod channel;
pub mod codec;
pub mod control;
pub mod message;
pub mod version;
pub mod zygote;

pub use control::{Request, Response};
pub use message::{Outcome, ToBroker, ToSupervisor};
