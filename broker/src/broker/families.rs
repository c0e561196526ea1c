//! The address families of hosts' TCP ports: learned when programs listen, so that what is retained for the next boot fits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;

use imsup_wire::address::Plane;
use imsup_wire::{Endpoint, Transport};

use super::Broker;
use crate::ids::{HostId, SocketId};
use crate::projects::Memory;
use crate::retained::Retained;
use crate::sockets::{self, Family};

impl Broker {
    /// The family of a socket that is made for this endpoint now; `None` for one from which a program of either family can be served.
    pub(super) fn family(&self, id: HostId, endpoint: Endpoint) -> Option<Family> {
        let (name, program) = self.program(id)?;
        let known = self.record.known().family(name, program, endpoint.address.port());
        let accepts_natively = self.hosts[id]
            .instance
            .as_deref()
            .is_some_and(|instance| instance.accepts_natively);
        // Connections of the other family cannot be handed to a program that runs without the trap for it: what its other ports have is likely right.
        known.or_else(|| {
            accepts_natively
                .then(|| self.record.known().common_family(name, program))
                .flatten()
        })
    }

    /// Whether the families are known of all listeners that are retained for a host. Noted of the instance that is welcomed with this.
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
        // A host that is not declared has nothing retained for it.
        let known = known || !self.is_declared(id);
        if let Some(instance) = self.hosts[id].instance.as_deref_mut() {
            instance.accepts_natively = known;
        }
        known
    }

    /// Remembers with which family the program listens.
    pub(super) fn learn_family(&mut self, id: HostId, endpoint: Endpoint, socket: SocketId) {
        let Some(kept) = self.sockets.get(socket).filter(|kept| !kept.is_misfit()) else {
            return;
        };
        let family = sockets::family(kept.socket());
        // The last of a program that ends may be one of another family, in which somebody waits still.
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

    /// The program has bound its port with another family than that of the socket it was given: the next is made for either.
    pub(super) fn other_family(&mut self, id: HostId, endpoint: Endpoint) {
        self.sockets.set_misfit(id, endpoint);
        self.note_family(id, endpoint, None);
    }

    /// The program listens with a socket of its own where one of another family was retained: who waits in that is the supervisor's affair, which
    /// hands them over.
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

    /// A boot has come so far that all ports it uses were seen. Those that it does not use are taken to be as the others, or accept(2) would be
    /// trapped at each boot for the sake of a port that is declared and never listened on.
    pub(super) fn note_program(&mut self, id: HostId) {
        let Some((name, program)) = self.program(id).map(|(name, program)| (name.to_owned(), program)) else {
            return;
        };
        let is_unused =
            |kept: &&Retained| !kept.is_listening() && !kept.is_tentative() && self.has_family(kept.endpoint());
        let unused = self.sockets.of(id).filter(is_unused);
        let ports: Vec<u16> = unused.map(|kept| kept.endpoint().address.port()).collect();
        let changed = self.record.learn(|memory| {
            let is_new = memory.note_program(&name, program);
            let Some(family) = memory.common_family(&name, program) else {
                return is_new;
            };
            let learns = |port: u16| {
                memory.family(&name, program, port).is_none() && memory.learn_family(&name, program, port, Some(family))
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

    /// The family that a listener should have whose program has ended, where that is another than it has: `Some(None)` for one of either.
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
        let learns = |memory: &mut Memory| memory.learn_family(&name, program, port, family);
        if self.has_family(endpoint) && self.record.learn(learns) {
            self.remember();
        }
    }

    /// Whether an endpoint is one of those that are made before a program is there, as a listener.
    fn has_family(&self, endpoint: Endpoint) -> bool {
        let plane = self.planes.place(*endpoint.address.ip()).map(|place| place.plane);
        endpoint.transport == Transport::Tcp && plane == Some(Plane::Vip)
    }

    /// The name of a declared host, and what tells its program from another that it may have: the one that runs, else the declared one.
    fn program(&self, id: HostId) -> Option<(&str, u64)> {
        let spec = self.hosts[id].spec(&self.cluster)?;
        let running = self.hosts[id].instance.as_deref();
        let other = running.and_then(|instance| instance.other_program);
        let program = other.unwrap_or_else(|| hash(&(spec.program.command_text(), &*spec.program.environment)));
        Some((spec.name.as_str(), program))
    }

    /// What tells a program apart that somebody has started in the part of a host; `None` where it is the declared one.
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
