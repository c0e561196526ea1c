//! Stop groups: hosts that one order ends (`imsup stop`) do not boot each other. The members of a
//! cluster look for an ended member until each member has ended.

use std::net::SocketAddr;

use imsup_wire::Transport;
use slotmap::SecondaryMap;

use super::Broker;
use crate::ids::{HostId, SocketId};
use crate::peer_lookup::Listener;
use crate::sockets;

/// How often a queue is looked at again, for connections that came meanwhile, behind the seen
/// connections.
const LOOKS: usize = 10;

/// Hosts that the same order ends, until all have ended.
#[derive(Debug)]
struct Group {
    order: u64,
    hosts: Vec<HostId>,
    /// Hosts of the order that may still live and may still connect to the others.
    left: Vec<HostId>,
}

/// All stop groups, and which host is of which.
#[derive(Debug, Default)]
pub(super) struct StopGroups {
    orders: u64,
    /// The order by which a host was ended, until its next boot.
    order_of: SecondaryMap<HostId, u64>,
    ending: Vec<Group>,
    looks: Looks,
}

/// Looks into queues that are under way: the inode of each listener, and the number of looks left.
#[derive(Debug, Default)]
struct Looks {
    under_way: SecondaryMap<SocketId, (u64, usize)>,
}

impl Looks {
    /// The number of looks left for a listener, if a look is under way.
    fn left_for(&self, listener: Listener) -> Option<usize> {
        let (inode, left) = *self.under_way.get(listener.socket)?;
        (inode == listener.inode).then_some(left)
    }
}

impl StopGroups {
    /// The same order ends these hosts.
    fn begin(&mut self, hosts: &[HostId]) {
        self.orders += 1;
        self.order_of.extend(hosts.iter().map(|id| (*id, self.orders)));
        self.ending.push(Group {
            order: self.orders,
            hosts: hosts.to_vec(),
            left: hosts.to_vec(),
        });
    }

    /// A host is of no group any more: it boots, or is removed.
    pub(super) fn leave(&mut self, id: HostId) {
        self.order_of.remove(id);
    }

    /// True if the same order has ended both, or is about to, and neither was booted since.
    pub(super) fn are_companions(&self, one: HostId, other: HostId) -> bool {
        let of = |id: HostId| self.order_of.get(id);
        one != other && of(one).is_some() && of(one) == of(other)
    }

    fn has(&self, id: HostId) -> bool {
        self.order_of.contains_key(id)
    }

    /// True for a member of a group whose hosts have all ended.
    fn is_over(&self, id: HostId) -> bool {
        let order = self.order_of.get(id);
        order.is_some_and(|order| !self.ending.iter().any(|group| group.order == *order))
    }

    /// Ends the groups whose hosts have all ended. Gives the hosts that were not booted since.
    fn take_over(&mut self, lives: impl Fn(HostId) -> bool) -> Vec<HostId> {
        let mut over = Vec::new();
        self.ending.retain_mut(|group| {
            let is_member = |id: &HostId| self.order_of.get(*id) == Some(&group.order);
            // Only from the end, so that a long list of hosts that end individually is not searched
            // each time.
            while group.left.pop_if(|id| !(is_member(id) && lives(*id))).is_some() {}
            if !group.left.is_empty() {
                return true;
            }
            over.extend(group.hosts.iter().copied().filter(is_member));
            false
        });
        over
    }
}

impl Broker {
    /// Remembers that the same order ends these hosts. Each host is forgotten with the next boot;
    /// when all have ended, all hosts without waiting connections are forgotten.
    pub(super) fn begin_stop_group(&mut self, hosts: &[HostId]) {
        self.stop_groups.begin(hosts);
        self.end_stop_groups();
    }

    /// Forgets the groups whose members have all ended: an ended member can connect no more. Any
    /// later connection is a normal boot signal, so the kernel is no longer asked for the peer,
    /// which would delay each boot after an `imsup stop`.
    pub(super) fn end_stop_groups(&mut self) {
        let hosts = &self.hosts;
        let lives = |id: HostId| hosts.get(id).is_some_and(|host| !host.life().absent());
        for id in self.stop_groups.take_over(lives) {
            self.leave_stop_group(id);
        }
    }

