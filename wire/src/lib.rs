//! What imsup's processes say to each other: the messages between supervisor and broker, the requests of the command
//! line, the events, the addresses they speak of, and how all of it is framed.
//!
//! Everything here is a value, but for [`channel`], which moves frames and the descriptors that belong to them over a
//! Unix socket, [`clock`], which reads clocks, and what both sides do alike with sockets at hosts' addresses ([`owner`], [`neighbours`]).
//! Messages name hosts and addresses, never the pids or paths of one machine, except where a field says
//! that it is only shown to people.
#![forbid(unsafe_code)]

pub mod address;
pub mod asked;
pub mod cgroup;
pub mod channel;
pub mod clock;
pub mod codec;
pub mod control;
pub mod event;
pub mod host;
pub mod limits;
pub mod message;
pub mod neighbours;
pub mod nursery;
pub mod owner;
pub mod sleep;

pub use address::{Endpoint, Index, Place, Plane, Planes, Transport};
pub use control::{Request, Response};
pub use event::{Cause, CauseKind, Event, EventKind};
pub use host::{ExitStatus, HostName, HostState, HostStatus, PublishedPort};
pub use limits::Limits;
pub use message::{Outcome, ToBroker, ToSupervisor};
pub use sleep::{Awaited, Awake, Order, Report, SleepPolicy, Usage, WakeCause, Why};
