//! Supervisors that introduce themselves.

mod agree;

use std::net::SocketAddrV4;
use std::time::Duration;

use imsup_protocol::ToSupervisor;
use imsup_protocol::message::{Adoption, Role};
use imsup_wire::{Cause, CauseKind, ErrorKind, Failure, HostName, Index};

use self::agree::{Introduction, Named, Plan, Refusal, decide, decide_index, decide_name};
use super::Broker;
use super::awake::sleep_policy;
use crate::absent;
use crate::address_block::NAME_PORT;
use crate::hosts::{Host, Instance};
use crate::ids::{HostId, SessionId};
use crate::sessions::{Part, Peer};
use imsup_compose::cluster::Settings;
use imsup_lifecycle::Input;

/// The extra time that a supervisor waits beyond the broker, so that the broker decides the result
/// of a wait.
const REACH_MARGIN: Duration = Duration::from_secs(2);

/// The host that a supervisor names, as the broker knows it.
struct Known<'a> {
    broker: &'a Broker,
    id: HostId,
    /// The process that introduces itself, if on this machine.
    peer: Option<u32>,
}

impl Known<'_> {
    fn host(&self) -> &Host {
        &self.broker.hosts[self.id]
    }
}

impl Named for Known<'_> {
    fn index(&self) -> Index {
        self.host().index()
    }

    fn is_absent(&self) -> bool {
        self.host().life().absent()
    }

    fn is_ending(&self) -> bool {
        self.host().life().ending()
    }

    fn has_instance(&self) -> bool {
        self.host().instance().is_some()
    }

    fn awaits(&self, boot: u64) -> bool {
        self.host().instance().is_some_and(|instance| instance.awaits(boot))
    }

    fn is_expected(&self) -> bool {
        self.host().instance().is_some_and(Instance::is_expected)
    }

    fn is_run_by_peer(&self) -> bool {
        let known = self
            .host()
            .instance()
            .and_then(|instance| self.broker.launcher.process(instance.id()));
        known.is_some() && known == self.peer
    }
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
        let introduction = Introduction::of(&role, adoption.as_ref());
        let agreed = if self.lifetime.is_going_down() {
            Err(ErrorKind::GoingDown.because(format!("project '{}' is going down", self.cluster.project)))
        } else {
            self.agree(number, name, introduction, command)
        };
        match agreed {
            Ok(id) => self.welcome(number, id, introduction),
            Err(failure) => {
                tracing::debug!(%failure, "a supervisor is rejected");
                self.tell(number, &ToSupervisor::Rejected(failure), Vec::new());
                self.hang_up(number);
            }
        }
    }

    fn welcome(&mut self, number: SessionId, id: HostId, introduction: Introduction<'_>) {
        let part = introduction.part();
        let input = self.input_of(number, introduction);
        self.lifetime.note_supervisor();
        if let Some(session) = self.sessions.get_mut(number) {
            session.peer = Peer::Supervisor { host: id, part };
        }
        // First of all: the welcome must be the first message that the supervisor receives.
        if let Some(input) = input {
            self.feed(id, input);
        }
        if part == Part::Program
            && let Some(instance) = self.hosts[id].instance_mut()
        {
            instance.connect(number);
        }
        if part == Part::Command {
            self.command_began(id);
        }
        let (retained, sockets) = if introduction.gets_sockets() {
            self.hand_over(id)
        } else {
            (Vec::new(), Vec::new())
        };
        let families_known = part == Part::Command || self.families_known(id);
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
            sleep: (part == Part::Program).then(|| sleep_policy(spec)),
            awake: self.awake(id),
            families_known,
            confinement: Box::new(self.confinement(id, part)),
            retained,
            reach_timeout: self.reach_timeout(),
        };
        self.tell(number, &welcome, sockets);
        if let Some(adoption) = introduction.adoption() {
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
        introduction: Introduction<'_>,
        command: Vec<String>,
    ) -> Result<HostId, Failure> {
        let (id, other_program) = match introduction {
            Introduction::Transient(adoption) => (self.add_transient(name, command, adoption)?, None),
            _ => {
                let id = self.known(name)?;
                let is_other = introduction.may_be_other();
                (id, is_other.then(|| self.other_program(id, &command)).flatten())
            }
        };
        let peer = self.process_of(number);
        match decide(introduction, &Known { broker: self, id, peer }) {
            Ok(Plan::Beside) => {}
            Ok(Plan::Join) => {
                // The supervisor's introduction may arrive before the report of its maker.
                let instance = self.hosts[id].instance().map(Instance::id);
                if let Some((instance, pid)) = instance.zip(peer) {
                    self.adopt_process(instance, pid);
                }
            }
            Ok(Plan::Take) => {
                let program = introduction.adoption().map(|adoption| adoption.pid);
                let instance = Instance::introduced(introduction.boot(), program, other_program);
                self.install(id, instance, peer);
            }
            Err(refusal) => return Err(self.refused(self.name_of(id), refusal)),
        }
        Ok(id)
    }

    fn known(&self, name: Option<HostName>) -> Result<HostId, Failure> {
        let name = name.ok_or_else(|| ErrorKind::Unnamed.because("the supervisor did not say for which host it is"))?;
        self.hosts.named(&name).ok_or_else(|| self.unknown_host(&name))
    }

    /// Adds a host that is not declared, with the wanted name and the address of before, if any.
    fn add_transient(
        &mut self,
        name: Option<HostName>,
        command: Vec<String>,
        adoption: Option<&Adoption>,
    ) -> Result<HostId, Failure> {
        let own = name.as_ref().filter(|_| adoption.is_some());
        let paths = &self.paths;
        self.hosts
            .forget_away(|kept| Some(kept) != own && absent::is_locked(&paths.running(kept.as_str())));
        let is_away = |name: &HostName| self.hosts.is_away(name);
        let is_taken = |name: &HostName| self.hosts.named(name).is_some() || self.names.read().has(name.as_str());
        let name = decide_name(name, is_away, is_taken).map_err(|(name, refusal)| self.refused(&name, refusal))?;
        let is_free = |index: &Index| self.hosts.is_free(*index) && self.claim.contains(*index);
        let before = adoption.map(|adoption| adoption.index);
        let index =
            decide_index(before, self.claim.indexes(), is_free).map_err(|refusal| self.refused(&name, refusal))?;
        let now_us = self.clock.now_us();
        let id = self.hosts.add_transient(name.clone(), command, index, now_us);
        self.names.write().add_host(name.as_str(), &[], self.planes.vip(index));
        self.write_hosts_file();
        Ok(id)
    }

    /// The event for the host's life cycle when a supervisor is welcomed. The supervisor of a boot
    /// or of a command changes nothing yet.
    fn input_of(&mut self, number: SessionId, introduction: Introduction<'_>) -> Option<Input> {
        if matches!(introduction, Introduction::Command | Introduction::Launched(_)) {
            return None;
        }
        let cause = introduction.adoption().is_none().then(|| Cause {
            kind: CauseKind::Exec,
            by: Some(self.user_of(number)),
            port: None,
        });
        let ready = introduction.is_ready();
        Some(Input::Taken { cause, ready })
    }

    /// Why a supervisor of this host is rejected, for people.
    fn refused(&self, name: &HostName, refusal: Refusal) -> Failure {
        let project = &self.cluster.project;
        match refusal {
            Refusal::NotAwaited(boot) => {
                ErrorKind::NotAwaited.because(format!("boot {boot} of host '{name}' is not awaited (any more)"))
            }
            Refusal::AddressChanged { now, before } => ErrorKind::AddressChanged.because(format!(
                "host '{name}' has another address now ({} instead of {}): end the program and let it boot anew",
                self.planes.vip(now),
                self.planes.vip(before)
            )),
            Refusal::AlreadyRunning => ErrorKind::AlreadyRunning.because(format!(
                "host '{name}' runs already: `imsup stop {name}` ends its program, `imsup exec {name}` runs a command beside it"
            )),
            Refusal::NameAway => ErrorKind::NameTaken.because(format!(
                "host '{name}' runs already, and is about to be heard of: give another name, or none"
            )),
            Refusal::NameTaken => ErrorKind::NameTaken.because(format!(
                "'{name}' is a host of project '{project}' already: give another name, or none"
            )),
            Refusal::NoAddress => ErrorKind::NoAddress.because(format!(
                "no address of project '{project}' is left for host '{name}': end some that `imsup ps` shows"
            )),
        }
    }

    /// The process at the other end of a connection, if on this machine.
    fn process_of(&mut self, number: SessionId) -> Option<u32> {
        self.sessions.get_mut(number).and_then(|session| session.pid)
    }

    fn user_of(&mut self, number: SessionId) -> String {
        let uid = self.sessions.get_mut(number).map_or(0, |session| session.uid);
        self.strangers.name_of(uid)
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
