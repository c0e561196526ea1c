//! Keeps what comes to published ports from other users who listen at hosts' addresses.
//!
//! Blocking: the thread of the relay asks the kernel for one socket, which is found by its hash.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use imsup_linux::owner::{Owner, Owners};
use imsup_wire::Endpoint;

use crate::sockets::canonical;
use crate::trust::SharedTrust;

/// Is told of a user who is not of the project and has a socket where a published port leads: each time.
pub(crate) type OnStranger = Box<dyn Fn(u32, Endpoint) + Send>;

/// Tells whose sockets answer.
pub(crate) struct Vet {
    /// `None` where the kernel does not say, and everybody is trusted.
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

    /// Whether a connection that was just made, or begun, by `socket` is with one of the project.
    ///
    /// # Errors
    /// PermissionDenied where it is not.
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

    /// Whether datagrams to `target` come to one of the project.
    ///
    /// # Errors
    /// PermissionDenied where they do not.
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
