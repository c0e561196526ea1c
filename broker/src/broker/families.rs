//! The address families of hosts' TCP ports: learned when programs listen, so that the sockets
//! retained for the next boot have the right family.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;

use imsup_wire::address::Plane;
use imsup_wire::{Endpoint, Transport};

use super::Broker;
use crate::hosts::Instance;
use crate::ids::{HostId, SocketId};
use crate::projects::Recorded;
use crate::retained::Retained;
use crate::sockets::{self, Family};

impl Broker {
    /// The family of a socket made for this endpoint now; `None` for a socket that serves programs
    /// of either family.
    pub(super) fn family(&self, id: HostId, endpoint: Endpoint) -> Option<Family> {
        let (name, program) = self.program(id)?;
        let known = self.record.known().family(name, program, endpoint.address.port());
        let accepts_natively = self.hosts[id].instance().is_some_and(Instance::accepts_natively);
        // Connections of the other family cannot be handed to a program that runs without the trap
        // for accept(2). The family of the program's other ports is likely right.
        known.or_else(|| {
            accepts_natively
                .then(|| self.record.known().common_family(name, program))
                .flatten()
        })
    }

    /// Whether the families are known of all listeners that are retained for a host. Noted of the
    /// instance that is welcomed with this.
    pub(super) fn families_known(&mut self, id: HostId) -> bool {
        let known = self.program(id).is_some_and(|(name, program)| {
            let fits = |kept: &Retained| {
                let known = || {
                    self.record
                        .known()
                        .family(name, program, kept.endpoint().address.port())
                };
                !self.has_family(kept.endpoint())
                    || known().is_some_and(|family| sockets::family(kept.socket()) == Some(family))
            };
            self.record.known().knows_program(name, program) && self.sockets.of(id).all(fits)
        });
        // A host that is not declared has no retained sockets.
        let known = known || !self.is_declared(id);
        if let Some(instance) = self.hosts[id].instance_mut() {
            instance.accept_natively(known);
        }
        known
    }

    /// Remembers with which family the program listens.
    pub(super) fn learn_family(&mut self, id: HostId, endpoint: Endpoint, socket: SocketId) {
        let Some(kept) = self.sockets.get(socket).filter(|kept| !kept.is_misfit()) else {
            return;
        };
        let family = sockets::family(kept.socket());
        // The last socket of an ending program may have another family, with connections still
        // waiting.
        let is_another = self.sockets.ids(id).iter().any(|other| {
            *other != socket
                && self.sockets.get(*other).is_some_and(|other| {
                    other.endpoint() == endpoint && other.is_listening() && sockets::family(other.socket()) != family
                })
        });
        if !is_another {
            self.note_family(id, endpoint, family);
        }
    }

    /// The program has bound its port with another family than that of the retained socket: the
    /// next socket serves either family.
    pub(super) fn other_family(&mut self, id: HostId, endpoint: Endpoint) {
        self.sockets.set_misfit(id, endpoint);
        self.note_family(id, endpoint, None);
    }

    /// The program listens with a socket of its own beside a retained socket of another family. The
    /// supervisor hands over the connections that wait in the retained socket.
    pub(super) fn drop_of_other_family(&mut self, id: HostId, endpoint: Endpoint, own: &OwnedFd) {
        let family = sockets::family(own);
        let is_replaced = |kept: &Retained| {
            let replaced = kept.endpoint() == endpoint && kept.is_only_handed();
            replaced && endpoint.transport == Transport::Tcp && sockets::family(kept.socket()) != family
        };
        // Not shut down: the supervisor has a duplicate of each.
        while let Some(socket) = self.sockets.find(id, is_replaced) {
            self.sockets.remove(socket, &self.registry);
        }
    }

    /// A boot has come so far that all used ports were seen. Unused ports are assumed to have the
    /// family of the others. Else accept(2) would be trapped at each boot for a declared port
    /// without a listener.
    pub(super) fn note_program(&mut self, id: HostId) {
        let Some((name, program)) = self.program(id).map(|(name, program)| (name.to_owned(), program)) else {
            return;
        };
        let is_unused =
            |kept: &&Retained| !kept.is_listening() && !kept.is_tentative() && self.has_family(kept.endpoint());
        let unused = self.sockets.of(id).filter(is_unused);
        let ports: Vec<u16> = unused.map(|kept| kept.endpoint().address.port()).collect();
        let changed = self.record.learn(|recorded| {
            let is_new = recorded.note_program(&name, program);
            let Some(family) = recorded.common_family(&name, program) else {
                return is_new;
            };
            let learns = |port: u16| {
                recorded.family(&name, program, port).is_none()
                    && recorded.learn_family(&name, program, port, Some(family))
            };
            ports
                .into_iter()
                .map(learns)
                .fold(is_new, |changed, learned| changed | learned)
        });
        if changed {
            self.remember();
        }
    }

    /// The right family of a listener whose program has ended, if the present family differs:
    /// `Some(None)` for either family.
    pub(super) fn other_family_for(&self, socket: SocketId) -> Option<Option<Family>> {
        let kept = self
            .sockets
            .get(socket)
            .filter(|kept| self.has_family(kept.endpoint()))?;
        let (name, program) = self.program(kept.host())?;
        let known = self
            .record
            .known()
            .family(name, program, kept.endpoint().address.port());
        (known.or(Some(Family::V6)) != sockets::family(kept.socket())).then_some(known)
    }

    fn note_family(&mut self, id: HostId, endpoint: Endpoint, family: Option<Family>) {
        let Some((name, program)) = self.program(id).map(|(name, program)| (name.to_owned(), program)) else {
            return;
        };
        let port = endpoint.address.port();
        let learns = |recorded: &mut Recorded| recorded.learn_family(&name, program, port, family);
        if self.has_family(endpoint) && self.record.learn(learns) {
            self.remember();
        }
    }

    /// True if an endpoint is among the listeners made before a program runs.
    fn has_family(&self, endpoint: Endpoint) -> bool {
        let plane = self.planes.place(*endpoint.address.ip()).map(|place| place.plane);
        endpoint.transport == Transport::Tcp && plane == Some(Plane::Vip)
    }

    /// The name of a declared host, and a hash of its program: the running program, else the
    /// declared program.
    fn program(&self, id: HostId) -> Option<(&str, u64)> {
        let spec = self.hosts[id].spec(&self.cluster)?;
        let other = self.hosts[id].instance().and_then(Instance::other_program);
        let program = other.unwrap_or_else(|| hash(&(spec.program.command_text(), &*spec.program.environment)));
        Some((spec.name.as_str(), program))
    }

    /// A hash that identifies a program started by hand as the host; `None` for the declared
    /// program.
    pub(super) fn other_program(&self, id: HostId, command: &[String]) -> Option<u64> {
        let declared = self.hosts[id]
            .spec(&self.cluster)
            .map(|spec| spec.program.command_text());
        (declared.as_deref() != Some(command)).then(|| hash(&command))
    }
}

fn hash(program: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    program.hash(&mut hasher);
    hasher.finish()
}
