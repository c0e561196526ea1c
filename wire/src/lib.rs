//! The values that imsup's parts speak of: addresses, hosts, events, limits, sleep.
//!
//! Pure: nothing here reads a file, a clock or a socket. The messages that carry these values are in
//! `imsup-protocol`.
#![forbid(unsafe_code)]

pub mod address;
pub mod event;
pub mod host;
pub mod limits;
pub mod program;
pub mod restart;
pub mod sleep;

pub use address::{Endpoint, Index, Place, Plane, Planes, Transport};
pub use event::{Cause, CauseKind, Event, EventKind};
pub use host::{ExitStatus, HostName, HostState, HostStatus, PublishedPort};
pub use limits::Limits;
pub use program::{LogBound, ProgramSpec};
pub use restart::{Restart, RestartCondition};
pub use sleep::{Awaited, Awake, Order, Report, SleepPolicy, Usage, WakeCause, Why};
