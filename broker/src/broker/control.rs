//! Requests of the command line.

use imsup_protocol::{Request, Response};
use imsup_wire::{Cause, CauseKind, ErrorKind, Failure, HostName, HostState, HostStatus};

use super::Broker;
use super::lives::Target;
use super::power::asked_by;
use crate::hosts::Instance;
use crate::ids::{HostId, SessionId};
use crate::sessions::{Peer, Reply, Sent, Then, describe};
use imsup_lifecycle::{Answer, Input, Want};

/// Events, or hosts, that are kept to be sent to a client together.
const AT_ONCE: usize = 512;

impl Broker {
    /// A client's request.
    pub(super) fn asked(&mut self, number: SessionId, request: Request) {
        tracing::debug!(request = describe(&request), "asked");
        if let Some(session) = self.sessions.get_mut(number) {
            session.peer = Peer::Client(Reply::Listed(Vec::new().into_iter()));
        }
        match self.begin(number, request) {
            Ok(Some(reply)) => self.set_reply(number, reply),
            Ok(None) => {}
            Err(failure) => {
                self.respond(number, &Response::Error(failure));
            }
        }
    }

    fn begin(&mut self, number: SessionId, request: Request) -> Result<Option<Reply>, Failure> {
        Ok(Some(match request {
            Request::Broker => Reply::Listed(vec![self.self_description()].into_iter()),
            Request::Hosts => {
                let mut hosts = self.hosts.by_address();
                hosts.reverse();
                Reply::Hosts(hosts)
            }
            Request::Names => {
                let names = self.names.read().all();
                let response = |(name, address)| Response::Name { name, address };
                Reply::Listed(names.into_iter().map(response).collect::<Vec<_>>().into_iter())
            }
            Request::Resolve { name } => {
                let addresses = self.names.read().addresses(&name);
                if addresses.is_empty() {
                    return Err(match name.parse() {
                        Ok(name) => self.unknown_host(&name),
                        Err(error) => ErrorKind::InvalidName.because(imsup_wire::host::BadHostName::to_string(&error)),
                    });
                }
                let response = |address| Response::Name {
                    name: name.clone(),
                    address,
                };
                Reply::Listed(addresses.into_iter().map(response).collect::<Vec<_>>().into_iter())
            }
            Request::Events { follow, hosts } => self.events_for(follow, hosts),
            Request::Wake { hosts, by, exec } => {
                let kind = if exec { CauseKind::Exec } else { CauseKind::Wake };
                let hosts = self.select(&hosts)?;
                self.await_hosts(number, hosts.len(), Then::Done);
                self.wake(number, &hosts, kind, &by);
                return Ok(None);
            }
            Request::Stop { hosts } => {
                let hosts = self.select(&hosts)?;
                self.end_programs(number, &hosts, None);
                return Ok(None);
            }
            Request::Restart { hosts, by } => {
                let hosts = self.select_restartable(&hosts)?;
                self.end_programs(number, &hosts, Some(by));
                return Ok(None);
            }
            Request::Suspend { .. }
            | Request::Resume { .. }
            | Request::KeepAwake { .. }
            | Request::Why { .. }
            | Request::Usage { .. } => {
                self.begin_power(number, request)?;
                return Ok(None);
            }
            Request::Apply {
                recreate,
                remove_orphans,
            } => {
                self.begin_apply(number, recreate, remove_orphans)?;
                return Ok(None);
            }
            Request::Program { host } => Reply::Listed(vec![self.program_of(&host)?].into_iter()),
            Request::Down => {
                self.set_reply(number, Reply::Down);
                self.go_down();
                return Ok(None);
            }
        }))
    }

    fn program_of(&self, name: &HostName) -> Result<Response, Failure> {
        let id = self.hosts.named(name).ok_or_else(|| self.unknown_host(name))?;
        let host = &self.hosts[id];
        let pid = host.instance().and_then(Instance::program);
        let spec = host.spec(&self.cluster).map(|spec| Box::new(spec.program.clone()));
        match pid {
            Some(pid) => Ok(Response::Program { pid, spec }),
            None => Err(ErrorKind::NotRunning.because(format!("host '{name}' does not run"))),
        }
    }

    /// The declared hosts with these names; all hosts if there are no names. A service's name
    /// stands for all replicas.
    pub(super) fn select(&self, names: &[HostName]) -> Result<Vec<HostId>, Failure> {
        if names.is_empty() {
            return Ok(self.hosts.ids().collect());
        }
        let mut selected = Vec::new();
        for name in names {
            match self.hosts.named(name) {
                Some(id) => selected.push(id),
                None => {
                    let addresses = self.names.read().addresses(name.as_str());
                    let places = addresses.into_iter().filter_map(|address| self.planes.place(address));
                    let replicas: Vec<HostId> = places.filter_map(|place| self.hosts.at(place.index)).collect();
                    if replicas.is_empty() {
                        return Err(self.unknown_host(name));
                    }
                    selected.extend(replicas);
                }
            }
        }
        selected.sort_unstable();
        // In the order of the file, and each once.
        Ok(self
            .hosts
            .ids()
            .filter(|id| selected.binary_search(id).is_ok())
            .collect())
    }

