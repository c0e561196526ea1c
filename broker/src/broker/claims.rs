//! The sockets of hosts: made at `up`, taken over from programs, given to the next boot, taken
//! back.

mod decide;

use std::io;
use std::os::fd::OwnedFd;

use imsup_protocol::codec::MAX_FRAME_FDS;
use imsup_wire::address::Plane;
use imsup_wire::{Endpoint, Transport};

use self::decide::{Adopted, Announced, Fate, Left, Replacement, decide_announced, decide_left};
use super::Broker;
use super::keeper::Deferred;
use crate::hosts::{Instance, MAX_SOCKETS};
use crate::ids::{HostId, SocketId};
use crate::projects::Recorded;
use crate::retained::Retained;
use crate::sockets::{self, Sharing};
use imsup_lifecycle::After;

fn not_retained(endpoint: Endpoint, error: &io::Error) {
    tracing::error!(%endpoint, %error, "a port is no longer retained: connections to it are refused");
}

impl Broker {
    /// The endpoints of a host that exist from the first moment: declared, and learned at earlier
    /// boots.
    pub(crate) fn expected_endpoints(&self, id: HostId) -> Vec<(Endpoint, bool)> {
        let host = &self.hosts[id];
        let Some(spec) = host.spec(&self.cluster) else {
            return Vec::new();
        };
        let vip = self.planes.vip(host.index());
        let learned = self
            .record
            .known()
            .learned
            .get(spec.name.as_str())
            .into_iter()
            .flatten();
        let learned = learned
            .filter(|port| !spec.expose.contains(port))
            .map(|port| (port, false));
        let declared = spec.expose.iter().map(|port| (port, true));
        let endpoint = |transport: Transport, port| match transport {
            Transport::Tcp => Endpoint::tcp(vip, port),
            Transport::Udp => Endpoint::udp(vip, port),
        };
        let mut all: Vec<(Endpoint, bool)> = Vec::new();
        for ((transport, port), declared) in declared.chain(learned) {
            let endpoint = endpoint(*transport, *port);
            if !all.iter().any(|(known, _)| *known == endpoint) {
                all.push((endpoint, declared));
            }
        }
        all
    }

    /// Makes the missing sockets of an absent host. Returns the declared endpoints that failed;
    /// endpoints that were only learned are left out.
    pub(crate) fn make_sockets(&mut self, id: HostId) -> Vec<(Endpoint, io::Error)> {
        let mut failed = Vec::new();
        for (endpoint, declared) in self.expected_endpoints(id) {
            if self.find(id, endpoint).is_some() {
                continue;
            }
            match self.make(id, endpoint, false, Sharing::WithTheDead) {
                Ok(_) => {}
                Err(error) if declared => failed.push((endpoint, error)),
                Err(error) => tracing::warn!(%endpoint, %error, "a port learned at an earlier boot is not retained"),
            }
        }
        failed
    }

    /// As [`Self::make_sockets`], but goes on without the sockets that failed, after a log message.
    pub(crate) fn make_what_can_be_had(&mut self, id: HostId) {
        for (endpoint, error) in self.make_sockets(id) {
            not_retained(endpoint, &error);
        }
    }

    /// Takes a socket that the last broker retained. A living supervisor reports its sockets
    /// unasked.
    pub(crate) fn take_restored(&mut self, id: HostId, endpoint: Endpoint, tentative: bool, socket: OwnedFd) {
        let absent = self.hosts[id].life().absent();
        // Made for a caller that has gone, or was served.
        let is_over = tentative && absent && !sockets::is_readable(&socket);
        if is_over || !self.is_declared(id) || !sockets::is_bound_to(&socket, endpoint) {
            return;
        }
        let open = sockets::is_open(&socket, endpoint.transport);
        let socket = self.keep(id, endpoint, tentative, socket);
        if let Some(kept) = self.sockets.get_mut(socket) {
            kept.set_open(open);
        }
    }

