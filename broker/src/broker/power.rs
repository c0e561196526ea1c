//! Requests of the command line about sleep: suspend, resume, keep-awake, why, usage.

use std::time::Duration;

use imsup_protocol::{Request, Response};
use imsup_wire::sleep::{Reason, ReasonKind};
use imsup_wire::{Cause, CauseKind, ErrorKind, Failure, HostName, HostState, Order, Transport, Why};

use super::Broker;
use super::supervisor_requests::Asker;
use crate::hosts::Instance;
use crate::ids::{HostId, SessionId};
use crate::sessions::{Reply, Then};

impl Broker {
    /// Begins any of these requests.
    pub(super) fn begin_power(&mut self, number: SessionId, request: Request) -> Result<(), Failure> {
        match request {
            Request::Suspend { hosts, by } => {
                let hosts = self.select_live(&hosts)?;
                self.await_hosts(number, hosts.len(), Then::Done);
                for id in hosts {
                    self.suspend(number, id, &by);
                }
            }
            Request::Resume { hosts, by } => {
                let hosts = self.select_live(&hosts)?;
                self.await_hosts(number, hosts.len(), Then::Done);
                for id in hosts {
                    match self.not_live(id, "resume") {
                        Some(failure) => self.count_down(number, Some(failure)),
                        None => self.wake(number, &[id], CauseKind::Wake, &by),
                    }
                }
            }
            Request::KeepAwake { host, lease, by } => {
                let hosts = self.select(&[host])?;
                self.await_hosts(number, hosts.len(), Then::Done);
                for id in hosts {
                    // First, so that a host booted or woken by this request does not fall asleep
                    // before the lease is known.
                    self.lease(id, lease);
                    match lease.is_zero() {
                        true => self.count_down(number, None),
                        false => self.wake(number, &[id], CauseKind::Wake, &by),
                    }
                }
            }
            Request::Why { host } => {
                let hosts = self.select(&[host])?;
                self.await_hosts(number, hosts.len(), Then::Say(Vec::new()));
                for id in hosts {
                    self.why(number, id);
                }
            }
            Request::Usage { hosts } => {
                let hosts = match hosts.is_empty() {
                    true => self.hosts.by_address(),
                    false => self.select(&hosts)?,
                };
                let live: Vec<HostId> = hosts.iter().copied().filter(|id| self.has_supervisor(*id)).collect();
                self.await_hosts(number, live.len(), Then::Usage(hosts));
                for id in live {
                    if !self.ask(id, Order::Usage, Asker::Client(number)) {
                        self.count_down(number, None);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes a client wait for so many hosts.
    pub(super) fn await_hosts(&mut self, number: SessionId, left: usize, then: Then) {
        self.set_reply(
            number,
            Reply::Waiting {
                left,
                failures: Vec::new(),
                then,
            },
        );
    }

    /// The hosts with these names; all living hosts if there are no names.
    fn select_live(&self, names: &[HostName]) -> Result<Vec<HostId>, Failure> {
        let mut hosts = self.select(names)?;
        hosts.retain(|id| !names.is_empty() || !self.hosts[*id].life().absent());
        Ok(hosts)
    }

    fn has_supervisor(&self, id: HostId) -> bool {
        self.hosts[id].session().is_some()
    }

    /// Why a host can be neither suspended nor resumed.
    fn not_live(&self, id: HostId, verb: &str) -> Option<Failure> {
        let (life, name) = (self.hosts[id].life(), self.name_of(id));
        if life.absent() {
            Some(ErrorKind::NotRunning.because(format!(
                "host '{name}' does not run, so there is nothing to {verb}: `imsup wake {name}` boots it, and so does whoever \
                 connects to it"
            )))
        } else if life.ending() {
            Some(ErrorKind::Ending.because(format!(
                "host '{name}' is being ended, so there is nothing to {verb}: `imsup wake {name}` boots it again"
            )))
        } else {
            None
        }
    }

    fn suspend(&mut self, number: SessionId, id: HostId, by: &str) {
        if let Some(failure) = self.not_live(id, "suspend") {
            return self.count_down(number, Some(failure));
        }
        // Also if the host seems to be suspended: the supervisor may report a moment later that the
        // host woke.
        if let Some(sleep) = self.sleep(id) {
            sleep.ask_to_suspend(by);
        }
        if !self.ask(id, Order::Suspend, Asker::Client(number)) {
            if self.hosts[id].life().state() == HostState::Suspended {
                return self.count_down(number, None);
            }
            let name = self.name_of(id);
            let message =
                format!("host '{name}' is not suspended: it is starting; try again when `imsup ps` shows it running");
            self.count_down(number, Some(ErrorKind::Starting.because(message)));
        }
    }

    fn why(&mut self, number: SessionId, id: HostId) {
        if self.ask(id, Order::Why, Asker::Client(number)) {
            return;
        }
        let expected = self.hosts[id].instance().is_some_and(Instance::is_expected);
        let why = match (self.hosts[id].life().absent(), expected) {
            (true, _) => Why::Absent {
                detail: self.what_boots(id),
            },
            (false, true) => started("its supervisor outlived the last broker, and has not come back to this one"),
            (false, false) => match self.awaited_hosts(id) {
                Some(awaited) => started(&format!("its program is not started yet: it {awaited}")),
                None => started("its program is being started"),
            },
        };
        self.gather(number, id, why);
    }

    /// The signals that would boot an absent host, and the end of its last program.
    fn what_boots(&self, id: HostId) -> String {
        let host = &self.hosts[id];
        let name = self.name_of(id);
        let retained = self.sockets.of(id);
        let mut ports: Vec<(u16, Transport)> = retained
            .filter(|kept| kept.is_open() && !kept.is_tentative())
            .map(|kept| (kept.endpoint().address.port(), kept.endpoint().transport))
            .collect();
        ports.sort_unstable_by_key(|(port, transport)| (*port, *transport == Transport::Udp));
        ports.dedup();
        let mut boots: Vec<String> = ports
            .into_iter()
            .map(|(port, transport)| match transport {
                Transport::Tcp => format!("a connection to port {port}/tcp"),
                Transport::Udp => format!("a datagram to port {port}/udp"),
            })
            .collect();
        boots.extend(
            host.published()
                .iter()
                .map(|port| format!("one to the machine's {}", port.machine)),
        );
        if host.spec(&self.cluster).is_some_and(|spec| spec.imsup.prefetch_dns) {
            boots.push("the look-up of its name".to_owned());
        }
        boots.push(format!("`imsup wake {name}`"));
        let last = boots.pop().unwrap_or_default();
        let boots = match boots.is_empty() {
            true => format!("{last} boots it"),
            false => format!("{} or {last} boots it", boots.join(", ")),
        };
        match (host.life().detail(), host.life().state()) {
            (Some(detail), HostState::Failed) => format!("{boots}; its last start failed: {detail}"),
            (Some(detail), _) => format!("{boots}; its last program {detail}"),
            (None, _) => boots,
        }
    }

    /// The usage of hosts, as far as known.
    pub(super) fn usage_of(&mut self, hosts: &[HostId]) -> Vec<Response> {
        let there = |id: &&HostId| self.hosts.get(**id).is_some();
        let there: Vec<HostId> = hosts.iter().filter(there).copied().collect();
        there
            .into_iter()
            .map(|id| {
                let name = self.name_of(id).clone();
                let account = self.account(id).clone();
                Response::Usage(account.tell(name, &self.clock))
            })
            .collect()
    }
}

fn started(detail: &str) -> Why {
    Why::Awake {
        reasons: vec![Reason {
            kind: ReasonKind::Starting,
            detail: detail.to_owned(),
            pid: None,
        }],
        idle: Duration::ZERO,
        sleeps_in: None,
    }
}

/// The cause of an action requested by a user.
pub(super) fn asked_by(kind: CauseKind, by: &str) -> Cause {
    Cause {
        kind,
        by: Some(by.to_owned()),
        port: None,
    }
}