    /// A host leaves the group, unless a connection waits at the host: the peer is found out first
    /// ([`Broker::looks_into_queue`]).
    fn leave_stop_group(&mut self, id: HostId) {
        if !self
            .sockets
            .of(id)
            .any(|retained| sockets::is_readable(retained.socket()))
        {
            self.stop_groups.leave(id);
        }
    }

    /// Has the queue of a retained socket looked into whose host was ended, or is being ended:
    /// other members of the stop group do not boot the host. False if the queue need not be looked
    /// into. [`Broker::queue_seen`] goes on.
    pub(super) fn looks_into_queue(&mut self, socket: SocketId) -> bool {
        let Some(listener) = self.listener_of_ended(socket) else {
            return false;
        };
        // Connections that have come meanwhile are looked at when the answer is there.
        if self.stop_groups.looks.left_for(listener).is_some() {
            return true;
        }
        self.look_into(listener, LOOKS)
    }

    fn look_into(&mut self, listener: Listener, left: usize) -> bool {
        let is_asked = self.journal.ask_queue(listener);
        if is_asked {
            let look = (listener.inode, left);
            self.stop_groups.looks.under_way.insert(listener.socket, look);
        }
        is_asked
    }

    /// The listener in this place, if the host was ended and has not been booted since.
    fn listener_of_ended(&self, socket: SocketId) -> Option<Listener> {
        let retained = self.sockets.get(socket)?;
        let endpoint = retained.endpoint();
        let is_meant = endpoint.transport == Transport::Tcp && self.stop_groups.has(retained.host());
        let inode = sockets::inode(retained.socket()).filter(|_| is_meant)?;
        Some(Listener {
            socket,
            inode,
            endpoint,
        })
    }

    /// Resets the connections that wait in a listener whose host was ended, if all are from other
    /// members of the same stop group, or none waits any more: many a program connects to itself
    /// until the end. Any other connection boots the host.
    pub(super) fn queue_seen(&mut self, listener: Listener, length: usize, peers: &[SocketAddr]) {
        let socket = listener.socket;
        let Some(left) = self.stop_groups.looks.left_for(listener) else {
            return;
        };
        self.stop_groups.looks.under_way.remove(socket);
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        let is_same = sockets::inode(retained.socket()) == Some(listener.inode);
        if !is_same || !retained.is_waiting() {
            // A connection that waits in a listener that has taken this place is a separate event,
            // or the program's.
            return;
        }
        let host = retained.host();
        if !sockets::is_readable(retained.socket()) {
            return self.is_turned_away(host);
        }
        let is_companion = |peer: &SocketAddr| {
            let SocketAddr::V4(peer) = peer else { return false };
            let place = self.planes.place(*peer.ip());
            let id = place.and_then(|place| self.hosts.at(place.index));
            id.is_some_and(|id| self.stop_groups.are_companions(id, host))
        };
        if length == 0 || !peers.iter().all(is_companion) {
            return self.signalled(socket);
        }
        sockets::reset_first(retained.socket(), length);
        if !sockets::is_readable(retained.socket()) {
            return self.is_turned_away(host);
        }
        // Others came meanwhile, behind the seen connections.
        if left <= 1 || !self.look_into(listener, left - 1) {
            self.signalled(socket);
        }
    }

    /// No connection waits any more at a host that was ended.
    fn is_turned_away(&mut self, host: HostId) {
        if self.stop_groups.is_over(host) {
            self.leave_stop_group(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn members_are_companions_until_one_boots_or_all_have_ended_and_are_left() {
        let mut hosts = SlotMap::<HostId, ()>::with_key();
        let [one, two, other] = [(); 3].map(|()| hosts.insert(()));
        let mut groups = StopGroups::default();
        groups.begin(&[one, two]);
        groups.begin(&[other]);
        assert!(groups.are_companions(one, two));
        assert!(!groups.are_companions(one, one) && !groups.are_companions(one, other));
        assert_eq!(groups.take_over(|_| true), []);
        assert_eq!(groups.take_over(|id| id != other), [other]);
        assert!(groups.is_over(other) && !groups.is_over(one));
        groups.leave(two);
        assert!(!groups.are_companions(one, two), "it has booted");
        assert_eq!(groups.take_over(|id| id == two), [one], "what lives is another boot");
        assert!(groups.has(one) && !groups.has(two));
        groups.leave(one);
        assert!(!groups.has(one) && !groups.is_over(one));
    }
}
