//! Keeps what comes to published ports from other users who listen at hosts' addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use imsup_wire::Endpoint;
use imsup_wire::owner::{Owner, Owners};

use crate::holder;
use crate::sockets::canonical;
use crate::trust::SharedTrust;

/// Strangers that are named in the log.
const MAX_NAMED: usize = 64;

/// Tells whose sockets answer.
pub(super) struct Vet {
    /// `None` where the kernel does not say, and everybody is trusted.
    owners: Option<Owners>,
    trust: SharedTrust,
    named: BTreeSet<(u32, Endpoint)>,
}

impl Vet {
    pub(super) fn new(trust: SharedTrust) -> Self {
        Self {
            owners: Owners::open().ok(),
            trust,
            named: BTreeSet::new(),
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
        if self.named.len() < MAX_NAMED && self.named.insert((owner.uid, target)) {
            let who = holder::describe(owner);
            tracing::warn!(
                "{who} has a socket at {target}, an address of a host, and is not of this project: what comes to its published port is refused"
            );
        }
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