    /// Readies the sockets of [`Self::take_restored`] for an absent host, as if the program had
    /// just ended: the program may have ended without a broker.
    pub(crate) fn ready_restored(&mut self, id: HostId) {
        for socket in self.sockets.ids(id).to_vec() {
            if !self.keep_after(socket, After::Retry) {
                self.shut(socket);
            }
        }
        self.thin_out(id);
    }

    /// Gives a socket up, and refuses what comes to it from now on, whoever has a duplicate.
    fn shut(&mut self, socket: SocketId) {
        if let Some(gone) = self.sockets.remove(socket, &self.registry) {
            sockets::shut_down_listener(gone.socket(), gone.endpoint().transport);
        }
    }

    /// Makes a socket of a host; a tentative listener if a caller cannot wait until the program
    /// listens.
    pub(super) fn make(
        &mut self,
        id: HostId,
        endpoint: Endpoint,
        tentative: bool,
        sharing: Sharing,
    ) -> io::Result<SocketId> {
        if self.sockets.len() as u64 >= self.limits.sockets {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
        }
        let family = self.family(id, endpoint);
        let socket = sockets::create(endpoint, family, sharing, self.limits.somaxconn)?;
        Ok(self.keep(id, endpoint, tentative, socket))
    }

    fn keep(&mut self, id: HostId, endpoint: Endpoint, tentative: bool, socket: OwnedFd) -> SocketId {
        self.sockets.insert(id, endpoint, tentative, socket)
    }

    /// The first socket of the host at this endpoint.
    pub(super) fn find(&self, id: HostId, endpoint: Endpoint) -> Option<SocketId> {
        self.sockets.find(id, |kept| kept.endpoint() == endpoint)
    }

    /// True if a connection (or datagram) to the endpoint is accepted now.
    pub(super) fn is_open(&self, id: HostId, endpoint: Endpoint) -> bool {
        let instance = self.hosts[id].instance();
        instance.is_some_and(|instance| instance.unretained().contains(&endpoint))
            || self
                .sockets
                .of(id)
                .any(|kept| kept.endpoint() == endpoint && kept.is_open())
    }

    /// The sockets for a host's supervisor, up to the limit of a message.
    pub(super) fn hand_over(&mut self, id: HostId) -> (Vec<Endpoint>, Vec<OwnedFd>) {
        let mut handed = (Vec::new(), Vec::new());
        for socket in self
            .sockets
            .ids(id)
            .iter()
            .take(MAX_FRAME_FDS)
            .copied()
            .collect::<Vec<_>>()
        {
            let Some(kept) = self.sockets.get_mut(socket) else {
                continue;
            };
            let endpoint = kept.endpoint();
            match kept.socket().try_clone() {
                Ok(copy) => {
                    kept.hand();
                    handed.0.push(endpoint);
                    handed.1.push(copy);
                }
                Err(error) => tracing::error!(%endpoint, %error, "a retained socket is not handed over"),
            }
        }
        handed
    }

    /// A socket for a bind(2) that failed with EADDRINUSE.
    pub(super) fn claim(&mut self, id: HostId, endpoint: Endpoint) -> Option<OwnedFd> {
        let is_own = self
            .planes
            .place(*endpoint.address.ip())
            .is_some_and(|place| place.index == self.hosts[id].index());
        if !is_own {
            return None;
        }
        let free = |kept: &Retained| kept.endpoint() == endpoint && kept.is_free();
        let socket = match self.sockets.find(id, free) {
            Some(socket) => socket,
            // If a published port of this user is in the way, only a socket made for this case can
            // be bound. Not beside listeners of the program itself that are not retained and ask
            // for sharing (SO_REUSEPORT).
            None if self.find(id, endpoint).is_none() && !self.is_open(id, endpoint) => {
                self.make(id, endpoint, false, Sharing::WithPublished).ok()?
            }
            None => return None,
        };
        let kept = self.sockets.get_mut(socket)?;
        let copy = kept.socket().try_clone().ok()?;
        kept.hand();
        Some(copy)
    }

