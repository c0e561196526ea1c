//! The values that imsup's parts speak of: addresses, hosts, events, failures, limits, sleep.
//!
//! Pure: nothing here reads a file, a clock or a socket. The messages that carry these values are
//! in `imsup-protocol`.
#![forbid(unsafe_code)]

pub mod address;
pub mod cause;
pub mod event;
pub mod failure;
pub mod host;
pub mod limits;
pub mod path;
pub mod program;
pub mod restart;
pub mod root;
pub mod sleep;

pub use address::{Endpoint, Index, Place, Plane, Planes, Transport};
pub use cause::CauseKind;
pub use event::{Cause, Event, EventKind};
pub use failure::{ErrorKind, Failure};
pub use host::{ExitStatus, Health, HostName, HostState, HostStatus, PublishedPort};
pub use limits::Limits;
pub use program::{LogBound, ProgramSpec};
pub use restart::{Restart, RestartCondition};
pub use root::{Ids, RootSpec};
pub use sleep::{Awaited, Awake, Order, Report, SleepPolicy, Usage, WakeCause, Why};
