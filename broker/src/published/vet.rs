//! Keeps the traffic of published ports from other users that listen at hosts' addresses.
//!
//! Blocking: the thread of the relay asks the kernel for one socket, which is found by its hash.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use imsup_linux::owner::{Owner, Owners};
use imsup_wire::Endpoint;

use crate::sockets::canonical;
use crate::trust::SharedTrust;

/// Called each time with a user outside of the project that has a socket at the target of a
/// published port.
pub(crate) type OnStranger = Box<dyn Fn(u32, Endpoint) + Send>;

/// Finds the owners of the sockets that answer.
pub(crate) struct Vet {
    /// `None` if the kernel does not name owners; then all users are trusted.
    owners: Option<Owners>,
    trust: SharedTrust,
    on_stranger: OnStranger,
}

impl Vet {
    pub(crate) fn new(trust: SharedTrust, on_stranger: OnStranger) -> Self {
        Self {
            owners: Owners::open().ok(),
            trust,
            on_stranger,
        }
    }

    /// Checks that a connection just made, or begun, by `socket` is with a user of the project.
    ///
    /// # Errors
    /// PermissionDenied for other users.
    pub(super) fn connection(&mut self, socket: &OwnedFd, target: Endpoint) -> io::Result<()> {
        let local = rustix::net::getsockname(socket)?;
        let Ok(SocketAddr::V4(client)) = SocketAddr::try_from(local).map(canonical) else {
            return Ok(());
        };
        let found = self
            .owners
            .as_mut()
            .and_then(|owners| owners.of_server(target.address, client).ok()?);
        self.judge(found, target)
    }

    /// Checks that the receiver of datagrams to `target` is a user of the project.
    ///
    /// # Errors
    /// PermissionDenied for other users.
    pub(super) fn datagrams(&mut self, target: Endpoint) -> io::Result<()> {
        let found = self.owners.as_mut().and_then(|owners| owners.of(target).ok()?);
        self.judge(found, target)
    }

    fn judge(&mut self, found: Option<Owner>, target: Endpoint) -> io::Result<()> {
        let Some(owner) = found.filter(|owner| !self.trust.read().includes(owner.uid)) else {
            return Ok(());
        };
        (self.on_stranger)(owner.uid, target);
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
