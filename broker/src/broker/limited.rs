//! Hosts with limits, and hosts that boot again by themselves (`restart`).

use std::time::Instant;

use imsup_wire::limits::{Bytes, Confinement};
use imsup_wire::{EventKind, HostState};

use super::Broker;
use crate::hosts::Instance;
use crate::ids::HostId;
use crate::journal::Happening;
use crate::sessions::Part;
use imsup_lifecycle::Input;

impl Broker {
    /// The confinement for a supervisor of the host.
    pub(super) fn confinement(&self, id: HostId, part: Part) -> Confinement {
        let host = &self.hosts[id];
        let beside = match part {
            Part::Program => None,
            Part::Command => host.instance().and_then(Instance::program),
        };
        Confinement {
            limits: host
                .spec(&self.cluster)
                .map(|spec| spec.program.limits)
                .unwrap_or_default(),
            beside,
        }
    }

    /// The kernel has killed processes of a host; the program may live on.
    pub(super) fn out_of_memory(&mut self, id: HostId, killed: u64, limit_bytes: u64) {
        let processes = match killed {
            1 => "a process".to_owned(),
            count => format!("{count} processes"),
        };
        let limit = Bytes(limit_bytes);
        let detail = format!("the kernel killed {processes} of it, out of memory: its limit is {limit}");
        tracing::warn!(host = %self.name_of(id), "{detail}");
        let happening = Happening::now(EventKind::Oom);
        let oom = self.of_life(
            id,
            Happening {
                detail: Some(detail),
                ..happening
            },
        );
        self.record(id, oom);
    }

    /// The host's program has ended without a broker, or the last broker was about to boot the host
    /// again.
    pub(super) fn ended_unseen(&mut self, id: HostId) {
        self.feed(id, Input::EndedUnseen);
    }

    /// The reason for an absent host's state, and the time of the next boot by `restart`, if any.
    pub(super) fn absent_detail(&self, id: HostId) -> Option<String> {
        let life = self.hosts[id].life();
        let is_absent = matches!(life.state(), HostState::Imaginary | HostState::Failed);
        let restarts = life.restarts_at().map(|at| {
            let left = at.saturating_duration_since(Instant::now()).as_secs_f64();
            format!("restarts in {left:.1} s")
        });
        match (life.detail().filter(|_| is_absent), restarts) {
            (Some(detail), Some(restarts)) => Some(format!("{detail}; {restarts}")),
            (Some(detail), None) => Some(detail.to_owned()),
            (None, restarts) => restarts,
        }
    }
}
