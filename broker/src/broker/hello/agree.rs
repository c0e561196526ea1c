//! What is agreed with a supervisor that introduces itself: decisions without effects.

use imsup_protocol::message::{Adoption, Role};
use imsup_wire::{HostName, Index};

use crate::sessions::Part;

/// What a supervisor introduces itself as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Introduction<'a> {
    /// A command beside a host's program (`imsup exec`).
    Command,
    /// A host that is not declared (`imsup run`), perhaps of an earlier broker.
    Transient(Option<&'a Adoption>),
    /// The supervisor of a boot with this token.
    Launched(u64),
    /// A declared host that was started by hand.
    Started,
    /// A declared host that outlived its broker; the boot's token if the host was not started by
    /// hand.
    Outlived(Option<u64>, &'a Adoption),
}

impl<'a> Introduction<'a> {
    /// The meaning of a supervisor's first message.
    pub(super) fn of(role: &Role, adoption: Option<&'a Adoption>) -> Self {
        match (role, adoption) {
            (Role::Exec, _) => Self::Command,
            (Role::Transient, adoption) => Self::Transient(adoption),
            (Role::Launched { boot }, Some(adoption)) => Self::Outlived(Some(*boot), adoption),
            (Role::Started, Some(adoption)) => Self::Outlived(None, adoption),
            (Role::Launched { boot }, None) => Self::Launched(*boot),
            (Role::Started, None) => Self::Started,
        }
    }

    /// The part that the supervisor takes.
    pub(super) fn part(self) -> Part {
        match self {
            Self::Command => Part::Command,
            _ => Part::Program,
        }
    }

    /// True if the supervisor gets the host's retained sockets: the program is still to be started.
    pub(super) fn gets_sockets(self) -> bool {
        matches!(self, Self::Launched(_) | Self::Started)
    }

    /// The token by which a launcher has started the supervisor.
    pub(super) fn boot(self) -> Option<u64> {
        match self {
            Self::Launched(boot) | Self::Outlived(Some(boot), _) => Some(boot),
            _ => None,
        }
    }

    /// True if the program may be another than the declared one.
    pub(super) fn may_be_other(self) -> bool {
        matches!(self, Self::Started | Self::Outlived(None, _))
    }

    /// The supervisor's report about the time before this broker.
    pub(super) fn adoption(self) -> Option<&'a Adoption> {
        match self {
            Self::Transient(adoption) => adoption,
            Self::Outlived(_, adoption) => Some(adoption),
            Self::Command | Self::Launched(_) | Self::Started => None,
        }
    }

    /// True if the host's start is over; a sleeping host was idle.
    pub(super) fn is_ready(self) -> bool {
        let is_ready = |adoption: &Adoption| adoption.ready || adoption.suspended_us.is_some();
        self.adoption().is_some_and(is_ready)
    }
}

/// The host that a supervisor names.
pub(super) trait Named {
    fn index(&self) -> Index;
    fn is_absent(&self) -> bool;
    fn is_ending(&self) -> bool;
    fn has_instance(&self) -> bool;
    /// The instance is of this boot, and has no supervisor yet.
    fn awaits(&self, boot: u64) -> bool;
    /// The instance ran before this broker, and was not heard of since.
    fn is_expected(&self) -> bool;
    /// The process that introduces itself is known as the instance's supervisor.
    fn is_run_by_peer(&self) -> bool;
}

/// What is done with a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The supervisor only has the host's identity.
    Beside,
    /// The supervisor is that of the instance that is there.
    Join,
    /// The supervisor is that of a new instance, in place of one that was expected, if any.
    Take,
}

/// Why a supervisor is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The boot is over, or was given up.
    NotAwaited(u64),
    /// The host has another index than the supervisor knows.
    AddressChanged { now: Index, before: Index },
    /// Another supervisor runs the host, or is about to.
    AlreadyRunning,
    /// A host of this name, which ran before this broker, is about to introduce itself.
    NameAway,
    /// There is a host of this name.
    NameTaken,
    /// No index is free, or not the index of a host that ran before this broker.
    NoAddress,
}

