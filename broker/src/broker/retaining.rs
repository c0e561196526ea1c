//! The sockets of all hosts when a broker starts: taken over from the one before, and made.

use std::io;
use std::path::Path;

use super::Broker;
use crate::error::BrokerError;
use crate::ids::HostId;
use crate::keeper::What;
use crate::{holder, limits, sockets};

impl Broker {
    /// Takes the sockets that an earlier broker retained.
    pub(crate) fn take_all_restored(&mut self) {
        for (what, socket) in self
            .sockets
            .store
            .take_all(|what| matches!(what, What::Retained { .. }))
        {
            let What::Retained { endpoint, tentative } = what else {
                continue;
            };
            let place = self.planes.place(*endpoint.address.ip());
            if let Some(id) = place.and_then(|place| self.hosts.at(place.index)) {
                self.take_restored(id, endpoint, tentative, socket);
            }
        }
        for id in self.hosts.ids().collect::<Vec<HostId>>() {
            if self.hosts[id].life().absent() {
                self.ready_restored(id);
            }
        }
    }

    /// Makes the sockets of every host that is absent. A broker that `follows` one that has died
    /// goes on without what cannot be had.
    ///
    /// # Errors
    /// A declared port that cannot be had.
    pub(crate) fn retain_all(&mut self, imsup: &Path, follows: bool) -> Result<(), BrokerError> {
        for id in self.hosts.ids().collect::<Vec<HostId>>() {
            if !self.hosts[id].life().absent() {
                continue;
            }
            if follows {
                self.make_what_can_be_had(id);
            } else if let Some((endpoint, source)) = self.make_sockets(id).into_iter().next() {
                let host = self.hosts[id].name(&self.cluster).clone();
                return Err(match source.kind() {
                    io::ErrorKind::AddrInUse => BrokerError::Occupied {
                        host,
                        endpoint,
                        occupants: sockets::occupants(endpoint.transport, endpoint.address.port(), &self.planes),
                        holder: holder::of(endpoint),
                    },
                    io::ErrorKind::PermissionDenied => BrokerError::Privileged {
                        host,
                        endpoint,
                        first: limits::first_unprivileged_port(),
                        imsup: imsup.to_owned(),
                    },
                    _ => BrokerError::Retain { host, endpoint, source },
                });
            }
        }
        Ok(())
    }
}
