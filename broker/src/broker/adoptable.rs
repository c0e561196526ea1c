//! Hosts that run without a broker, and are still running when the next broker starts.

use std::fs;
use std::time::Duration;

use imsup_wire::{EventKind, HostName};

use super::Broker;
use super::timers::Timer;
use crate::absent::{self, Adoptable};
use crate::history::Summary;
use crate::hosts::Instance;
use crate::ids::HostId;
use crate::journal::Happening;
use imsup_lifecycle::Input;

/// How long a supervisor may take to notice that there is a broker again.
const RETURN_TIME: Duration = Duration::from_secs(5);

impl Broker {
    /// Expects the supervisors that have the lock of their host's file.
    pub(crate) fn expect_adoptable(&mut self) {
        for adoptable in absent::adoptable(&self.paths) {
            let Adoptable { pid, boot, index, .. } = adoptable;
            let Ok(name) = adoptable.host.parse::<HostName>() else {
                continue;
            };
            let Some(id) = self.hosts.named(&name) else {
                // A transient host introduces itself as transient; a host that is no longer in the
                // file is rejected on introduction.
                if let Some(index) = index {
                    self.hosts.keep_for(name, index);
                }
                continue;
            };
            self.install(id, Instance::expected(boot), pid);
            self.feed(
                id,
                Input::Taken {
                    cause: None,
                    ready: false,
                },
            );
            self.timers.after(RETURN_TIME, Timer::Missing(id));
        }
    }

    /// The supervisor's time to come back is over.
    pub(super) fn missing(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let Some(instance) = host.instance().filter(|instance| instance.is_expected()) else {
            return;
        };
        let name = host.name(&self.cluster);
        tracing::warn!(
            host = %name,
            pid = self.launcher.process(instance.id()),
            "runs under a supervisor that does not answer; its ports are not retained. `imsup stop {name}` ends it"
        );
    }

    /// Reports hosts that ran when the last broker died, and ended before this broker came. Boots
    /// again the hosts whose policy says so.
    pub(crate) fn report_unseen_ends(&mut self, last: &[(HostName, Summary)]) {
        let time_us = self.clock.now_us();
        for (name, summary) in last {
            let Some(id) = self.hosts.named(name) else { continue };
            let life = self.hosts[id].life_mut();
            life.recall_attempts(summary.attempts(), None);
            if !life.absent() {
                continue;
            }
            let over = matches!(
                summary.last,
                EventKind::Allocate | EventKind::Exit | EventKind::Fail | EventKind::Restart
            );
            if !over {
                let detail = Some("ended while no broker ran".to_owned());
                let happening = Happening::now(EventKind::Exit);
                let exit = self.of_life(id, Happening { detail, ..happening });
                self.record(id, exit);
                let ran = Duration::from_micros(time_us.saturating_sub(summary.booted_us));
                self.hosts[id].life_mut().recall_attempts(summary.attempts(), Some(ran));
            }
            // A host that was being terminated has ended as planned.
            if summary.is_restarting() || !over && summary.last != EventKind::Terminate {
                self.ended_unseen(id);
            }
        }
    }

    /// Writes the lines for /etc/hosts.
    pub(crate) fn write_hosts_file(&self) {
        let machine = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let contents = self.names.read().hosts_file(&machine);
        if let Err(error) = crate::files::replace(&self.paths.hosts(), contents.as_bytes()) {
            tracing::error!(%error, "the project's hosts file could not be written");
        }
    }
}
