//! Hosts that one order ends together (`imsup stop`) do not boot each other: the members of a cluster look for a member that has ended for as long as
//! they take to end themselves.

use std::collections::HashMap;
use std::net::SocketAddr;

use imsup_wire::Transport;

use super::Broker;
use crate::hosts::{Host, HostId};
use crate::retained::SocketId;
use crate::senders::Listener;
use crate::sockets;

/// How often a queue is looked at anew, since others came meanwhile, behind those that were seen.
const LOOKS: usize = 10;

/// Looks into queues that are under way: the inode of each listener, and how many looks are left for it.
#[derive(Debug, Default)]
pub(super) struct Looks {
    under_way: HashMap<SocketId, (u64, usize)>,
}

impl Looks {
    /// How many looks are left for a listener, if one is under way.
    fn left_for(&self, listener: Listener) -> Option<usize> {
        let under_way = self.under_way.get(&listener.socket);
        under_way
            .filter(|(inode, _)| *inode == listener.inode)
            .map(|(_, left)| *left)
    }
}

/// Hosts that one order ends.
#[derive(Debug)]
pub(super) struct EndedTogether {
    order: u64,
    hosts: Vec<HostId>,
    /// Those that may still live, which the others may still connect to.
    left: Vec<HostId>,
}

impl Broker {
    /// Remembers that one order ends these; forgotten of each with its next boot, and of all that nobody waits for when all have ended.
    pub(super) fn note_end_together(&mut self, hosts: &[HostId]) {
        self.orders += 1;
        for id in hosts {
            self.hosts[*id].ended_by = Some(self.orders);
        }
        self.ending.push(EndedTogether {
            order: self.orders,
            hosts: hosts.to_vec(),
            left: hosts.to_vec(),
        });
        self.forget_ended_together();
    }

    /// Forgets of orders whose hosts have all ended. From then on nobody connects who is just being ended, and whoever waits where nobody waits
    /// yet is a signal like any other: so the kernel need not be asked who it is, which would delay each boot after an `imsup stop`.
    pub(super) fn forget_ended_together(&mut self) {
        let mut ending = std::mem::take(&mut self.ending);
        ending.retain_mut(|ended| {
            let lives = |id: &HostId| {
                let host = self.hosts.get(*id);
                host.is_some_and(|host| host.ended_by == Some(ended.order) && !host.life.absent())
            };
            // Only from the end, so that many that end one by one are not all looked at each time.
            while ended.left.pop_if(|id| !lives(id)).is_some() {}
            if !ended.left.is_empty() {
                return true;
            }
            for id in &ended.hosts {
                self.forget_ended(*id, ended.order);
            }
            false
        });
        self.ending = ending;
    }

    /// Forgets of a host by which order it was ended, unless somebody waits at it: that is found out first ([`Broker::looks_into_queue`]).
    fn forget_ended(&mut self, id: HostId, order: u64) {
        let awaited = |host: &Host| {
            let mut sockets = host.sockets.iter().filter_map(|socket| self.sockets.get(*socket));
            sockets.any(|retained| sockets::is_readable(&retained.socket))
        };
        let forgotten = |host: &&Host| host.ended_by == Some(order) && !awaited(host);
        if self.hosts.get(id).filter(forgotten).is_some() {
            self.hosts[id].ended_by = None;
        }
    }

    /// Whether one order has ended both, or is about to, and neither was booted since.
    pub(super) fn were_ended_together(&self, one: HostId, other: HostId) -> bool {
        let of = |id: HostId| self.hosts[id].ended_by;
        one != other && of(one).is_some() && of(one) == of(other)
    }

    /// Has the queue of a retained socket looked into whose host was ended, or is being ended: those that were ended together with the host do not boot it.
    /// False if the queue need not be looked into. [`Broker::queue_seen`] goes on.
    pub(super) fn looks_into_queue(&mut self, socket: SocketId) -> bool {
        let Some(listener) = self.listener_of_ended(socket) else {
            return false;
        };
        // Whoever has come meanwhile is looked at when the answer is there.
        if self.looks.left_for(listener).is_some() {
            return true;
        }
        self.look_into(listener, LOOKS)
    }

    fn look_into(&mut self, listener: Listener, left: usize) -> bool {
        let is_asked = self.senders.ask_queue(listener);
        if is_asked {
            self.looks.under_way.insert(listener.socket, (listener.inode, left));
        }
        is_asked
    }

    /// The listener in this place, if its host was ended and has not been booted since.
    fn listener_of_ended(&self, socket: SocketId) -> Option<Listener> {
        let retained = self.sockets.get(socket)?;
        let is_meant = retained.endpoint.transport == Transport::Tcp && self.hosts[retained.host].ended_by.is_some();
        let inode = sockets::inode(&retained.socket).filter(|_| is_meant)?;
        Some(Listener {
            socket,
            inode,
            endpoint: retained.endpoint,
        })
    }

    /// Resets the connections that wait in a listener whose host was ended, if all are from hosts that were ended together with it, or nobody waits any
    /// more: many a program connects to itself until its end. Anybody else boots the host.
    pub(super) fn queue_seen(&mut self, listener: Listener, length: usize, peers: &[SocketAddr]) {
        let socket = listener.socket;
        let Some(left) = self.looks.left_for(listener) else {
            return;
        };
        self.looks.under_way.remove(&socket);
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        let is_same = sockets::inode(&retained.socket) == Some(listener.inode);
        if !is_same || retained.listening || !retained.open {
            // What waits in a listener that has taken this place is an event of its own, or the program's.
            return;
        }
        let host = retained.host;
        if !sockets::is_readable(&retained.socket) {
            return self.is_turned_away(host);
        }
        let is_companion = |peer: &SocketAddr| {
            let SocketAddr::V4(peer) = peer else { return false };
            let place = self.planes.place(*peer.ip());
            let id = place.and_then(|place| self.hosts.at(place.index));
            id.is_some_and(|id| self.were_ended_together(id, host))
        };
        if length == 0 || !peers.iter().all(is_companion) {
            return self.signalled(socket);
        }
        sockets::reset_first(&retained.socket, length);
        if !sockets::is_readable(&retained.socket) {
            return self.is_turned_away(host);
        }
        // Others came meanwhile, behind those that were seen.
        if left <= 1 || !self.look_into(listener, left - 1) {
            self.signalled(socket);
        }
    }

    /// Nobody waits any more at a host that was ended.
    fn is_turned_away(&mut self, host: HostId) {
        if let Some(order) = self.hosts[host].ended_by
            && !self.ending.iter().any(|ending| ending.order == order)
        {
            self.forget_ended(host, order);
        }
    }
}
