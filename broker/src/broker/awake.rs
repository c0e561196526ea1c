//! Tells supervisors the reasons beside a host's own work that keep the host awake, and the sleep
//! policy.

use std::time::Duration;

use imsup_protocol::ToSupervisor;
use imsup_wire::program::{DEFAULT_STOP_GRACE, DEFAULT_STOP_SIGNAL};
use imsup_wire::{Awake, SleepPolicy};

use super::Broker;
use crate::hosts::Host;
use crate::ids::HostId;
use imsup_compose::cluster::{HostSpec, Settings};

impl Broker {
    /// The current reasons to keep a host awake.
    pub(super) fn awake(&self, id: HostId) -> Awake {
        Awake {
            lease: self.leases.left(self.name_of(id), &self.clock),
            commands: self.commands.count(id) + u32::from(self.awaits_health(id)),
            awaited: self.hosts[id].life().awaited(),
        }
    }

    /// Tells a host's supervisor the new reasons to keep the host awake. A supervisor that has not
    /// introduced itself is told in the welcome.
    pub(super) fn tell_awake(&mut self, id: HostId) {
        let session = self.hosts.get(id).and_then(Host::session);
        if let Some(session) = session {
            let awake = self.awake(id);
            self.tell(session, &ToSupervisor::KeepAwake(awake), Vec::new());
        }
    }

    /// Tells a host's supervisor if callers wait for a port of the program, after a change.
    pub(super) fn tell_if_awaited(&mut self, id: HostId) {
        let awaited = self.hosts[id].life().awaited();
        if self.sleep(id).is_some_and(|sleep| sleep.is_news(awaited)) {
            self.tell_awake(id);
        }
    }

    /// A command beside a host's program begins.
    pub(super) fn command_began(&mut self, id: HostId) {
        self.commands.began(id);
        self.tell_awake(id);
    }

    /// A command beside a host's program has ended.
    pub(super) fn command_ended(&mut self, id: HostId) {
        self.commands.ended(id);
        self.tell_awake(id);
    }

    /// Gives a host a lease, which also holds for later boots.
    pub(super) fn lease(&mut self, id: HostId, lease: Duration) {
        let name = self.name_of(id).clone();
        if let Err(error) = self.leases.set(&name, lease, &self.clock) {
            tracing::error!(host = %name, %error, "a lease of keep-awake would not survive the broker");
        }
        self.tell_awake(id);
    }
}

/// The policy that decides when a host sleeps; defaults for an `imsup run` without a host of the
/// file.
pub(super) fn sleep_policy(spec: Option<&HostSpec>) -> SleepPolicy {
    let defaults = Settings::default();
    let settings = spec.map_or(&defaults, |spec| &spec.imsup);
    let kept = settings.keep_awake;
    SleepPolicy {
        idle_after: settings.idle_after.filter(|_| !kept),
        terminate_after: settings.terminate_after.filter(|_| !kept),
        disposable: settings.disposable,
        timer_slack: settings.timer_slack,
        reclaim: settings.reclaim,
        stop_signal: spec.map_or(DEFAULT_STOP_SIGNAL, |spec| spec.program.stop_signal),
        stop_grace: spec.map_or(DEFAULT_STOP_GRACE, |spec| spec.program.stop_grace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn what_is_kept_awake_neither_sleeps_nor_is_terminated() {
        let mut host = testing::host("web");
        host.imsup.terminate_after = Some(Duration::from_secs(60));
        host.program.stop_signal = 3;
        let policy = sleep_policy(Some(&host));
        assert_eq!(policy.idle_after, Some(Duration::from_secs(5)));
        assert_eq!(policy.terminate_after, Some(Duration::from_secs(60)));
        assert_eq!((policy.stop_signal, policy.stop_grace), (3, Duration::from_secs(10)));
        host.imsup.keep_awake = true;
        let kept = sleep_policy(Some(&host));
        assert_eq!((kept.idle_after, kept.terminate_after), (None, None));
        assert_eq!(sleep_policy(None).idle_after, Some(Duration::from_secs(5)));
    }
}
