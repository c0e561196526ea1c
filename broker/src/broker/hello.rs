//! Supervisors that introduce themselves.

use std::net::SocketAddrV4;
use std::time::Duration;

use imsup_protocol::ToSupervisor;
use imsup_protocol::message::{Adoption, Role};
use imsup_wire::{Cause, CauseKind, ErrorKind, Failure, HostName, Index};

use super::Broker;
use super::awake::sleep_policy;
use crate::absent;
use crate::address_block::NAME_PORT;
use crate::hosts::Instance;
use crate::ids::{HostId, SessionId};
use crate::sessions::{Part, Peer};
use imsup_compose::cluster::Settings;
use imsup_lifecycle::Input;

/// The extra time that a supervisor waits beyond the broker, so that the broker decides the result
/// of a wait.
const REACH_MARGIN: Duration = Duration::from_secs(2);

/// The result of a supervisor's introduction.
struct Agreement {
    host: HostId,
    part: Part,
    /// True if the supervisor gets the host's retained sockets.
    with_sockets: bool,
    /// The event for the host's life cycle.
    input: Option<Input>,
    /// The supervisor's report about the time before this broker.
    adoption: Option<Adoption>,
}

/// True if a host's start is over; a sleeping host was idle.
fn is_ready(adoption: &Adoption) -> bool {
    adoption.ready || adoption.suspended_us.is_some()
}

impl Broker {
    /// A supervisor's first message.
    pub(super) fn hello(
        &mut self,
        number: SessionId,
        name: Option<HostName>,
        role: Role,
        command: Vec<String>,
        adoption: Option<Adoption>,
    ) {
        let agreed = if self.lifetime.is_going_down() {
            Err(ErrorKind::GoingDown.because(format!("project '{}' is going down", self.cluster.project)))
        } else {
            self.agree(number, name, &role, command, adoption.as_ref())
        };
        match agreed {
            Ok(agreement) => self.welcome(number, agreement),
            Err(failure) => {
                tracing::debug!(%failure, "a supervisor is rejected");
                self.tell(number, &ToSupervisor::Rejected(failure), Vec::new());
                self.hang_up(number);
            }
        }
    }

    fn welcome(&mut self, number: SessionId, agreement: Agreement) {
        let id = agreement.host;
        self.lifetime.note_supervisor();
        if let Some(session) = self.sessions.get_mut(number) {
            session.peer = Peer::Supervisor {
                host: id,
                part: agreement.part,
            };
        }
        // First of all: the welcome must be the first message that the supervisor receives.
        if let Some(input) = agreement.input {
            self.feed(id, input);
        }
        if agreement.part == Part::Program
            && let Some(instance) = self.hosts[id].instance_mut()
        {
            instance.connect(number);
        }
        if agreement.part == Part::Command {
            self.command_began(id);
        }
        let (retained, sockets) = if agreement.with_sockets {
            self.hand_over(id)
        } else {
            (Vec::new(), Vec::new())
        };
        let families_known = agreement.part == Part::Command || self.families_known(id);
        let host = &self.hosts[id];
        let spec = host.spec(&self.cluster);
        let name = host.name(&self.cluster).clone();
        let block = host.index().number().to_be_bytes()[0];
        let welcome = ToSupervisor::Welcome {
            hostname: spec.map_or_else(|| name.to_string(), |spec| spec.hostname.clone()),
            host: name,
            index: host.index(),
            planes: self.planes,
            name_server: SocketAddrV4::new(self.planes.broker_address(block), NAME_PORT),
            hold_timeout: spec.map_or_else(|| Settings::default().hold_timeout, |spec| spec.imsup.hold_timeout),
            sleep: (agreement.part == Part::Program).then(|| sleep_policy(spec)),
            awake: self.awake(id),
            families_known,
            confinement: Box::new(self.confinement(id, agreement.part)),
            retained,
            reach_timeout: self.reach_timeout(),
        };
        self.tell(number, &welcome, sockets);
        if let Some(adoption) = &agreement.adoption {
            self.take_up(id, adoption);
        }
    }

    /// Somewhat longer than any caller waits for any host.
    fn reach_timeout(&self) -> Duration {
        let declared = self.cluster.hosts.iter().map(|host| host.imsup.hold_timeout).max();
        declared.unwrap_or_default().max(Settings::default().hold_timeout) + REACH_MARGIN
    }