    /// The program listens: the socket is retained from now on if the host is declared. False if
    /// the socket is refused.
    pub(super) fn adopt(&mut self, id: HostId, endpoint: Endpoint, socket: OwnedFd) -> bool {
        let place = self.planes.place(*endpoint.address.ip());
        let own = place.filter(|place| place.index == self.hosts[id].index());
        let is_it = |kept: &Retained| kept.endpoint() == endpoint && sockets::same(kept.socket(), &socket);
        let known = self.sockets.find(id, is_it);
        let adopted = decide_announced(Announced {
            is_genuine: own.is_some() && sockets::is_bound_to(&socket, endpoint),
            is_known: known.is_some(),
            is_declared: self.is_declared(id),
            is_full: self.sockets.ids(id).len() >= MAX_SOCKETS || self.sockets.len() as u64 >= self.limits.sockets,
            is_terminating: self.sleep(id).is_some_and(|sleep| sleep.is_terminating()),
        });
        match adopted {
            Adopted::Refused => {
                tracing::warn!(%endpoint, "a supervisor sent a socket that is not what it says; it is not retained");
                return false;
            }
            Adopted::Unretained { for_room } => {
                if for_room {
                    tracing::warn!(%endpoint, "too many sockets; this one is not retained, and is gone with its program");
                }
                self.note_listening(id, endpoint);
            }
            Adopted::Retained { is_new, is_successor } => {
                let kept = known.unwrap_or_else(|| self.keep_new(id, endpoint, socket));
                // The socket is the program's now, so the program is told of all connections.
                self.sockets.unwatch(kept, &self.registry);
                if is_successor && is_new {
                    self.drop_succeeded(id, endpoint, kept);
                }
                self.note_retained(id, kept, is_successor);
                if own.is_some_and(|place| place.plane == Plane::Vip) {
                    self.learn(id, endpoint);
                    self.learn_family(id, endpoint, kept);
                }
            }
        }
        true
    }

    /// Keeps a socket that the program has made itself.
    fn keep_new(&mut self, id: HostId, endpoint: Endpoint, socket: OwnedFd) -> SocketId {
        sockets::share_with_the_dead(&socket, endpoint.transport);
        self.drop_of_other_family(id, endpoint, &socket);
        self.keep(id, endpoint, false, socket)
    }

    /// The program listens on a retained socket. A successor known to the last broker is reported
    /// again, and stays a successor.
    fn note_retained(&mut self, id: HostId, socket: SocketId, is_successor: bool) {
        if let Some(kept) = self.sockets.get_mut(socket) {
            kept.listen(is_successor);
            let endpoint = kept.endpoint();
            if let Some(instance) = self.hosts[id].instance_mut() {
                instance.listen_retained(endpoint);
            }
        }
        self.sockets.make_lasting(socket);
    }

    /// The program has closed a socket, and the supervisor has closed the duplicate: closes the
    /// broker's duplicate too. The socket is not shut down, since a process unknown to the
    /// supervisor may still have the socket. The keeper's duplicate is closed when
    /// [`Self::after_forgotten`] goes on.
    pub(super) fn closed(&mut self, id: HostId, endpoint: Endpoint, inode: u64) {
        let is_it = |kept: &Retained| kept.endpoint() == endpoint && sockets::inode(kept.socket()) == Some(inode);
        if let Some(socket) = self.sockets.find(id, is_it) {
            self.sockets.remove(socket, &self.registry);
        }
        let mut others = self.sockets.of(id);
        let remains = others.any(|kept| kept.endpoint() == endpoint && kept.is_listening());
        if let Some(instance) = self.hosts[id].instance_mut()
            && !remains
        {
            instance.close(endpoint);
        }
    }

