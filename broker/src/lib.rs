//! The broker: the stand-in for absent hosts.
//!
//! A compose file becomes a [`imsup_compose::cluster::Cluster`]. The broker gives each host an
//! address and retains the host's sockets, boots a host on a signal that the host is needed, and
//! answers look-ups of names.
#![forbid(unsafe_code)]

mod absent;
mod accounts;
mod address_block;
mod broker;
mod changes;
pub mod client;
mod clock;
pub mod containers;
pub mod engine;
mod error;
pub mod events;
mod files;
mod health;
mod helpers;
mod history;
mod holder;
mod hosts;
mod ids;
mod in_the_way;
mod journal;
pub mod keeper;
mod launcher;
mod leases;
mod limits;
pub mod logs;
mod loop_messages;
pub mod lost;
mod names;
pub mod own_program;
pub mod paths;
mod peer_lookup;
mod peers;
mod project_directories;
mod project_files;
mod project_lock;
pub mod projects;
mod published;
mod resolvers;
mod retained;
mod routes;
mod run;
mod sessions;
mod shared_networks;
mod signals;
mod sockets;
#[cfg(test)]
mod testing;
mod tokens;
mod trust;
mod watch;

pub use absent::{AbsentError, down_without_broker, has_broker};
pub use address_block::{BlockError, NAME_PORT};
pub use error::BrokerError;
pub use published::PublishError;
pub use resolvers::namespace::serve as make_resolver_sockets;
pub use routes::RouteError;
pub use run::{Ended, Options, run};
