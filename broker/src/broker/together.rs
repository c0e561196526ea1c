//! Hosts that one order ends together (`imsup stop`) do not boot each other: the members of a cluster look for a member that has ended for as long as
//! they take to end themselves.

use std::net::SocketAddr;

use imsup_wire::Transport;

use super::Broker;
use crate::hosts::{Host, HostId};
use crate::retained::SocketId;
use crate::{peers, sockets};

/// How often a queue is looked at anew, since others came meanwhile, behind those that were seen.
const LOOKS: usize = 10;

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

    /// Forgets of a host by which order it was ended, unless somebody waits at it: that is found out first ([`Broker::turns_away`]).
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

    /// Resets the connections that wait in a retained socket of an absent host that was ended, where all are from hosts that were ended together with
    /// it, or nobody waits any more: many a program connects to itself until its end.
    pub(super) fn turns_away(&mut self, socket: SocketId) -> bool {
        let turned_away = self.resets_all(socket);
        let host = self.sockets.get(socket).map(|retained| retained.host);
        if let Some(id) = host
            && let Some(order) = self.hosts[id].ended_by
            && turned_away
            && !self.ending.iter().any(|ending| ending.order == order)
        {
            self.forget_ended(id, order);
        }
        turned_away
    }

    fn resets_all(&self, socket: SocketId) -> bool {
        let Some(retained) = self.sockets.get(socket) else {
            return false;
        };
        if retained.endpoint.transport != Transport::Tcp || self.hosts[retained.host].ended_by.is_none() {
            return false;
        }
        let is_companion = |peer: &SocketAddr| {
            let SocketAddr::V4(peer) = peer else { return false };
            let place = self.planes.place(*peer.ip());
            let id = place.and_then(|place| self.hosts.at(place.index));
            id.is_some_and(|id| self.were_ended_together(id, retained.host))
        };
        for _ in 0..LOOKS {
            if !sockets::is_readable(&retained.socket) {
                return true;
            }
            let (length, peers) = peers::queue(&retained.socket, retained.endpoint);
            if length == 0 || !peers.iter().all(is_companion) {
                return false;
            }
            sockets::reset_first(&retained.socket, length);
        }
        false
    }
}