    /// Makes the sockets of a host that is absent or is being ended, once imsup has no duplicate of
    /// a closed socket at the same address: the next callers get the next boot.
    pub(super) fn remake(&mut self, id: HostId) {
        let life = self.hosts[id].life();
        let (absent, ends) = (life.absent(), life.ending());
        if self.lifetime.is_going_down() || !self.is_declared(id) || !(absent || ends) {
            return;
        }
        if absent {
            self.make_what_can_be_had(id);
            return self.watch(id);
        }
        for (endpoint, error) in self.make_sockets(id) {
            tracing::debug!(%endpoint, %error, "a port that a program has closed which is being ended is not retained yet");
        }
    }

    /// True if the program listened at the endpoint and has closed the listener.
    pub(super) fn is_closed(&self, id: HostId, endpoint: Endpoint) -> bool {
        let host = &self.hosts[id];
        let has_closed = |instance: &Instance| instance.has_closed(endpoint);
        !host.life().ending() && host.instance().is_some_and(has_closed)
    }

    /// Listener takeover: a new socket has replaced the listeners of a program that is being ended
    /// (`terminate_after`), and new connections wait in the new socket. The old listeners are left
    /// to the program until the end.
    fn drop_succeeded(&mut self, id: HostId, endpoint: Endpoint, new: SocketId) {
        for socket in self.sockets.ids(id).to_vec() {
            let kept = self.sockets.get(socket);
            let succeeded = kept.is_some_and(|kept| kept.endpoint() == endpoint && !kept.is_successor());
            if succeeded && socket != new {
                // Not shut down: a connection that was made at that very moment is still the
                // program's.
                self.sockets.remove(socket, &self.registry);
            }
        }
    }

    /// The program listens on a socket that is not retained.
    pub(super) fn note_listening(&mut self, id: HostId, endpoint: Endpoint) {
        if let Some(instance) = self.hosts[id].instance_mut() {
            instance.listen_unretained(endpoint);
        }
    }

    fn learn(&mut self, id: HostId, endpoint: Endpoint) {
        let Some(spec) = self.hosts[id].spec(&self.cluster) else {
            return;
        };
        let port = (endpoint.transport, endpoint.address.port());
        let learned = |recorded: &mut Recorded| recorded.learn(spec.name.as_str(), port.0, port.1);
        if !spec.expose.contains(&port) && self.record.learn(learned) {
            self.remember();
        }
    }

    /// The program is gone: the host's sockets wait for the next signal.
    pub(super) fn reclaim(&mut self, id: HostId, after: After) {
        let declared = self.is_declared(id);
        for socket in self.sockets.ids(id).to_vec() {
            if !self.keep_after(socket, after) {
                self.shut(socket);
            }
        }
        if !declared {
            return;
        }
        self.thin_out(id);
        let failed = self.make_sockets(id);
        if !failed.is_empty() && !self.sockets.store.has_closed_all() {
            // A socket that was just closed at the endpoint is still open in the keeper.
            self.after_forgotten(Deferred::Remake(id));
        } else {
            for (endpoint, error) in failed {
                not_retained(endpoint, &error);
            }
        }
        if !self.lifetime.is_going_down() {
            self.watch(id);
        }
    }

    /// Keeps a single socket at each endpoint, and all sockets with waiting connections. Workers
    /// that shared a port (SO_REUSEPORT) make new sockets. With fewer workers at the next boot, the
    /// kernel would otherwise give connections to sockets without an owner.
    fn thin_out(&mut self, id: HostId) {
        let mut seen = Vec::new();
        for socket in self.sockets.ids(id).to_vec() {
            let Some(kept) = self.sockets.get(socket) else { continue };
            if !seen.contains(&kept.endpoint()) || sockets::is_readable(kept.socket()) {
                seen.push(kept.endpoint());
            } else {
                self.shut(socket);
            }
        }
    }