    fn agree(
        &mut self,
        number: SessionId,
        name: Option<HostName>,
        role: &Role,
        command: Vec<String>,
        adoption: Option<&Adoption>,
    ) -> Result<Agreement, Failure> {
        match (role, adoption) {
            (Role::Exec, _) => Ok(Agreement {
                host: self.known(name)?,
                part: Part::Command,
                with_sockets: false,
                input: None,
                adoption: None,
            }),
            (Role::Transient, _) => self.agree_transient(number, name, command, adoption),
            (Role::Launched { .. } | Role::Started, Some(adoption)) => {
                self.agree_adopted(number, name, role, &command, adoption)
            }
            (Role::Launched { boot }, None) => self.agree_launched(number, name, *boot),
            (Role::Started, None) => self.agree_started(number, name, &command),
        }
    }

    fn known(&self, name: Option<HostName>) -> Result<HostId, Failure> {
        let name = name.ok_or_else(|| ErrorKind::Unnamed.because("the supervisor did not say for which host it is"))?;
        self.hosts.named(&name).ok_or_else(|| self.unknown_host(&name))
    }

    fn agree_launched(&mut self, number: SessionId, name: Option<HostName>, boot: u64) -> Result<Agreement, Failure> {
        let id = self.known(name)?;
        let instance = self.hosts[id].instance();
        let awaited = instance.is_some_and(|instance| instance.awaits(boot));
        if !awaited || self.hosts[id].life().absent() {
            return Err(ErrorKind::NotAwaited.because(format!(
                "boot {boot} of host '{}' is not awaited (any more)",
                self.hosts[id].name(&self.cluster)
            )));
        }
        // The supervisor's introduction may arrive before the report of its maker.
        let instance = self.hosts[id].instance().map(Instance::id);
        if let Some((instance, pid)) = instance.zip(self.process_of(number)) {
            self.adopt_process(instance, pid);
        }
        Ok(Agreement {
            host: id,
            part: Part::Program,
            with_sockets: true,
            input: None,
            adoption: None,
        })
    }

    fn agree_started(
        &mut self,
        number: SessionId,
        name: Option<HostName>,
        command: &[String],
    ) -> Result<Agreement, Failure> {
        let id = self.known(name)?;
        // The supervisor held its lock for a moment, on behalf of the last broker.
        let supervisor = self.process_of(number);
        let is_itself = |instance: &Instance| {
            let known = self.launcher.process(instance.id());
            instance.is_expected() && known == supervisor && supervisor.is_some()
        };
        let host = &self.hosts[id];
        match !host.life().ending() && host.instance().is_some_and(is_itself) {
            true => drop(self.take_instance(id)),
            false => self.must_not_run(id)?,
        }
        let cause = Cause {
            kind: CauseKind::Exec,
            by: Some(self.user_of(number)),
            port: None,
        };
        let instance = Instance::introduced(None, None, self.other_program(id, command));
        self.install(id, instance, supervisor);
        Ok(Agreement {
            host: id,
            part: Part::Program,
            with_sockets: true,
            input: Some(Input::Taken {
                cause: Some(cause),
                ready: false,
            }),
            adoption: None,
        })
    }

    fn agree_transient(
        &mut self,
        number: SessionId,
        name: Option<HostName>,
        command: Vec<String>,
        adoption: Option<&Adoption>,
    ) -> Result<Agreement, Failure> {
        let own = name.as_ref().filter(|_| adoption.is_some());
        let paths = &self.paths;
        self.hosts
            .forget_away(|kept| Some(kept) != own && absent::is_locked(&paths.running(kept.as_str())));
        let name = match name {
            Some(name) if self.hosts.is_away(&name) => {
                return Err(ErrorKind::NameTaken.because(format!(
                    "host '{name}' runs already, and is about to be heard of: give another name, or none"
                )));
            }
            Some(name) if self.hosts.named(&name).is_some() || self.names.read().has(name.as_str()) => {
                return Err(ErrorKind::NameTaken.because(format!(
                    "'{name}' is a host of project '{}' already: give another name, or none",
                    self.cluster.project
                )));
            }
            Some(name) => name,
            None => self.free_name(),
        };
        let wanted = adoption.map(|adoption| adoption.index);
        let free = |index: &Index| self.hosts.is_free(*index) && self.claim.contains(*index);
        let index = match wanted {
            Some(index) => Some(index).filter(free),
            None => self.claim.indexes().find(free),
        };
        let index = index.ok_or_else(|| {
            ErrorKind::NoAddress.because(format!(
                "no address of project '{}' is left for host '{name}': end some that `imsup ps` shows",
                self.cluster.project
            ))
        })?;
        let id = self
            .hosts
            .add_transient(name.clone(), command, index, self.clock.now_us());
        self.names.write().add_host(name.as_str(), &[], self.planes.vip(index));
        self.write_hosts_file();
        let cause = adoption.is_none().then(|| Cause {
            kind: CauseKind::Exec,
            by: Some(self.user_of(number)),
            port: None,
        });
        let instance = Instance::introduced(None, adoption.map(|adoption| adoption.pid), None);
        let supervisor = self.process_of(number);
        self.install(id, instance, supervisor);
        Ok(Agreement {
            host: id,
            part: Part::Program,
            with_sockets: false,
            input: Some(Input::Taken {
                cause,
                ready: adoption.is_some_and(is_ready),
            }),
            adoption: adoption.cloned(),
        })
    }

