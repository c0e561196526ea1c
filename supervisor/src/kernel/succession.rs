//! Listening sockets that take another's place, and what waits in them: listen(2), socket(7).

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

/// A socket that has taken a listener's place.
#[derive(Debug)]
pub struct Successor {
    /// The new one.
    pub socket: OwnedFd,
    /// Connections that wait in the old one.
    pub old_queue: u32,
}

/// Connections that wait in a listener, and its backlog.
///
/// # Errors
/// EINVAL where it does not listen.
pub fn accept_queue(_listener: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    Err(Errno::ENOSYS)
}

/// A socket that takes the place of `listener`.
///
/// # Errors
/// What bind(2) and listen(2) say.
pub fn succeed(_listener: BorrowedFd<'_>, _backlog: i32) -> Result<Successor, Errno> {
    Err(Errno::ENOSYS)
}

/// Makes the old one of a succession the chosen one again.
///
/// # Errors
/// What setsockopt(2) says.
pub fn give_back(_listener: BorrowedFd<'_>) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}
