//! What the command line asks.

use imsup_wire::codec::VERSION;
use imsup_wire::{Cause, CauseKind, HostName, HostState, HostStatus, Request, Response};

use super::{Broker, Target};
use crate::hosts::HostId;
use crate::registry::{Answer, Input, Want};
use crate::sessions::{Peer, Reply, describe};

impl Broker {
    /// A client's request.
    pub(super) fn asked(&mut self, number: usize, version: u16, request: Request) {
        tracing::debug!(request = describe(&request), "asked");
        if let Some(session) = self.sessions.get_mut(number) {
            session.peer = Peer::Client(Reply::Listed(Vec::new().into_iter()));
        }
        if version != VERSION {
            let message = format!(
                "the broker of project '{}' speaks version {VERSION} and this imsup version {version}: \
                 use the imsup that started it, or end its process {} and run `imsup up` again",
                self.cluster.project,
                std::process::id()
            );
            return self.refuse(number, message);
        }
        match self.begin(number, request) {
            Ok(Some(reply)) => self.set_reply(number, reply),
            Ok(None) => {}
            Err(message) => self.refuse(number, message),
        }
    }

    fn begin(&mut self, number: usize, request: Request) -> Result<Option<Reply>, String> {
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
                        Err(error) => imsup_wire::host::BadHostName::to_string(&error),
                    });
                }
                let response = |address| Response::Name {
                    name: name.clone(),
                    address,
                };
                Reply::Listed(addresses.into_iter().map(response).collect::<Vec<_>>().into_iter())
            }
            Request::Events { follow, hosts } => Reply::Events { from: 0, follow, hosts },
            Request::Wake { hosts, by, exec } => {
                let kind = if exec { CauseKind::Exec } else { CauseKind::Wake };
                let hosts = self.select(&hosts)?;
                self.set_reply(
                    number,
                    Reply::Waiting {
                        left: hosts.len(),
                        failures: Vec::new(),
                        then_wake: None,
                    },
                );
                self.wake(number, &hosts, kind, &by);
                return Ok(None);
            }
            Request::Stop { hosts } => {
                let hosts = self.select(&hosts)?;
                self.end_programs(number, &hosts, None);
                return Ok(None);
            }
            Request::Restart { hosts, by } => {
                let all = hosts.is_empty();
                let runs = |id: &HostId| !all || !self.hosts[*id].life.absent();
                let hosts: Vec<HostId> = self.select(&hosts)?.into_iter().filter(runs).collect();
                self.end_programs(number, &hosts, Some(by));
                return Ok(None);
            }
            Request::Suspend { .. }
            | Request::Resume { .. }
            | Request::KeepAwake { .. }
            | Request::Why { .. }
            | Request::Usage { .. } => return Err("this is not built yet".to_owned()),
            Request::Down => {
                self.set_reply(number, Reply::Down);
                self.go_down();
                return Ok(None);
            }
        }))
    }

    /// The declared hosts of these names; all where there are none. A service's name means all its replicas.
    fn select(&self, names: &[HostName]) -> Result<Vec<HostId>, String> {
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
        selected.dedup();
        Ok(selected)
    }

    fn wake(&mut self, number: usize, hosts: &[HostId], kind: CauseKind, by: &str) {
        for id in hosts {
            let cause = Cause {
                kind,
                by: Some(by.to_owned()),
                port: None,
            };
            let waiter = self.new_waiter(Target::Client {
                session: number,
                host: *id,
            });
            let want = Want::Ready;
            self.feed(*id, Input::Wait { waiter, want, cause });
        }
    }

    fn end_programs(&mut self, number: usize, hosts: &[HostId], wake_by: Option<String>) {
        self.set_reply(
            number,
            Reply::Waiting {
                left: hosts.len(),
                failures: Vec::new(),
                then_wake: wake_by.map(|by| (hosts.to_vec(), by)),
            },
        );
        for id in hosts {
            self.feed(*id, Input::Stop);
            let waiter = self.new_waiter(Target::Client {
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

    /// One of the hosts a client waits for is done.
    pub(super) fn answer_client(&mut self, number: usize, id: HostId, answer: Answer) {
        let failure = match answer {
            Answer::Ready | Answer::Ended | Answer::Connect => None,
            Answer::Failed | Answer::Refused => Some(self.failure_of(id)),
            Answer::TimedOut => Some(format!(
                "host '{}' was not ready within its hold_timeout; it goes on starting",
                self.hosts[id].name(&self.cluster)
            )),
        };
        if let Some(session) = self.sessions.get_mut(number)
            && let Peer::Client(Reply::Waiting { left, failures, .. }) = &mut session.peer
        {
            *left -= 1;
            failures.extend(failure);
        }
        self.pump(number);
    }

    fn failure_of(&self, id: HostId) -> String {
        let host = &self.hosts[id];
        let name = host.name(&self.cluster);
        let why = host.life.detail().unwrap_or("it was stopped");
        format!("host '{name}' could not be started: {why}; `imsup logs {name}` shows what it printed")
    }

    /// Sends a client the next thing it is to be told; false where there is none yet.
    pub(super) fn say_next(&mut self, number: usize) -> bool {
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        let Peer::Client(reply) = &mut session.peer else {
            return false;
        };
        let mut wake = None;
        let response = match reply {
            Reply::Hosts(hosts) => match hosts.pop() {
                Some(id) if self.hosts.get(id).is_some() => Response::Host(self.status(id)),
                Some(_) => return true,
                None => Response::Done,
            },
            Reply::Listed(responses) => responses.next().unwrap_or(Response::Done),
            Reply::Events { from, follow, hosts } => match self.history.next(*from) {
                Some((at, event)) => {
                    *from = at + 1;
                    if !hosts.is_empty() && !hosts.contains(&event.host) {
                        return true;
                    }
                    Response::Event(event.clone())
                }
                None if *follow => return false,
                None => Response::Done,
            },
            Reply::Waiting { left: 1.., .. } | Reply::Down | Reply::Over => return false,
            Reply::Waiting {
                left,
                failures,
                then_wake,
            } => match then_wake.take() {
                Some((hosts, by)) => {
                    *left = hosts.len();
                    wake = Some((hosts, by));
                    Response::Done
                }
                None if failures.is_empty() => Response::Done,
                None => Response::Error {
                    message: failures.join("\n"),
                },
            },
        };
        if let Some((hosts, by)) = wake {
            self.wake(number, &hosts, CauseKind::Wake, &by);
            return true;
        }
        self.respond(number, &response)
    }

    fn respond(&mut self, number: usize, response: &Response) -> bool {
        let Some(session) = self.sessions.get_mut(number) else {
            return false;
        };
        if matches!(response, Response::Done | Response::Error { .. }) {
            session.peer = Peer::Client(Reply::Over);
        }
        let sent = session.send(response, Vec::new());
        if !sent {
            self.hang_up(number);
        }
        sent
    }

    fn set_reply(&mut self, number: usize, reply: Reply) {
        if let Some(session) = self.sessions.get_mut(number) {
            session.peer = Peer::Client(reply);
        }
    }

    fn refuse(&mut self, number: usize, message: String) {
        self.respond(number, &Response::Error { message });
    }

    /// Tells clients that follow what has happened since.
    pub(super) fn stream_events(&mut self) {
        let end = self.history.end();
        let behind: Vec<usize> = self
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
                crate::block::NAME_PORT,
            ),
            socket_limit: self.limits.sockets,
        }
    }

    fn status(&self, id: HostId) -> HostStatus {
        let host = &self.hosts[id];
        let instance = host.instance.as_deref();
        let retained = host.sockets.iter().filter_map(|socket| self.sockets.get(*socket));
        let mut ports: Vec<_> = retained
            .filter(|kept| kept.open && !kept.tentative)
            .map(|kept| kept.endpoint)
            .collect();
        ports.extend(instance.into_iter().flat_map(|instance| &instance.listening));
        ports.sort_unstable();
        ports.dedup();
        HostStatus {
            name: host.name(&self.cluster).clone(),
            address: self.planes.vip(host.index),
            state: host.life.state(),
            pid: instance.and_then(|instance| instance.program),
            ports,
            published: host.published.clone(),
            boots: u64::from(host.boots),
            wakes: 0,
            next_deadline_us: None,
            since_us: host.since_us,
            detail: host
                .life
                .detail()
                .filter(|_| matches!(host.life.state(), HostState::Imaginary | HostState::Failed))
                .map(str::to_owned),
            command: host.command(&self.cluster).to_vec(),
            declared: self.is_declared(id),
        }
    }
}