/// What is done with a supervisor of a host that is there.
pub(super) fn decide(introduction: Introduction<'_>, host: &impl Named) -> Result<Plan, Refusal> {
    let is_awaited = match introduction {
        Introduction::Command => return Ok(Plan::Beside),
        Introduction::Launched(boot) => {
            let is_awaited = host.awaits(boot) && !host.is_absent();
            return is_awaited.then_some(Plan::Join).ok_or(Refusal::NotAwaited(boot));
        }
        Introduction::Outlived(_, adoption) => {
            let (now, before) = (host.index(), adoption.index);
            if now != before {
                return Err(Refusal::AddressChanged { now, before });
            }
            host.is_expected()
        }
        // The supervisor held its lock for a moment, on behalf of the last broker.
        Introduction::Started => !host.is_ending() && host.is_expected() && host.is_run_by_peer(),
        Introduction::Transient(_) => false,
    };
    let is_vacant = !host.has_instance() && host.is_absent();
    (is_awaited || is_vacant)
        .then_some(Plan::Take)
        .ok_or(Refusal::AlreadyRunning)
}

/// The name of a host that is not declared: the wanted name, else the first that is free.
pub(super) fn decide_name(
    wanted: Option<HostName>,
    is_away: impl Fn(&HostName) -> bool,
    is_taken: impl Fn(&HostName) -> bool,
) -> Result<HostName, (HostName, Refusal)> {
    match wanted {
        Some(name) if is_away(&name) => Err((name, Refusal::NameAway)),
        Some(name) if is_taken(&name) => Err((name, Refusal::NameTaken)),
        Some(name) => Ok(name),
        None => Ok((1u32..)
            .filter_map(|number| format!("run-{number}").parse().ok())
            .find(|name| !is_taken(name) && !is_away(name))
            .expect("numbers do not run out before addresses")),
    }
}

/// The index of a host that is not declared: that of the time before this broker, else the first of
/// `all` that is free.
pub(super) fn decide_index(
    before: Option<Index>,
    mut all: impl Iterator<Item = Index>,
    is_free: impl Fn(&Index) -> bool,
) -> Result<Index, Refusal> {
    let index = match before {
        Some(index) => Some(index).filter(is_free),
        None => all.find(is_free),
    };
    index.ok_or(Refusal::NoAddress)
}

#[cfg(test)]
mod tests {
    use imsup_wire::Usage;

    use super::*;

    /// A host at the first index that is absent.
    #[derive(Clone, Copy, Default)]
    struct Facts {
        index: u16,
        live: bool,
        ending: bool,
        instance: bool,
        boot: Option<u64>,
        expected: bool,
        run_by_peer: bool,
    }

    impl Named for Facts {
        fn index(&self) -> Index {
            Index::new(self.index + 1).unwrap()
        }

        fn is_absent(&self) -> bool {
            !self.live
        }

        fn is_ending(&self) -> bool {
            self.ending
        }

        fn has_instance(&self) -> bool {
            self.instance
        }

        fn awaits(&self, boot: u64) -> bool {
            self.boot == Some(boot)
        }

        fn is_expected(&self) -> bool {
            self.expected
        }

        fn is_run_by_peer(&self) -> bool {
            self.run_by_peer
        }
    }

    const ABSENT: Facts = Facts {
        index: 0,
        live: false,
        ending: false,
        instance: false,
        boot: None,
        expected: false,
        run_by_peer: false,
    };
    const RUNNING: Facts = Facts {
        live: true,
        instance: true,
        ..ABSENT
    };
    const EXPECTED: Facts = Facts {
        expected: true,
        ..RUNNING
    };

    fn adoption() -> Adoption {
        Adoption {
            index: Index::new(1).unwrap(),
            pid: 7,
            ready: false,
            suspended_us: None,
            started_us: 0,
            usage: Usage::default(),
        }
    }

    #[test]
    fn a_first_message_with_a_report_is_of_a_host_that_outlived_its_broker() {
        let adoption = adoption();
        let of = |role, adopted: bool| Introduction::of(&role, adopted.then_some(&adoption));
        let launched = Role::Launched { boot: 3 };
        assert_eq!(of(launched, false), Introduction::Launched(3));
        let outlived = of(Role::Launched { boot: 3 }, true);
        assert_eq!(outlived, Introduction::Outlived(Some(3), &adoption));
        assert!(!outlived.gets_sockets() && !outlived.may_be_other());
        assert_eq!(outlived.boot(), Some(3));
        let by_hand = of(Role::Started, true);
        assert!(by_hand.may_be_other() && !by_hand.gets_sockets());
        assert!(of(Role::Started, false).gets_sockets());
        assert_eq!(of(Role::Exec, true).part(), Part::Command);
        assert_eq!(of(Role::Exec, true).adoption(), None);
    }

