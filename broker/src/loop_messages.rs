//! Loop messages: messages of the broker's other threads to its loop.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use imsup_wire::{Endpoint, Index};
use mio::Waker;

use crate::ids::InstanceId;
use crate::peer_lookup;
use crate::resolvers;

/// One loop message.
#[derive(Debug)]
pub(crate) enum LoopMessage {
    /// A connection, or the first datagram, came to a published port.
    Published { endpoint: Endpoint, by: SocketAddr },
    /// A user outside of the project has a socket at the target of a published port.
    Stranger { uid: u32, endpoint: Endpoint },
    /// The name of a host with `prefetch: dns` was looked up.
    Lookup { index: Index, by: IpAddr },
    /// The leftovers of a dead supervisor are gone.
    Cleared(InstanceId),
    /// Of the threads that ask the kernel for peers.
    Peers(peer_lookup::Found),
    /// Of the process that makes sockets for resolvers.
    Resolvers(resolvers::Reply),
}

/// What threads have told, and where they do.
pub(crate) struct LoopMessages {
    messages: Receiver<LoopMessage>,
    notifier: Notifier,
}

impl LoopMessages {
    /// Nothing told yet.
    pub(crate) fn new(waker: Waker) -> Self {
        let (sender, messages) = crossbeam_channel::unbounded();
        let waker = Arc::new(waker);
        Self {
            messages,
            notifier: Notifier { sender, waker },
        }
    }

    /// The next, if there is one.
    pub(crate) fn next(&self) -> Option<LoopMessage> {
        self.messages.try_recv().ok()
    }

    /// Where threads tell the loop.
    pub(crate) fn notifier(&self) -> &Notifier {
        &self.notifier
    }
}

/// The threads' way to send loop messages.
#[derive(Clone)]
pub(crate) struct Notifier {
    sender: Sender<LoopMessage>,
    waker: Arc<Waker>,
}

impl Notifier {
    /// Sends to the loop, which acts on the message before any later event.
    pub(crate) fn tell(&self, message: LoopMessage) {
        // Sending fails only if the loop is over and needs no messages any more.
        if self.sender.send(message).is_ok() {
            let _ = self.waker.wake();
        }
    }
}