    /// The hosts with these names; all living declared hosts if there are no names. A host made by
    /// `imsup run` has no command to boot: a restart that names this host is refused, and no host
    /// is ended.
    fn select_restartable(&self, names: &[HostName]) -> Result<Vec<HostId>, Failure> {
        let mut hosts = self.select(names)?;
        if names.is_empty() {
            hosts.retain(|id| self.is_declared(*id) && !self.hosts[*id].life().absent());
        }
        match hosts.iter().find(|id| !self.is_declared(**id)) {
            Some(id) => {
                let name = self.name_of(*id);
                Err(ErrorKind::NotDeclared.because(format!(
                    "host '{name}' was made by `imsup run`, and no compose file says how to boot it again, so nothing was restarted: \
                     `imsup stop {name}` ends it"
                )))
            }
            None => Ok(hosts),
        }
    }

    pub(super) fn wake(&mut self, number: SessionId, hosts: &[HostId], kind: CauseKind, by: &str) {
        for id in hosts {
            let cause = asked_by(kind, by);
            let waiter = self.lives.new_waiter(Target::Client {
                session: number,
                host: *id,
            });
            let want = Want::Ready;
            self.feed(*id, Input::Wait { waiter, want, cause });
        }
    }

    fn end_programs(&mut self, number: SessionId, hosts: &[HostId], wake_by: Option<String>) {
        let end = if wake_by.is_some() { Input::Restart } else { Input::Stop };
        let then = wake_by.map_or(Then::Done, |by| Then::Wake(hosts.to_vec(), by));
        self.end_then(number, hosts, end, then);
    }

    /// Ends the programs of hosts, for a client, and goes on.
    pub(super) fn end_then(&mut self, number: SessionId, hosts: &[HostId], end: Input, then: Then) {
        self.await_hosts(number, hosts.len(), then);
        self.begin_stop_group(hosts);
        for id in hosts {
            self.feed(*id, end.clone());
            let waiter = self.lives.new_waiter(Target::Client {
                session: number,
                host: *id,
            });
            let cause = Cause {
                kind: CauseKind::Wake,
                by: None,
                port: None,
            };
            let want = Want::Ended;
            self.feed(*id, Input::Wait { waiter, want, cause });
        }
    }

    /// One of the hosts that a client waits for is done.
    pub(super) fn answer_client(&mut self, number: SessionId, id: HostId, answer: Answer) {
        let failure = match answer {
            Answer::Ready | Answer::Ended | Answer::Connect => None,
            Answer::Failed | Answer::Refused => Some(self.failure_of(id)),
            Answer::TimedOut => Some(ErrorKind::TimedOut.because(format!(
                "host '{}' was not ready within its hold_timeout; {}",
                self.name_of(id),
                match self.hosts[id].life().state() {
                    HostState::Suspended => "its supervisor does not wake it: `imsup stop` ends it",
                    _ => "it goes on starting",
                }
            ))),
        };
        self.count_down(number, failure);
    }

    fn failure_of(&self, id: HostId) -> Failure {
        let host = &self.hosts[id];
        let name = host.name(&self.cluster);
        let why = host.life().detail().unwrap_or("it was stopped");
        if host.life().state() == HostState::Suspended {
            let message = format!("host '{name}' could not be woken: {why}; `imsup stop {name}` ends it");
            return ErrorKind::WakeFailed.because(message);
        }
        ErrorKind::StartFailed.because(format!(
            "host '{name}' could not be started: {why}; `imsup logs {name}` shows what it printed"
        ))
    }

    /// Sends a client the next message; false if there is none yet.
    pub(super) fn say_next(&mut self, number: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        let Peer::Client(reply) = &mut session.peer else {
            return false;
        };
        let response = match reply {
            Reply::Hosts(_) => return self.say_hosts(number),
            Reply::Listed(responses) => responses.next().unwrap_or(Response::Done),
            Reply::Events { .. } => return self.say_events(number),
            Reply::Unnamed { .. } | Reply::Waiting { left: 1.., .. } | Reply::Down | Reply::Over => return false,
            Reply::Waiting { failures, then, .. } => {
                let (failure, then) = (Failure::joined(failures), std::mem::replace(then, Then::Done));
                failures.clear();
                return self.go_on(number, failure, then);
            }
        };
        self.respond(number, &response)
    }

