//! Sockets that take the place of a sleeper's listeners, so that its program can be ended.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::{socket, takeover, traffic};
use imsup_wire::Endpoint;
use nix::errno::Errno;

use crate::host::Host;
use crate::sleep::planes;
use crate::sockets::Successor;

/// Why the program of a host cannot be ended now.
pub(super) enum NotEnded {
    /// A connection has come to this port.
    SomebodyCame(u16),
    /// A connection waits for room in an accept queue that was short while the host ran. The
    /// connection is queued now, or gives up.
    Connecting,
    /// A socket could not be made.
    Socket(Errno),
}

/// The successors of the program's listeners: a program that is told to end may still accept, and
/// would reset the accepted connections.
#[derive(Debug)]
pub(super) struct Takeover(Vec<(Endpoint, Vec<OwnedFd>, OwnedFd)>);

/// Makes the successors, and checks if a connection has come to the old listeners.
pub(super) fn prepare_end(host: &mut Host) -> Result<Takeover, NotEnded> {
    if traffic::is_connecting(planes(host)).unwrap_or(true) {
        return Err(NotEnded::Connecting);
    }
    let mut listeners: BTreeMap<Endpoint, Vec<OwnedFd>> = BTreeMap::new();
    for (endpoint, listener, _) in host.retained.listeners() {
        let copy = socket::duplicate(listener).map_err(NotEnded::Socket)?;
        listeners.entry(endpoint).or_default().push(copy);
    }
    let mut takeover = Takeover(Vec::new());
    for (endpoint, old) in listeners {
        let successor = match host.retained.take_successor(endpoint) {
            Some(kept) => takeover::choose_last(kept.as_fd()).map(|()| kept),
            None => takeover::take_over(old[0].as_fd(), i32::MAX).map(|successor| successor.socket),
        };
        match successor {
            Ok(socket) => takeover.0.push((endpoint, old, socket)),
            Err(errno) => {
                takeover.give_back(host);
                return Err(NotEnded::Socket(errno));
            }
        }
    }
    let waits = |listener: &OwnedFd| takeover::accept_queue(listener.as_fd()).is_ok_and(|(waiting, _)| waiting > 0);
    let came = takeover
        .0
        .iter()
        .find_map(|(endpoint, old, _)| old.iter().any(waits).then(|| endpoint.address.port()));
    if let Some(port) = came {
        takeover.give_back(host);
        return Err(NotEnded::SomebodyCame(port));
    }
    Ok(takeover)
}

impl Takeover {
    /// Completes the listener takeover: from now on the successors are the host's listeners.
    pub(super) fn complete(self, host: &mut Host) -> Result<Vec<Successor>, Errno> {
        let complete_one = |(endpoint, _, socket): (Endpoint, Vec<OwnedFd>, OwnedFd)| {
            let copy = socket::duplicate(&socket)?;
            let inode = socket::inode(socket.as_fd())?;
            for (old, listener) in host.retained.listening_sockets() {
                if host.retained.find_given(old).is_some_and(|(at, _)| at == endpoint) {
                    host.closed_listeners.unwatch(listener);
                }
            }
            host.retained.take_over(endpoint, socket, inode);
            Ok(Successor { endpoint, socket: copy })
        };
        self.0.into_iter().map(complete_one).collect()
    }

    /// Aborts the listener takeover: the old listeners are chosen again. Connections queued at a
    /// successor meanwhile wait there until the program is next idle, and are then served by the
    /// next boot.
    pub(super) fn give_back(self, host: &mut Host) {
        for (endpoint, old, socket) in self.0 {
            let _ = takeover::give_back(old[0].as_fd());
            match takeover::accept_queue(socket.as_fd()) {
                Ok((0, _)) => {
                    drop(socket);
                    let _ = takeover::detach(old[0].as_fd());
                }
                _ => host.retained.keep_successor(endpoint, socket),
            }
        }
    }
}
