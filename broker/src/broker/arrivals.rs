//! What comes to absent hosts: connections and datagrams in their retained sockets, those at
//! published ports, look-ups of their names.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use imsup_compose::cluster::Start;
use imsup_lifecycle::{Input, Port};
use imsup_wire::address::Plane;
use imsup_wire::{Cause, CauseKind, Endpoint, EventKind, HostName, Index};

use super::Broker;
use crate::history::Summary;
use crate::ids::{HostId, SocketId};

impl Broker {
    /// Boots the hosts that are kept awake, or start with `up`. After the death of an earlier broker, whose accounts
    /// are `last`, hosts that the earlier broker would not have booted are skipped.
    pub(crate) fn wake_kept(&mut self, last: Option<&[(HostName, Summary)]>) {
        if self.lifetime.is_ephemeral() {
            // `imsup run -- CMD`: only the hosts that CMD connects to are wanted.
            return;
        }
        let kept = |id: &HostId| {
            let host = &self.hosts[*id];
            let Some(spec) = host.spec(&self.cluster) else {
                return false;
            };
            let last = last.and_then(|last| last.iter().find(|(name, _)| *name == spec.name));
            let is_due = last.is_none_or(|(_, summary)| match spec.restart {
                // After an end, the restart policy decides.
                Some(_) => summary.last == EventKind::Allocate && !summary.is_restarting(),
                None => !summary.stopped,
            });
            // A host that starts with `up` starts once.
            let is_new = last.is_none_or(|(_, summary)| summary.last == EventKind::Allocate);
            let starts = spec.imsup.start == Some(Start::Up) && is_new;
            (spec.imsup.keep_awake && is_due || starts) && host.life().absent()
        };
        for id in self.hosts.ids().filter(kept).collect::<Vec<_>>() {
            let is_kept = self.hosts[id]
                .spec(&self.cluster)
                .is_some_and(|spec| spec.imsup.keep_awake);
            let cause = match is_kept {
                true => imsup_lifecycle::kept_awake(),
                false => imsup_lifecycle::started_by_up(),
            };
            self.feed(id, Input::Signal { cause, queued: None });
        }
    }

    /// Watches the sockets of all hosts that are absent.
    pub(crate) fn watch_all(&mut self) {
        for id in self.hosts.ids().collect::<Vec<_>>() {
            if self.hosts[id].life().absent() {
                self.watch(id);
            }
        }
    }

    /// Watches the sockets of a host at which no program listens.
    pub(super) fn watch(&mut self, id: HostId) {
        self.sockets.watch_all(id, &self.registry);
    }

    /// A retained socket of an absent host became readable: the signal that allocates the host.
    pub(super) fn came(&mut self, socket: SocketId) {
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        if !retained.is_waiting() || !crate::sockets::is_readable(retained.socket()) {
            return;
        }
        if !self.looks_into_queue(socket) {
            self.signalled(socket);
        }
    }

    /// A connection or datagram waits in a retained socket, and may boot its host.
    pub(super) fn signalled(&mut self, socket: SocketId) {
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        let (id, endpoint, declared) = (retained.host(), retained.endpoint(), !retained.is_tentative());
        let kind = match endpoint.transport {
            imsup_wire::Transport::Tcp => CauseKind::Connection,
            imsup_wire::Transport::Udp => CauseKind::Datagram,
        };
        if self.hosts[id].life().absent() {
            self.hosts[id].note_signal(socket);
        }
        let cause = Cause {
            kind,
            by: None,
            port: Some(endpoint.address.port()),
        };
        let is_counted = endpoint.transport == imsup_wire::Transport::Tcp
            && self.hosts[id].life().counts_arrivals(endpoint, Instant::now());
        let kept = self.sockets.get(socket).filter(|_| is_counted);
        let queued = Some(Port {
            endpoint,
            declared,
            length: kept.map(|kept| crate::sockets::queue_length(kept.socket())),
        });
        self.feed(id, Input::Signal { cause, queued });
    }

    /// A connection, or the first datagram, has come to a published port.
    pub(super) fn came_to_published(&mut self, endpoint: Endpoint, by: SocketAddr) {
        let Some(id) = self.host_at(endpoint) else { return };
        let cause = Cause {
            kind: CauseKind::Published,
            by: Some(self.caller(by)),
            port: Some(endpoint.address.port()),
        };
        // The connection itself follows at once.
        let queued = self.waits_at(id, endpoint).then_some(Port {
            endpoint,
            declared: true,
            length: None,
        });
        self.feed(id, Input::Signal { cause, queued });
    }

    /// The name of a host that is booted by that was looked up.
    pub(super) fn looked_up(&mut self, index: Index, by: IpAddr) {
        let Some(id) = self.hosts.at(index) else { return };
        let cause = Cause {
            kind: CauseKind::Lookup,
            by: Some(self.caller(SocketAddr::new(by, 0))),
            port: None,
        };
        self.feed(id, Input::Signal { cause, queued: None });
    }

    /// The name of the host with this address if the host is of the project, else the address (with
    /// the port, if any).
    pub(super) fn caller(&self, address: SocketAddr) -> String {
        let address = crate::sockets::canonical(address);
        if let SocketAddr::V4(v4) = address
            && let Some(place) = self.planes.place(*v4.ip())
            && let Some(id) = self.hosts.at(place.index)
        {
            return self.hosts[id].name(&self.cluster).to_string();
        }
        match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        }
    }

    /// The host with this VIP.
    fn host_at(&self, endpoint: Endpoint) -> Option<HostId> {
        let place = self.planes.place(*endpoint.address.ip())?;
        (place.plane == Plane::Vip)
            .then(|| self.hosts.at(place.index))
            .flatten()
    }
}