    #[test]
    fn a_host_that_slept_was_ready() {
        let mut adoption = adoption();
        assert!(!Introduction::Outlived(None, &adoption).is_ready());
        adoption.suspended_us = Some(1);
        assert!(Introduction::Transient(Some(&adoption)).is_ready());
        assert!(!Introduction::Started.is_ready());
    }

    #[test]
    fn a_command_runs_beside_whatever_there_is() {
        for host in [ABSENT, RUNNING, EXPECTED] {
            assert_eq!(decide(Introduction::Command, &host), Ok(Plan::Beside));
        }
    }

    #[test]
    fn a_launched_supervisor_joins_the_boot_of_its_token() {
        let booting = Facts {
            boot: Some(3),
            ..RUNNING
        };
        let refused = |boot| Err(Refusal::NotAwaited(boot));
        assert_eq!(decide(Introduction::Launched(3), &booting), Ok(Plan::Join));
        assert_eq!(decide(Introduction::Launched(4), &booting), refused(4));
        let over = Facts { live: false, ..booting };
        assert_eq!(decide(Introduction::Launched(3), &over), refused(3));
        assert_eq!(decide(Introduction::Launched(3), &ABSENT), refused(3));
    }

    #[test]
    fn a_program_started_by_hand_takes_an_absent_host_or_goes_on_as_itself() {
        let decide = |host| decide(Introduction::Started, &host);
        assert_eq!(decide(ABSENT), Ok(Plan::Take));
        assert_eq!(decide(RUNNING), Err(Refusal::AlreadyRunning));
        let waiting = Facts { live: true, ..ABSENT };
        assert_eq!(decide(waiting), Err(Refusal::AlreadyRunning), "about to boot again");
        assert_eq!(decide(EXPECTED), Err(Refusal::AlreadyRunning), "another process");
        let itself = Facts {
            run_by_peer: true,
            ..EXPECTED
        };
        assert_eq!(decide(itself), Ok(Plan::Take));
        let ending = Facts { ending: true, ..itself };
        assert_eq!(decide(ending), Err(Refusal::AlreadyRunning));
    }

    #[test]
    fn a_host_that_outlived_its_broker_goes_on_at_its_address_where_it_is_expected() {
        let adoption = adoption();
        let decide = |host| decide(Introduction::Outlived(None, &adoption), &host);
        assert_eq!(decide(EXPECTED), Ok(Plan::Take));
        assert_eq!(decide(ABSENT), Ok(Plan::Take));
        assert_eq!(decide(RUNNING), Err(Refusal::AlreadyRunning));
        let moved = Facts { index: 1, ..EXPECTED };
        let (now, before) = (moved.index(), adoption.index);
        assert_eq!(decide(moved), Err(Refusal::AddressChanged { now, before }));
    }

    #[test]
    fn a_wanted_name_is_free_or_refused_and_others_are_numbered() {
        let name = |name: &str| name.parse::<HostName>().unwrap();
        let is_away = |name: &HostName| name.as_str() == "run-1";
        let is_taken = |name: &HostName| ["web", "run-2"].contains(&name.as_str());
        let decide = |wanted: Option<&str>| decide_name(wanted.map(name), is_away, is_taken);
        assert_eq!(decide(Some("job")), Ok(name("job")));
        assert_eq!(decide(Some("web")), Err((name("web"), Refusal::NameTaken)));
        assert_eq!(decide(Some("run-1")), Err((name("run-1"), Refusal::NameAway)));
        assert_eq!(decide(None), Ok(name("run-3")));
    }

    #[test]
    fn a_host_of_an_earlier_broker_has_its_index_or_none() {
        let [one, two] = [1, 2].map(|number| Index::new(number).unwrap());
        let is_free = |index: &Index| *index != one;
        assert_eq!(decide_index(None, [one, two].into_iter(), is_free), Ok(two));
        assert_eq!(decide_index(None, [one].into_iter(), is_free), Err(Refusal::NoAddress));
        let kept = |before| decide_index(Some(before), [two].into_iter(), is_free);
        assert_eq!(kept(two), Ok(two));
        assert_eq!(kept(one), Err(Refusal::NoAddress));
    }
}
