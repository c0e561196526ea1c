//! Hosts that one order ends together (`imsup stop`) do not boot each other: the members of a cluster look for a member that has ended for as long as
//! they take to end themselves.

use std::net::SocketAddr;

use imsup_wire::Transport;

use super::Broker;
use crate::hosts::HostId;
use crate::retained::SocketId;
use crate::{peers, sockets};

/// How often a queue is looked at anew, since others came meanwhile, behind those that were seen.
const LOOKS: usize = 10;

impl Broker {
    /// Remembers that one order ends these; forgotten of each with its next boot.
    pub(super) fn note_end_together(&mut self, hosts: &[HostId]) {
        self.orders += 1;
        for id in hosts {
            self.hosts[*id].ended_by = Some(self.orders);
        }
    }

    /// Whether one order has ended both, or is about to, and neither was booted since.
    pub(super) fn were_ended_together(&self, one: HostId, other: HostId) -> bool {
        let of = |id: HostId| self.hosts[id].ended_by;
        one != other && of(one).is_some() && of(one) == of(other)
    }

    /// Resets the connections that wait in a retained socket of an absent host that was ended, where all are from hosts that were ended together with
    /// it, or nobody waits any more: many a program connects to itself until its end.
    pub(super) fn turns_away(&self, socket: SocketId) -> bool {
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