    /// Readies a socket for the time without a program; false if the socket is of no more use.
    fn keep_after(&mut self, socket: SocketId, after: After) -> bool {
        let other_family = self.other_family_for(socket);
        // Watching anew reports waiting connections once more, which may be for the next boot.
        self.sockets.unwatch(socket, &self.registry);
        let Some(kept) = self.sockets.get(socket) else {
            return false;
        };
        let fate = decide_left(Left {
            is_declared: self.is_declared(kept.host()),
            is_tentative: kept.is_tentative(),
            after,
            other_family,
        });
        match fate {
            Fate::GiveUp => false,
            Fate::Keep { replacement, resets } => self.revive(socket, replacement, resets),
        }
    }

    /// Has a socket wait for the next program; false if that cannot be.
    fn revive(&mut self, socket: SocketId, replacement: Replacement, resets: bool) -> bool {
        let backlog = self.limits.somaxconn;
        let Some(kept) = self.sockets.get_mut(socket) else {
            return false;
        };
        kept.release();
        let endpoint = kept.endpoint();
        if let Err(error) = sockets::revive(kept.socket(), endpoint.transport, backlog) {
            tracing::warn!(%endpoint, %error, "a retained socket cannot be used again");
            return false;
        }
        let new = match replacement {
            Replacement::OfFamily(family) => sockets::listener_of(family, kept.socket(), endpoint, backlog),
            Replacement::OfBoth => sockets::of_both_families(kept.socket(), endpoint),
        };
        kept.set_open(true);
        // At once, also if the keeper has the old one still: what comes is for the new one.
        if let Some(new) = new
            && let Some(old) = self.sockets.replace(socket, new)
        {
            sockets::shut_down_listener(&old, endpoint.transport);
        }
        let Some(kept) = self.sockets.get(socket) else {
            return false;
        };
        if resets {
            sockets::reset_queued(kept.socket(), endpoint.transport);
        }
        true
    }

    /// Resets connections that wait at an endpoint without a listener of the program: the oldest
    /// `count`, or all.
    pub(super) fn reset_at(&mut self, id: HostId, endpoint: Endpoint, count: Option<usize>) {
        let waits = |kept: &&Retained| kept.endpoint() == endpoint && !kept.is_listening();
        for kept in self.sockets.of(id).filter(waits) {
            match count {
                Some(count) => sockets::reset_first(kept.socket(), count),
                None => sockets::reset_queued(kept.socket(), endpoint.transport),
            }
        }
    }

    /// Resets the connections that wait in the host's sockets.
    pub(super) fn reset_queued(&mut self, id: HostId) {
        for kept in self.sockets.of(id).filter(|kept| !kept.is_listening()) {
            sockets::reset_queued(kept.socket(), kept.endpoint().transport);
        }
    }

    /// Endpoints without a listener of the program and without waiting connections refuse, as
    /// natively.
    pub(super) fn close_unused(&mut self, id: HostId, spare_declared: bool) {
        self.note_program(id);
        for socket in self.sockets.ids(id).to_vec() {
            let Some(kept) = self.sockets.get(socket) else { continue };
            let endpoint = kept.endpoint();
            let is_awaited = self.hosts[id].life().is_awaited(endpoint);
            if !is_unused(kept, spare_declared, is_awaited) {
                continue;
            }
            self.sockets.unwatch(socket, &self.registry);
            let Some(kept) = self.sockets.get_mut(socket) else {
                continue;
            };
            sockets::shut_down_listener(kept.socket(), endpoint.transport);
            // A datagram socket cannot refuse; the socket is made anew when the program has ended.
            if kept.is_tentative() || endpoint.transport == Transport::Udp {
                self.sockets.remove(socket, &self.registry);
            } else {
                kept.set_open(false);
            }
        }
    }
}

/// True for a socket on which the program does not listen and where nothing is expected any more,
/// whether it refuses already or not.
fn is_unused(kept: &Retained, spare_declared: bool, is_awaited: bool) -> bool {
    let is_expected = is_awaited || (spare_declared && !kept.is_tentative());
    !kept.is_listening() && (!kept.is_open() || !is_expected)
}
