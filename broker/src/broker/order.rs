//! The order of boots (`depends_on` with a condition): a host's program is not started before the
//! hosts that it needs are healthy, or have completed. The boot of a host boots what it needs.

use std::collections::BTreeSet;
use std::fs;

use imsup_compose::cluster::{Condition, Prerequisite};
use imsup_lifecycle::{Input, Want};
use imsup_wire::{Cause, CauseKind, ExitStatus, Health as Verdict, HostName, HostState};
use rustix::io::Errno;
use slotmap::SecondaryMap;

use super::Broker;
use crate::files;
use crate::ids::HostId;

/// Boots that wait for other hosts, and the hosts whose work is done.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// With the hosts that were asked to boot and have not begun yet.
    held: SecondaryMap<HostId, BTreeSet<HostId>>,
    completed: SecondaryMap<HostId, ()>,
}

/// How far a prerequisite is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Met,
    /// Its host runs, or will by itself.
    Pending,
    /// Its host does not run.
    Absent,
    /// Its host is unhealthy.
    Unhealthy,
}

/// What becomes of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Go,
    Wait,
    /// The prerequisite with this place is not met, and will not be.
    Fail(usize),
}

/// Decides about a boot by how far each prerequisite is, and whether it is required. When the boot
/// begins (`is_first`), hosts that do not run are about to be booted.
fn decide(standings: &[(Standing, bool)], is_first: bool) -> Decision {
    let is_over = |standing: &Standing| match standing {
        Standing::Absent => !is_first,
        Standing::Unhealthy => true,
        Standing::Met | Standing::Pending => false,
    };
    let failed = |(standing, is_required): &(Standing, bool)| *is_required && is_over(standing);
    if let Some(place) = standings.iter().position(failed) {
        return Decision::Fail(place);
    }
    let waits = |(standing, _): &(Standing, bool)| *standing != Standing::Met && !is_over(standing);
    match standings.iter().any(waits) {
        true => Decision::Wait,
        false => Decision::Go,
    }
}

impl Order {
    /// True for a host that has done its work.
    pub(super) fn has_completed(&self, host: HostId) -> bool {
        self.completed.contains_key(host)
    }
}

impl Broker {
    /// Holds a boot back until its prerequisites are met; false if they are.
    pub(super) fn holds_back(&mut self, id: HostId) -> bool {
        let prerequisites = self.prerequisites(id);
        if prerequisites.is_empty() {
            return false;
        }
        let standings = self.standings(id, &prerequisites);
        let decision = decide(&standings, true);
        if decision == Decision::Go {
            return false;
        }
        self.order.held.insert(id, BTreeSet::new());
        match decision {
            Decision::Fail(place) => self.fail_held(id, &prerequisites[place]),
            _ => self.boot_prerequisites(id, &prerequisites, &standings),
        }
        true
    }

    fn prerequisites(&self, id: HostId) -> Vec<Prerequisite> {
        let spec = self.hosts[id].spec(&self.cluster);
        spec.map(|spec| spec.prerequisites.clone()).unwrap_or_default()
    }

    /// How far the prerequisites of a host are.
    fn standings(&self, id: HostId, prerequisites: &[Prerequisite]) -> Vec<(Standing, bool)> {
        let asked = self.order.held.get(id);
        let is_asked = |needed: &HostId| asked.is_some_and(|asked| asked.contains(needed));
        let standing = |one: &Prerequisite| match self.standing(one) {
            Standing::Absent if self.hosts.named(&one.host).as_ref().is_some_and(is_asked) => {
                (Standing::Pending, one.is_required)
            }
            standing => (standing, one.is_required),
        };
        prerequisites.iter().map(standing).collect()
    }

    fn standing(&self, prerequisite: &Prerequisite) -> Standing {
        let Some(id) = self.hosts.named(&prerequisite.host) else {
            return Standing::Met;
        };
        let life = self.hosts[id].life();
        match (prerequisite.condition, self.checks.verdict(id)) {
            (Condition::Completed, _) if self.order.has_completed(id) => Standing::Met,
            (Condition::Healthy, Some(Verdict::Healthy)) => Standing::Met,
            (Condition::Healthy, Some(Verdict::Unhealthy)) => Standing::Unhealthy,
            _ if life.absent() && life.restarts_at().is_none() => Standing::Absent,
            _ => Standing::Pending,
        }
    }

