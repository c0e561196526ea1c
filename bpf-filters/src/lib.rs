//! THE table of trapped system calls, and the filters compiled from it.
//!
//! [`table`] says what is done with each call; [`notify`] has the filter that applications run
//! under; [`confine()`] is the filter that imsup itself runs under.
#![forbid(unsafe_code)]

pub mod confine;
pub mod notify;
pub mod table;

pub use confine::{ConfineError, Confined, confine, confinement};
pub use notify::notify_filter;
pub use table::{Action, Condition, Families, HANDOVER_FLAG, Handler, Row, Sockets, TABLE, Test, handler_of};
