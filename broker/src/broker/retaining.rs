//! The sockets of all hosts when a broker starts: taken over from the one before, and made.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Broker;
use crate::error::BrokerError;
use crate::ids::HostId;
use crate::in_the_way::InTheWay;
use crate::keeper::What;
use crate::limits;

/// The time in which a start tries again to bind ports that no process has. A process that is
/// ending closes its sockets after /proc shows them no more.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two attempts.
const LOOK: Duration = Duration::from_millis(20);

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
        let mut deadline = None;
        for id in self.hosts.ids().collect::<Vec<HostId>>() {
            if !self.hosts[id].life().absent() {
                continue;
            }
            if follows {
                self.make_what_can_be_had(id);
            } else {
                self.make_declared(id, imsup, &mut deadline)?;
            }
        }
        Ok(())
    }

    /// Makes the sockets of a host. Tries again, until the deadline of the whole start, if a port is
    /// in use by a socket that no process has: a process that is ending may have had the socket.
    ///
    /// Blocking: before the loop, for [`ENDING_TIMEOUT`] in all.
    fn make_declared(&mut self, id: HostId, imsup: &Path, deadline: &mut Option<Instant>) -> Result<(), BrokerError> {
        loop {
            let Some((endpoint, source)) = self.make_sockets(id).into_iter().next() else {
                return Ok(());
            };
            let host = self.hosts[id].name(&self.cluster).clone();
            let by = match source.kind() {
                io::ErrorKind::AddrInUse => InTheWay::at(endpoint),
                io::ErrorKind::PermissionDenied => {
                    return Err(BrokerError::Privileged {
                        host,
                        endpoint,
                        first: limits::first_unprivileged_port(),
                        imsup: imsup.to_owned(),
                    });
                }
                _ => return Err(BrokerError::Retain { host, endpoint, source }),
            };
            let now = Instant::now();
            let is_of_a_process = by.as_ref().is_some_and(InTheWay::is_of_a_process);
            if is_of_a_process || deadline.is_some_and(|deadline| deadline <= now) {
                return Err(BrokerError::Occupied {
                    host,
                    endpoint,
                    by: by.map(Box::new),
                });
            }
            if deadline.is_none() {
                *deadline = Some(now + ENDING_TIMEOUT);
                let by = by.as_ref().map(tracing::field::display);
                tracing::warn!(%host, %endpoint, by, within = ?ENDING_TIMEOUT, "a port is in use, and no process has it: imsup tries again");
            }
            std::thread::sleep(LOOK);
        }
    }
}