    /// A supervisor that outlived its broker.
    fn agree_adopted(
        &mut self,
        number: SessionId,
        name: Option<HostName>,
        role: &Role,
        command: &[String],
        adoption: &Adoption,
    ) -> Result<Agreement, Failure> {
        let id = self.known(name)?;
        let host = &self.hosts[id];
        if host.index() != adoption.index {
            return Err(ErrorKind::AddressChanged.because(format!(
                "host '{}' has another address now ({} instead of {}): end the program and let it boot anew",
                host.name(&self.cluster),
                self.planes.vip(host.index()),
                self.planes.vip(adoption.index)
            )));
        }
        let expected = host.instance().is_some_and(Instance::is_expected);
        if !expected {
            self.must_not_run(id)?;
        }
        let boot = match role {
            Role::Launched { boot } => Some(*boot),
            _ => None,
        };
        let other_program = self.other_program(id, command).filter(|_| *role == Role::Started);
        let instance = Instance::introduced(boot, Some(adoption.pid), other_program);
        let supervisor = self.process_of(number);
        self.install(id, instance, supervisor);
        Ok(Agreement {
            host: id,
            part: Part::Program,
            with_sockets: false,
            input: Some(Input::Taken {
                cause: None,
                ready: is_ready(adoption),
            }),
            adoption: Some(adoption.clone()),
        })
    }

    fn must_not_run(&self, id: HostId) -> Result<(), Failure> {
        let host = &self.hosts[id];
        if host.instance().is_none() && host.life().absent() {
            return Ok(());
        }
        let name = host.name(&self.cluster);
        Err(ErrorKind::AlreadyRunning.because(format!(
            "host '{name}' runs already: `imsup stop {name}` ends its program, `imsup exec {name}` runs a command beside it"
        )))
    }

    /// The process at the other end of a connection, if on this machine.
    fn process_of(&mut self, number: SessionId) -> Option<u32> {
        self.sessions.get_mut(number).and_then(|session| session.pid)
    }

    fn user_of(&mut self, number: SessionId) -> String {
        let uid = self.sessions.get_mut(number).map_or(0, |session| session.uid);
        self.strangers.name_of(uid)
    }

    fn free_name(&self) -> HostName {
        (1u32..)
            .filter_map(|number| format!("run-{number}").parse().ok())
            .find(|name| {
                let is_taken = self.hosts.named(name).is_some() || self.hosts.is_away(name);
                !is_taken && !self.names.read().has(HostName::as_str(name))
            })
            .expect("numbers do not run out before addresses")
    }

    /// A transient host ends with its supervisor.
    pub(super) fn remove_transient(&mut self, id: HostId) {
        if self.is_declared(id) {
            return;
        }
        let name = self.name_of(id).clone();
        // Commands beside the host (`imsup exec`) have lost the host's identity.
        let of_host = |peer: &Peer| matches!(peer, Peer::Supervisor { host, .. } if *host == id);
        let commands: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| of_host(&session.peer))
            .map(|(number, _)| number)
            .collect();
        commands.into_iter().for_each(|number| self.hang_up(number));
        self.commands.remove(id);
        // The host cannot be kept awake any more; a later host of the same name is another host.
        self.lease(id, Duration::ZERO);
        for waiter in self.hosts[id].life().waiters() {
            self.answer(waiter, imsup_lifecycle::Answer::Refused);
        }
        self.stop_groups.leave(id);
        self.journal.remove(id);
        if let Some(host) = self.hosts.remove(id, &name) {
            self.names
                .write()
                .remove_host(name.as_str(), self.planes.vip(host.index()));
            self.write_hosts_file();
        }
    }

    /// No host has this name; suggests a similar name, if any.
    pub(super) fn unknown_host(&self, name: &HostName) -> Failure {
        let similar = self
            .hosts
            .ids()
            .map(|id| self.hosts[id].name(&self.cluster).as_str())
            .map(|known| (strsim::damerau_levenshtein(known, name.as_str()), known))
            .min()
            .filter(|(distance, _)| *distance <= 2);
        let hint = match similar {
            Some((_, known)) => format!("did you mean '{known}'?"),
            None => "`imsup ps` lists them".to_owned(),
        };
        ErrorKind::UnknownHost.because(format!(
            "project '{}' has no host '{name}'; {hint}",
            self.cluster.project
        ))
    }
}