    /// Keeps the next hosts for a client, to be sent together. False if the client was told of all
    /// hosts.
    fn say_hosts(&mut self, number: SessionId) -> bool {
        for _ in 0..AT_ONCE {
            let session = self.sessions.get_mut(number);
            let Some(Peer::Client(Reply::Hosts(hosts))) = session.map(|session| &mut session.peer) else {
                return false;
            };
            let Some(id) = hosts.pop() else {
                return self.respond(number, &Response::Done);
            };
            if self.hosts.get(id).is_none() {
                continue;
            }
            let response = Response::Host(self.status(id));
            if let Some(session) = self.sessions.get_mut(number)
                && let Err(error) = session.channel.queue(&response, Vec::new())
            {
                tracing::warn!(pid = session.pid, %error, "a host could not be told");
            }
        }
        true
    }

    /// Queues the next events for a client, to be sent together; false if there are none yet.
    fn say_events(&mut self, number: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        let Peer::Client(Reply::Events { from, follow, hosts }) = &mut session.peer else {
            return false;
        };
        let (begin, follow) = (*from, *follow);
        for _ in 0..AT_ONCE {
            let Some((at, event)) = self.journal.next(*from) else {
                break;
            };
            *from = at + 1;
            if !hosts.is_empty() && !hosts.contains(&event.host) {
                continue;
            }
            if let Err(error) = session.channel.queue(&Response::Event(event.clone()), Vec::new()) {
                tracing::warn!(pid = session.pid, %error, "an event could not be told");
            }
        }
        match (begin == *from, follow) {
            (false, _) => true,
            (true, true) => false,
            (true, false) => self.respond(number, &Response::Done),
        }
    }

    /// All hosts that a client waits for are done. False if there is no reply yet.
    fn go_on(&mut self, number: SessionId, failure: Option<Failure>, then: Then) -> bool {
        match (then, failure) {
            (Then::Wake(hosts, by), _) => {
                self.await_hosts(number, hosts.len(), Then::Done);
                self.wake(number, &hosts, CauseKind::Wake, &by);
                true
            }
            (_, Some(failure)) => self.respond(number, &Response::Error(failure)),
            (Then::Apply(plan), None) => {
                self.apply(number, *plan);
                false
            }
            (Then::Say(responses), None) => {
                self.set_reply(number, Reply::Listed(responses.into_iter()));
                true
            }
            (Then::Usage(hosts), None) => {
                let responses = self.usage_of(&hosts);
                self.set_reply(number, Reply::Listed(responses.into_iter()));
                true
            }
            (Then::Done, None) => self.respond(number, &Response::Done),
        }
    }

    pub(super) fn respond(&mut self, number: SessionId, response: &Response) -> bool {
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        if matches!(response, Response::Done | Response::Error(_)) {
            session.peer = Peer::Client(Reply::Over);
        }
        let sent = session.send(response, Vec::new()) == Sent::Yes;
        if !sent {
            self.hang_up(number);
        }
        sent
    }

    pub(super) fn set_reply(&mut self, number: SessionId, reply: Reply) {
        if let Some(session) = self.sessions.get_mut(number) {
            session.peer = Peer::Client(reply);
        }
    }

    /// Sends new events to clients that follow.
    pub(super) fn stream_events(&mut self) {
        let end = self.journal.end();
        let behind: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| matches!(session.peer, Peer::Client(Reply::Events { from, .. }) if from < end))
            .map(|(number, _)| number)
            .collect();
        for number in behind {
            self.pump(number);
        }
    }

    fn self_description(&self) -> Response {
        Response::Broker {
            project: self.cluster.project.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hosts: self.hosts.len() as u64,
            name_server: std::net::SocketAddrV4::new(
                self.planes.broker_address(self.claim.first),
                crate::address_block::NAME_PORT,
            ),
            socket_limit: self.limits.sockets,
        }
    }

    fn status(&self, id: HostId) -> HostStatus {
        let host = &self.hosts[id];
        let (instance, (boots, wakes)) = (host.instance(), host.counts());
        let retained = self.sockets.of(id);
        let mut ports: Vec<_> = retained
            .filter(|kept| kept.is_open() && !kept.is_tentative())
            .map(|kept| kept.endpoint())
            .collect();
        ports.extend(instance.into_iter().flat_map(|instance| instance.unretained()));
        ports.sort_unstable();
        ports.dedup();
        HostStatus {
            name: host.name(&self.cluster).clone(),
            address: self.planes.vip(host.index()),
            state: match host.life().state() {
                HostState::Imaginary if self.order.has_completed(id) => HostState::Completed,
                state => state,
            },
            pid: instance.and_then(Instance::program),
            ports,
            published: host.published().to_vec(),
            boots: u64::from(boots),
            wakes: u64::from(wakes),
            next_deadline_us: instance
                .and_then(|instance| instance.sleep().deadline_us())
                .map(|at_us| self.clock.wall_us(at_us)),
            since_us: self.clock.wall_us(host.since_us()),
            detail: self.absent_detail(id).or_else(|| self.unmet(id)),
            command: host.command(&self.cluster),
            declared: self.is_declared(id),
            health: self.checks.verdict(id),
        }
    }
}