    /// Boots what a host needs, and wakes what is to become healthy.
    fn boot_prerequisites(&mut self, id: HostId, prerequisites: &[Prerequisite], standings: &[(Standing, bool)]) {
        let by = self.name_of(id).to_string();
        for (prerequisite, (standing, _)) in prerequisites.iter().zip(standings) {
            let Some(needed) = self.hosts.named(&prerequisite.host) else {
                continue;
            };
            let is_asleep = self.hosts[needed].life().state() == HostState::Suspended;
            let is_woken = is_asleep && prerequisite.condition == Condition::Healthy;
            if *standing == Standing::Absent || *standing == Standing::Pending && is_woken {
                let cause = Cause {
                    kind: CauseKind::Dependency,
                    by: Some(by.clone()),
                    port: None,
                };
                let waiter = self.lives.unheard_waiter();
                let want = Want::Ready;
                if let Some(asked) = self.order.held.get_mut(id) {
                    asked.insert(needed);
                }
                self.feed(needed, Input::Wait { waiter, want, cause });
            }
            self.tell_awake(needed);
        }
    }

    /// A host whose health is awaited has fallen asleep, or was found asleep: only awake it is checked.
    pub(super) fn wake_needed(&mut self, id: HostId) {
        if self.hosts[id].life().state() != HostState::Suspended {
            return;
        }
        let cause = Cause {
            kind: CauseKind::Dependency,
            by: None,
            port: None,
        };
        let waiter = self.lives.unheard_waiter();
        let want = Want::Ready;
        self.feed(id, Input::Wait { waiter, want, cause });
    }

    /// A host that others may need has changed: their boots go on, or have failed.
    pub(super) fn prerequisite_changed(&mut self, needed: HostId) {
        if self.order.held.is_empty() {
            return;
        }
        let name = self.name_of(needed).clone();
        let has_begun = !self.hosts[needed].life().absent();
        for id in self.order.held.keys().collect::<Vec<_>>() {
            if let Some(asked) = self.order.held.get_mut(id).filter(|_| has_begun) {
                asked.remove(&needed);
            }
            let prerequisites = self.prerequisites(id);
            if !prerequisites.iter().any(|one| one.host == name) {
                continue;
            }
            match decide(&self.standings(id, &prerequisites), false) {
                Decision::Wait => {}
                Decision::Go => {
                    self.release(id);
                    self.launch_now(id);
                }
                Decision::Fail(place) => self.fail_held(id, &prerequisites[place]),
            }
        }
    }

    /// A boot waits no more; false if it did not.
    fn release(&mut self, id: HostId) -> bool {
        if self.order.held.remove(id).is_none() {
            return false;
        }
        for needed in self.prerequisites(id) {
            if let Some(needed) = self.hosts.named(&needed.host) {
                self.tell_awake(needed);
            }
        }
        true
    }

    fn fail_held(&mut self, id: HostId, prerequisite: &Prerequisite) {
        self.release(id);
        let needed = &prerequisite.host;
        let known = self.hosts.named(needed);
        let why = match prerequisite.condition {
            Condition::Healthy if known.is_some_and(|id| self.checks.verdict(id).is_some()) => known.and_then(|id| {
                self.checks
                    .last_failure(id)
                    .map(|last| format!("is unhealthy ({last})"))
            }),
            _ => known.and_then(|id| self.hosts[id].life().detail().map(str::to_owned)),
        };
        let why = why.unwrap_or_else(|| "ended".to_owned());
        self.end_held(
            id,
            format!("it needs '{needed}', which {why}: `imsup logs {needed}` shows what that printed"),
        );
    }

    /// Ends a boot that waits, for whom nothing was started; false if it did not wait.
    pub(super) fn stop_held(&mut self, id: HostId) -> bool {
        let was_held = self.release(id);
        if was_held {
            self.end_held(id, "was stopped before its program was started".to_owned());
        }
        was_held
    }

    fn end_held(&mut self, id: HostId, detail: String) {
        let status = ExitStatus::NotExecuted(Errno::CANCELED.raw_os_error());
        self.feed(
            id,
            Input::Ended {
                status,
                detail: Some(detail),
            },
        );
    }

