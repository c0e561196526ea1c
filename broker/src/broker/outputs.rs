//! Pipes for the output of programs in roots of images ([`crate::logs::pump`]).

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use slotmap::SecondaryMap;

use super::Broker;
use crate::ids::HostId;
use crate::keeper::What;
use crate::logs::pump::Pump;

/// The pipes of hosts that run, and the thread that reads them.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// Started with the first pipe.
    pump: Option<Pump>,
    /// The read ends, which the keeper has for the next broker.
    kept: SecondaryMap<HostId, OwnedFd>,
}

impl Broker {
    /// The end of a pipe at which a host's program prints; `None` for a program that has its log
    /// itself: one without a root, or where no pipe can be had.
    pub(super) fn output(&mut self, id: HostId) -> Option<OwnedFd> {
        self.close_output(id);
        let spec = self.hosts[id].spec(&self.cluster)?;
        spec.program.root.as_ref()?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        rustix::io::ioctl_fionbio(&reader, true).ok()?;
        self.read_output(id, reader).then_some(writer)
    }

    /// Has a pipe read into a host's log. False if it cannot be.
    fn read_output(&mut self, id: HostId, reader: OwnedFd) -> bool {
        if self.outputs.pump.is_none() {
            match Pump::start() {
                Ok(pump) => self.outputs.pump = Some(pump),
                Err(error) => tracing::warn!(%error, "programs of images print to their logs themselves"),
            }
        }
        let log = self.paths.log(self.name_of(id).as_str());
        let (Some(pump), Ok(own)) = (&self.outputs.pump, reader.try_clone()) else {
            return false;
        };
        pump.add(own, log);
        let vip = self.planes.vip(self.hosts[id].index());
        self.sockets.store.keep_copy(What::Output { vip }, &reader);
        self.outputs.kept.insert(id, reader);
        true
    }

    /// A host's program has ended. What it has printed is still read.
    pub(super) fn close_output(&mut self, id: HostId) {
        if let Some(reader) = self.outputs.kept.remove(id) {
            let vip = self.planes.vip(self.hosts[id].index());
            self.sockets.store.forget(What::Output { vip }, &reader);
        }
    }

    /// Goes on reading the pipes of an earlier broker.
    pub(crate) fn restore_outputs(&mut self) {
        for (what, reader) in self.sockets.store.take_all(|what| matches!(what, What::Output { .. })) {
            let What::Output { vip } = what else { continue };
            let place = self.planes.place(vip);
            if let Some(id) = place.and_then(|place| self.hosts.at(place.index)) {
                self.read_output(id, reader);
            }
        }
    }
}
