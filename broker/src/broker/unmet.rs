//! Hosts with callers that wait at a port without a listener: mostly a wrong port in the compose
//! file, or a server that listens only on its own localhost.

use std::fs::OpenOptions;
use std::io::Write;

use imsup_wire::{Cause, CauseKind, Endpoint, EventKind, Plane, Transport};

use super::Broker;
use crate::hosts::Instance;
use crate::ids::HostId;
use crate::journal::Happening;
use crate::retained::Retained;

/// Ports listed at most.
const LISTED: usize = 5;

impl Broker {
    /// True if listening here makes a host ready whose start was for no port in particular: a
    /// declared port does, and any port if none is declared.
    pub(super) fn makes_ready(&self, id: HostId, endpoint: Endpoint) -> bool {
        let host = &self.hosts[id];
        let declared = host.spec(&self.cluster).map(|spec| &*spec.expose).unwrap_or_default();
        let is_public = *endpoint.address.ip() == self.planes.vip(host.index());
        declared.is_empty() || (is_public && declared.contains(&(endpoint.transport, endpoint.address.port())))
    }

    /// Whether a connection to this endpoint waits in a retained socket, since no program listens
    /// there.
    pub(super) fn waits_at(&self, id: HostId, endpoint: Endpoint) -> bool {
        let kept = self.sockets.of(id).find(|kept| kept.endpoint() == endpoint);
        kept.is_some_and(Retained::is_waiting)
    }

    /// Reports that the program listens at other ports than callers wait for: as an event, in the
    /// broker's own log and in the host's log.
    pub(super) fn say_unmet(&mut self, id: HostId, time_us: u64, endpoints: &[Endpoint]) {
        let (Some(detail), Some(first)) = (self.words_for(id, endpoints), endpoints.first()) else {
            return;
        };
        let name = self.name_of(id);
        tracing::warn!(host = %name, "{detail}");
        let log = OpenOptions::new().append(true).open(self.paths.log(name.as_str()));
        if let Ok(mut log) = log {
            let _ = writeln!(log, "imsup: {name} {detail}");
        }
        let cause = self.hosts[id].life().cause_at(*first).cloned().unwrap_or(Cause {
            kind: match first.transport {
                Transport::Tcp => CauseKind::Connection,
                Transport::Udp => CauseKind::Datagram,
            },
            by: None,
            port: Some(first.address.port()),
        });
        let unmet = Happening {
            cause: Some(cause),
            detail: Some(detail),
            ..Happening::at(time_us, EventKind::Unmet)
        };
        self.record(id, unmet);
    }

    /// The report about a host whose program listens at other ports than callers wait or have
    /// waited for, or at none of the declared ports.
    pub(super) fn unmet(&self, id: HostId) -> Option<String> {
        let life = self.hosts[id].life();
        let mut endpoints: Vec<Endpoint> = life.unmet().collect();
        if endpoints.is_empty() && life.settled() {
            endpoints = self.unopened(id);
        }
        self.words_for(id, &endpoints)
    }

    /// The declared ports of a host whose program listens, but at none of these ports.
    fn unopened(&self, id: HostId) -> Vec<Endpoint> {
        let expected = self.expected_endpoints(id).into_iter();
        let declared: Vec<Endpoint> = expected
            .filter_map(|(endpoint, declared)| declared.then_some(endpoint))
            .collect();
        let listening = self.listening(id);
        match listening.is_empty() || listening.iter().any(|endpoint| declared.contains(endpoint)) {
            true => Vec::new(),
            false => declared,
        }
    }

    /// The endpoints at which the program of a host listens, endpoints reachable from other hosts
    /// first.
    fn listening(&self, id: HostId) -> Vec<Endpoint> {
        let host = &self.hosts[id];
        let vip = self.planes.vip(host.index());
        let retained = self.sockets.of(id);
        let mut listening: Vec<Endpoint> = retained
            .filter(|kept| kept.is_listening())
            .map(Retained::endpoint)
            .collect();
        let unretained = host.instance().map(Instance::unretained);
        listening.extend(unretained.into_iter().flatten());
        listening.sort_unstable_by_key(|at| (*at.address.ip() != vip, at.address.port(), at.transport));
        listening.dedup();
        listening
    }