    /// True if a boot waits for the health of this host, which is not to fall asleep before.
    pub(super) fn awaits_health(&self, id: HostId) -> bool {
        let name = self.name_of(id);
        let is_it = |one: &Prerequisite| one.condition == Condition::Healthy && one.host == *name;
        let waits = |held: HostId| self.prerequisites(held).iter().any(is_it);
        self.checks.verdict(id) != Some(Verdict::Healthy) && self.order.held.keys().any(waits)
    }

    /// What a boot waits for, for people.
    pub(super) fn awaited_hosts(&self, id: HostId) -> Option<String> {
        self.order.held.get(id)?;
        let prerequisites = self.prerequisites(id);
        let pending = prerequisites.iter().filter(|one| self.standing(one) != Standing::Met);
        let words: Vec<String> = pending
            .map(|one| match one.condition {
                Condition::Healthy => format!("'{}' to be healthy", one.host),
                Condition::Completed => format!("'{}' to complete", one.host),
            })
            .collect();
        Some(format!("waits for {}", words.join(" and for ")))
    }

    /// A host's program has ended.
    pub(super) fn note_completion(&mut self, id: HostId, status: ExitStatus) {
        let is_done = status == ExitStatus::Code(0) && !self.hosts[id].life().ending();
        let changed = match is_done && self.is_awaited_to_complete(id) {
            true => self.order.completed.insert(id, ()).is_none(),
            false => self.order.completed.remove(id).is_some(),
        };
        if changed {
            self.write_completed();
        }
    }

    fn is_awaited_to_complete(&self, id: HostId) -> bool {
        let name = self.name_of(id);
        let mut all = self.cluster.hosts.iter().flat_map(|host| &host.prerequisites);
        all.any(|one| one.condition == Condition::Completed && one.host == *name)
    }

    /// Hosts that begin anew have not completed.
    pub(super) fn forget_completed(&mut self, names: &BTreeSet<HostName>) {
        let named = self
            .order
            .completed
            .keys()
            .filter(|id| names.contains(self.name_of(*id)));
        for id in named.collect::<Vec<_>>() {
            self.order.completed.remove(id);
        }
        self.write_completed();
    }

    fn write_completed(&self) {
        let names = self.order.completed.keys().map(|id| format!("{}\n", self.name_of(id)));
        let text: String = names.collect();
        if let Err(error) = files::replace(&self.paths.completed(), text.as_bytes()) {
            tracing::warn!(
                "{error}: if this broker is killed, hosts that have completed run again when they are needed"
            );
        }
    }

    /// Recalls which hosts have completed under an earlier broker of this `up`.
    pub(crate) fn recall_completed(&mut self) {
        let text = fs::read_to_string(self.paths.completed()).unwrap_or_default();
        let names: BTreeSet<&str> = text.lines().collect();
        for id in self.hosts.ids().collect::<Vec<_>>() {
            if names.contains(self.name_of(id).as_str()) {
                self.order.completed.insert(id, ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_waits_for_all_and_fails_with_the_first_that_is_required() {
        use Standing::{Absent, Met, Pending, Unhealthy};
        let all = |standings: &[Standing]| standings.iter().map(|one| (one.clone(), true)).collect::<Vec<_>>();
        let cases = [
            (&[][..], Decision::Go, Decision::Go),
            (&[Met, Met], Decision::Go, Decision::Go),
            (&[Met, Pending], Decision::Wait, Decision::Wait),
            (&[Met, Absent], Decision::Wait, Decision::Fail(1)),
            (&[Pending, Unhealthy], Decision::Fail(1), Decision::Fail(1)),
        ];
        for (standings, first, later) in cases {
            assert_eq!(decide(&all(standings), true), first, "{standings:?}");
            assert_eq!(decide(&all(standings), false), later, "{standings:?}");
        }
    }

    #[test]
    fn what_is_not_required_is_waited_for_and_may_fail() {
        let optional = |standing| [(Standing::Met, true), (standing, false)];
        assert_eq!(decide(&optional(Standing::Absent), true), Decision::Wait);
        assert_eq!(decide(&optional(Standing::Pending), false), Decision::Wait);
        assert_eq!(decide(&optional(Standing::Absent), false), Decision::Go);
        assert_eq!(decide(&optional(Standing::Unhealthy), true), Decision::Go);
    }
}
