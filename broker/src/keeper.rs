//! The keeper: a process that holds a second descriptor of every socket in which something may
//! wait, so that these sockets outlive a broker that dies.
//!
//! It speaks the protocol of systemd's file descriptor store (sd_notify(3),
//! sd_pid_notify_with_fds(3)), so that systemd's own can take its place: a broker stores
//! descriptors under names, removes them by name, and asks with a barrier (sd_notify_barrier(3))
//! whether all that was done. The keeper does not know what the names mean, and writes nothing to a
//! broker that serves but which versions it speaks.
//!
//! * [`FdStore`]: the broker's side.
//! * [`keep`]: the keeper's process. When the connection ends without `STOPPING=1`, the broker has
//!   died: the keeper starts the next broker, and gives it all descriptors.
//! * [`Restored`]: the descriptors that the next broker gets.

mod attempts;
mod link;
mod message;
mod names;
mod process;
#[cfg(test)]
mod recorded;
mod restored;
mod store;

use std::ffi::OsString;

pub(crate) use link::Recipe;
pub(crate) use names::What;
pub use process::{Keeper, keep};
pub use restored::{RestoreError, Restored};
pub(crate) use store::{AGAIN, FdStore, TIMEOUT};

use crate::absent;
use crate::paths::Paths;

/// The way to start a broker after the death of the last one.
#[derive(Clone, Debug)]
pub struct Successor {
    /// The arguments of `imsup` that start the broker. The standard input is then for
    /// [`Restored::receive`], and so is the number after `--nofile`, which is appended to the
    /// arguments if there is a limit.
    pub arguments: Vec<OsString>,
}

/// Whether the project has a keeper: the next broker comes by itself.
pub fn has_keeper(paths: &Paths) -> bool {
    absent::is_locked(&paths.keeper())
}
