//! What the broker's other threads tell its loop.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Sender;
use imsup_wire::{Endpoint, Index};
use mio::Waker;

use crate::hosts::HostId;
use crate::resolvers::Batch;
use crate::senders::{Listener, Question};

/// One thing told.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A connection, or the first datagram, came to a published port.
    Published { endpoint: Endpoint, by: SocketAddr },
    /// A user who is not of the project has a socket where a published port leads.
    Stranger { uid: u32, endpoint: Endpoint },
    /// The name of a host with `prefetch: dns` was looked up.
    Lookup { index: Index, by: IpAddr },
    /// What a dead supervisor left is gone.
    Cleared { host: HostId, serial: u64 },
    /// Who has come, for each question; `None` where that cannot be told.
    Senders(Vec<(Question, Option<SocketAddr>)>),
    /// How many connections stand in the queue of a listener, and the peers of those that somebody waits for an answer on.
    Queue {
        listener: Listener,
        length: usize,
        peers: Vec<SocketAddr>,
    },
    /// There is a namespace for resolvers, with these sockets of the name server's.
    ResolverNamespace(Vec<OwnedFd>),
    /// Sockets for the supervisor that has waited for them longest.
    ResolverSockets(Batch),
    /// Who makes those has ended; never any are made where `for_good`.
    NoResolverSockets { for_good: bool },
}

/// Where threads tell it.
#[derive(Clone)]
pub(crate) struct Notifier {
    pub(crate) sender: Sender<Notice>,
    pub(crate) waker: Arc<Waker>,
}

impl Notifier {
    /// Tells the loop, which acts on it before anything that happens after.
    pub(crate) fn tell(&self, notice: Notice) {
        // It fails only when the loop is over, and nobody needs to know then.
        if self.sender.send(notice).is_ok() {
            let _ = self.waker.wake();
        }
    }
}
