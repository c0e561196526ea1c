//! `up` on a project that is up: what has changed ends, and a broker with the new hosts takes this
//! one's place, in the same way as one takes the place of a broker that died ([`crate::keeper`]).
//! Hosts that are what they were, and connections that wait, notice nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use imsup_compose::cluster::Cluster;
use imsup_lifecycle::Input;
use imsup_protocol::Response;
use imsup_protocol::control::Recreate;
use imsup_wire::{Endpoint, ErrorKind, Failure, HostName, Transport};

use super::Broker;
use crate::address_block;
use crate::changes::{self, Plan};
use crate::ids::{HostId, SessionId};
use crate::published;
use crate::sessions::Then;

impl Broker {
    /// Begins to apply the cluster that the client has left in [`crate::paths::Paths::next`].
    pub(super) fn begin_apply(&mut self, number: SessionId, recreate: Recreate, removes: bool) -> Result<(), Failure> {
        let path = self.paths.next();
        let text = fs::read(&path);
        let _ = fs::remove_file(&path);
        if self.lifetime.is_ephemeral() || !self.sockets.store.has_keeper() {
            return Err(refused(
                "its broker cannot be replaced while it is up: `imsup down` first",
            ));
        }
        let text = text.map_err(|error| refused(&format!("{}: {error}", path.display())))?;
        let cluster: Cluster = serde_json::from_slice(&text)
            .map_err(|error| refused(&format!("its broker is of another imsup ({error}): `imsup down` first")))?;
        if cluster.subnet != self.cluster.subnet {
            return Err(refused(
                "its subnet has changed, and all addresses with it: `imsup down` first",
            ));
        }
        let plan = changes::plan(&self.cluster.hosts, cluster.hosts, recreate, removes);
        self.check_plan(&plan)?;
        let ending: Vec<HostName> = plan.ending().cloned().collect();
        let then = Then::Apply(Box::new(plan));
        match ending.is_empty() {
            true => self.await_hosts(number, 0, then),
            false => {
                let hosts = self.select(&ending)?;
                self.end_then(number, &hosts, Input::Stop, then);
            }
        }
        self.pump(number);
        Ok(())
    }

    /// True if another broker takes the place of this one.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.lifetime.is_handed_over()
    }

    /// What the next broker could not do is found before anything ends.
    fn check_plan(&self, plan: &Plan) -> Result<(), Failure> {
        let recorded = &self.record.known().indexes;
        address_block::assign(&plan.hosts, &self.claim, &self.planes, recorded)
            .map_err(|error| refused(&format!("{error}: `imsup down` first")))?;
        for host in &plan.hosts {
            let known = self.hosts.named(&host.name);
            let had = known.and_then(|id| self.hosts[id].spec(&self.cluster));
            for publish in &host.published {
                let is_had = had.is_some_and(|had| had.published.contains(publish));
                let elsewhere = self.cluster.hosts.iter().flat_map(|host| &host.published);
                let is_freed = elsewhere
                    .clone()
                    .any(|other| other.machine_port == publish.machine_port);
                if is_had || is_freed || publish.machine_port.is_none() {
                    continue;
                }
                let target = match publish.transport {
                    Transport::Tcp => Endpoint::tcp(std::net::Ipv4Addr::LOCALHOST, publish.port),
                    Transport::Udp => Endpoint::udp(std::net::Ipv4Addr::LOCALHOST, publish.port),
                };
                published::open(publish, target, &self.planes, Vec::new())
                    .map_err(|error| ErrorKind::Other.because(format!("host '{}': {error}", host.name)))?;
            }
        }
        Ok(())
    }

    /// What had to end has ended: tells the client what has changed, and makes way.
    pub(super) fn apply(&mut self, number: SessionId, plan: Plan) {
        let ending: BTreeSet<HostName> = plan.ending().cloned().collect();
        let again: Vec<HostId> = ending.iter().filter_map(|name| self.hosts.named(name)).collect();
        let again: Vec<HostId> = again
            .into_iter()
            .filter(|id| !self.hosts[*id].life().absent())
            .collect();
        if !again.is_empty() {
            // A connection has booted one of them again while others ended.
            return self.end_then(number, &again, Input::Stop, Then::Apply(Box::new(plan)));
        }
        let Plan { hosts, changes } = plan;
        let next = Cluster {
            hosts,
            ..self.cluster.clone()
        };
        if next != self.cluster || !ending.is_empty() {
            self.set_aside(&ending);
            self.forget_completed(&ending);
            if let Err(error) = self.sockets.store.hand_over(&next) {
                let failure = refused(&format!("its keeper does not answer ({error}): `imsup down` first"));
                self.respond(number, &Response::Error(failure));
                return;
            }
            self.lifetime.hand_over();
        }
        for (host, change) in changes {
            self.respond(number, &Response::Change { host, change });
        }
        self.respond(number, &Response::Done);
    }

    /// A changed host of an image begins with the image; its volumes stay. What it had changed is
    /// removed by the client, who may wait for that.
    fn set_aside(&self, ending: &BTreeSet<HostName>) {
        let gone = self.paths.roots().join(crate::containers::GONE);
        for name in ending {
            for part in ["upper", "work"] {
                let from = self.paths.roots().join(name.as_str()).join(part);
                let place = gone.join(format!("{name}-{part}-{}", std::process::id()));
                let moved = fs::create_dir_all(&gone).and_then(|()| fs::rename(&from, place));
                match moved {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!("{}: {error}: the host keeps what it had changed", from.display());
                    }
                    _ => {}
                }
            }
        }
        let _ = fs::remove_dir(&gone);
    }
}

fn refused(why: &str) -> Failure {
    ErrorKind::Busy.because(format!("the project is up, and cannot be changed: {why}"))
}