    /// `listens on 9000/tcp, not on 8000/tcp, which the compose file declares`; `None` if the
    /// program listens at all of these endpoints.
    fn words_for(&self, id: HostId, endpoints: &[Endpoint]) -> Option<String> {
        if let Some(awaited) = self.awaited_hosts(id) {
            return Some(awaited);
        }
        let listening = self.listening(id);
        let missing = endpoints.iter().filter(|endpoint| !listening.contains(endpoint));
        let (inside, elsewhere): (Vec<Endpoint>, Vec<Endpoint>) =
            missing.partition(|missing| listening.iter().any(|at| is_same_port(at, missing)));
        let mut said: Vec<String> = inside
            .iter()
            .map(|missing| self.words_for_inside(missing, &listening))
            .collect();
        if !elsewhere.is_empty() {
            let mut ports: Vec<String> = listening.iter().map(|at| self.words_for_listener(at)).collect();
            if ports.len() > LISTED {
                let more = ports.len() - LISTED;
                ports.truncate(LISTED);
                ports.push(format!("{more} more"));
            }
            let on = match (ports.is_empty(), self.hosts[id].life().has_listened()) {
                (true, true) => "no port of its own choice".to_owned(),
                (true, false) => "no port yet".to_owned(),
                (false, _) => list(&ports),
            };
            said.push(format!(
                "listens on {on}, not on {}",
                self.words_for_missing(id, &elsewhere)
            ));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// The report about a server that only its own host can reach.
    fn words_for_inside(&self, missing: &Endpoint, listening: &[Endpoint]) -> String {
        let at = listening.iter().filter(|at| is_same_port(at, missing));
        let on: Vec<String> = at.map(|at| self.words_for_place(at)).collect();
        format!(
            "listens on {} only, inside the host, which others do not reach: bind 0.0.0.0",
            list(&on)
        )
    }

    /// An endpoint outside of the VIP plane, as the program knows the address.
    fn words_for_place(&self, at: &Endpoint) -> String {
        let place = self.planes.place(*at.address.ip()).map(|place| place.plane);
        let address = if place == Some(Plane::Localhost) {
            "127.0.0.1"
        } else {
            "[::1]"
        };
        format!("{address}:{}", at.address.port())
    }

    fn words_for_listener(&self, at: &Endpoint) -> String {
        match self.planes.place(*at.address.ip()).map(|place| place.plane) {
            Some(Plane::Vip) => format!("{}/{}", at.address.port(), at.transport),
            _ => format!("{}/{}", self.words_for_place(at), at.transport),
        }
    }

    /// Ports and the reasons to expect each, group by group.
    fn words_for_missing(&self, id: HostId, missing: &[Endpoint]) -> String {
        let spec = self.hosts[id].spec(&self.cluster);
        let reason = |endpoint: &Endpoint| {
            let port = (endpoint.transport, endpoint.address.port());
            match spec {
                Some(spec) if spec.expose.contains(&port) => "which the compose file declares",
                Some(spec)
                    if self
                        .record
                        .known()
                        .learned
                        .get(spec.name.as_str())
                        .is_some_and(|all| all.contains(&port)) =>
                {
                    "where it listened at an earlier boot"
                }
                _ => "which was asked for",
            }
        };
        let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
        for endpoint in missing {
            let (why, text) = (
                reason(endpoint),
                format!("{}/{}", endpoint.address.port(), endpoint.transport),
            );
            match groups.iter_mut().find(|(known, _)| *known == why) {
                Some((_, ports)) => ports.push(text),
                None => groups.push((why, vec![text])),
            }
        }
        let groups: Vec<String> = groups
            .into_iter()
            .map(|(why, ports)| format!("{}, {why}", list(&ports)))
            .collect();
        groups.join(", and not on ")
    }
}

fn is_same_port(one: &Endpoint, other: &Endpoint) -> bool {
    (one.transport, one.address.port()) == (other.transport, other.address.port())
}

/// `a`, `a and b`, `a, b and c`.
fn list(all: &[String]) -> String {
    match all {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_people_write_them() {
        let of = |count: usize| list(&["a", "b", "c"].map(str::to_owned)[..count]);
        assert_eq!([0, 1, 2, 3].map(of), ["", "a", "a and b", "a, b and c"]);
    }
}
