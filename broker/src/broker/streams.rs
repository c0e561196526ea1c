//! Messages over the broker's socket, in both directions.

use std::time::Duration;

use imsup_protocol::channel::ChannelError;
use imsup_protocol::control::Opening;
use imsup_protocol::{ToBroker, ToSupervisor};

use super::Broker;
use super::keeper::Deferred;
use super::timers::Timer;
use crate::hosts::Host;
use crate::ids::{HostId, SessionId};
use crate::sessions::{Part, Peer, Reply, Sent};
use imsup_lifecycle::Input;

/// How soon a connection is tried again for which there was no descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

impl Broker {
    /// Accepts new connections.
    pub(super) fn accept(&mut self) {
        for number in self.sessions.accept(&self.registry) {
            self.converse(number);
        }
        if self.sessions.is_short() && !self.timers.has(Timer::Accept) {
            self.timers.after(ACCEPT_AGAIN, Timer::Accept);
        }
    }

    /// Reads received messages, and sends messages that had no room before.
    pub(super) fn converse(&mut self, number: SessionId) {
        loop {
            let Some(session) = self.sessions.get_mut(number) else {
                return;
            };
            let heard = match &session.peer {
                Peer::Unknown => session
                    .channel
                    .receive::<Opening>()
                    .map(|opening| opening.map(Heard::Opening)),
                Peer::Supervisor { .. } => session
                    .channel
                    .receive::<ToBroker>()
                    .map(|message| message.map(Heard::Message)),
                // A client sends only a single request; a second message, or the end, means that
                // the client is gone.
                Peer::Client(_) => session
                    .channel
                    .receive::<Opening>()
                    .map(|more| more.map(|_| Heard::Excess)),
            };
            match heard {
                Ok(Some(Heard::Opening(opening))) => self.opened(number, opening),
                Ok(Some(Heard::Message(message))) => self.hear(number, message),
                Ok(Some(Heard::Excess)) => self.hang_up(number),
                Ok(None) => break,
                Err(ChannelError::Closed) => return self.hang_up(number),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the broker is closed");
                    return self.hang_up(number);
                }
            }
        }
        self.pump(number);
    }

    fn opened(&mut self, number: SessionId, opening: Opening) {
        match opening {
            Opening::Supervisor(message) => self.hear(number, message),
            Opening::Control(request) => self.asked(number, request),
        }
    }

    /// A supervisor's message.
    pub(super) fn hear(&mut self, number: SessionId, message: ToBroker) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        match (&session.peer, message) {
            (
                Peer::Unknown,
                ToBroker::Hello {
                    host,
                    role,
                    command,
                    adoption,
                },
            ) => self.hello(number, host, role, command, adoption),
            (Peer::Supervisor { host, part }, message) => {
                let (host, part) = (*host, *part);
                self.hear_known(number, host, part, message);
            }
            (_, message) => {
                tracing::warn!(
                    pid = session.pid,
                    ?message,
                    "a supervisor that has not said who it is is cut off"
                );
                self.hang_up(number);
            }
        }
    }

    fn hear_known(&mut self, number: SessionId, id: HostId, part: Part, message: ToBroker) {
        let program = part == Part::Program;
        if program && may_record(&message) {
            // The sender that woke the host will not be named any more, and the following events
            // have happened later.
            self.record_wake(id);
        }
        match message {
            ToBroker::Hello { .. } => {
                tracing::warn!("a supervisor introduced itself twice and is cut off");
                self.hang_up(number);
            }
            ToBroker::Started { pid } if program => {
                if let Some(instance) = self.hosts[id].instance_mut() {
                    instance.start_program(pid);
                    self.launcher.note_program(instance.id(), pid);
                }
                self.feed(id, Input::Executed);
            }
            ToBroker::Listening { endpoint } => {
                let Some(session) = self.sessions.get_mut(number) else {
                    return;
                };
                match session.channel.take_fds(1) {
                    Ok(mut fds) => {
                        if let Some(socket) = fds.pop().filter(|_| program) {
                            self.listens(id, endpoint, socket);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a supervisor announced a socket and did not send it");
                        self.hang_up(number);
                    }
                }
            }
            ToBroker::Settled if program => self.feed(id, Input::Settled),
            ToBroker::Exited { status, usage } if program => {
                self.account(id).used(usage);
                if let Some(instance) = self.hosts[id].instance_mut() {
                    instance.exit(status);
                }
            }
            ToBroker::Suspended { .. }
            | ToBroker::Woke { .. }
            | ToBroker::WokenBy { .. }
            | ToBroker::Ticked { .. }
            | ToBroker::Reclaimed { .. }
            | ToBroker::Disposable { .. }
            | ToBroker::Terminating { .. } => {
                if program {
                    self.hear_of_sleep(id, message);
                }
            }
            ToBroker::OtherFamily { endpoint } => {
                if program {
                    self.other_family(id, endpoint);
                }
            }
            ToBroker::Answer { id: question, report } => self.answered(number, question, report),
            ToBroker::Started { .. } | ToBroker::Settled | ToBroker::Exited { .. } => {}
            ToBroker::Reach {
                id: question,
                endpoint,
                can_wait,
            } => self.reach(number, id, question, endpoint, can_wait),
            ToBroker::CancelReach { id: question } => self.cancel_reach(number, question),
            ToBroker::Closed {
                id: question,
                endpoint,
                inode,
            } => {
                if program {
                    self.closed(id, endpoint, inode);
                }
                self.after_forgotten(Deferred::Closed {
                    session: number,
                    host: id,
                    question,
                });
            }
            ToBroker::Claim { id: question, endpoint } => self.after_forgotten(Deferred::Claim {
                session: number,
                host: id,
                question,
                endpoint,
            }),
            ToBroker::ResolverSockets => self.ask_resolver_sockets(number),
            ToBroker::Binds { uid } => self.binds_as(uid),
            ToBroker::Trusts { uid, endpoint } => self.ask_for_trust(number, uid, endpoint),
            ToBroker::Acknowledge => self.tell(number, &ToSupervisor::Acknowledged, Vec::new()),
            ToBroker::OutOfMemory { killed, limit_bytes } => {
                if program {
                    self.out_of_memory(id, killed, limit_bytes);
                }
            }
            ToBroker::NotifyListener => self.keep_notify_listener(number, id, part),
        }
    }

    fn listens(&mut self, id: HostId, endpoint: imsup_wire::Endpoint, socket: std::os::fd::OwnedFd) {
        if self.adopt(id, endpoint, socket) {
            let counts = self.makes_ready(id, endpoint);
            self.feed(id, Input::Listening { endpoint, counts });
        }
    }

    /// Sends a supervisor a message. If the supervisor is gone, the connection is not closed here:
    /// the last messages (how the program ended, sockets that are handed over) may be unread.
    /// Reading finds the end of the connection anyway.
    pub(super) fn tell(&mut self, number: SessionId, message: &ToSupervisor, fds: Vec<std::os::fd::OwnedFd>) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        if session.send(message, fds) == Sent::CutOff {
            self.hang_up(number);
        }
    }

    /// Closes a connection, and draws the consequences.
    pub(super) fn hang_up(&mut self, number: SessionId) {
        let Some(session) = self.sessions.remove(number, &self.registry) else {
            return;
        };
        self.forget_waits(number);
        match session.peer {
            Peer::Supervisor {
                host,
                part: Part::Program,
            } if self.hosts.get(host).and_then(Host::session) == Some(number) => self.program_hung_up(host),
            Peer::Supervisor {
                host,
                part: Part::Command,
            } => {
                self.orphan_command(session.pid, session.notify_listener);
                self.command_ended(host);
            }
            _ => {}
        }
    }

    /// The other end is gone and waits for no answer any more.
    pub(super) fn forget_waits(&mut self, number: SessionId) {
        self.forget_requests(number);
        self.forget_resolver_asks(number);
        self.forget_trust_questions(number);
        for (waiter, host) in self.lives.cancel_all(number) {
            self.feed(host, Input::Cancel(waiter));
        }
    }

    /// Sends a client its pending replies, as far as the client reads.
    pub(super) fn pump(&mut self, number: SessionId) {
        loop {
            let Some(session) = self.sessions.get_mut(number) else {
                return;
            };
            if session.channel.wants_write() {
                match (session.channel.flush(), &session.peer) {
                    (Ok(()), _) => {}
                    // The supervisor's last messages may be unread: see `tell`.
                    (Err(ChannelError::Closed), Peer::Supervisor { .. }) => return,
                    (Err(_), _) => return self.hang_up(number),
                }
            }
            if session.channel.wants_write() {
                return;
            }
            match &session.peer {
                Peer::Client(Reply::Over) => return self.hang_up(number),
                Peer::Client(_) => {
                    if !self.say_next(number) {
                        return;
                    }
                }
                Peer::Unknown | Peer::Supervisor { .. } => return,
            }
        }
    }
}

enum Heard {
    Opening(Opening),
    Message(ToBroker),
    Excess,
}

/// Whether a message of a program's supervisor may be the reason of an event. A wake that is not
/// recorded yet is recorded before, by whatever name. Other messages may come between a wake and the
/// name of the sender: a host that has settled meanwhile, or that asks something.
fn may_record(message: &ToBroker) -> bool {
    match message {
        ToBroker::WokenBy { .. }
        | ToBroker::Settled
        | ToBroker::CancelReach { .. }
        | ToBroker::Disposable { .. }
        | ToBroker::Closed { .. }
        | ToBroker::OtherFamily { .. }
        | ToBroker::ResolverSockets
        | ToBroker::Binds { .. }
        | ToBroker::Trusts { .. }
        | ToBroker::Acknowledge
        | ToBroker::NotifyListener => false,
        ToBroker::Hello { .. }
        | ToBroker::Started { .. }
        | ToBroker::Listening { .. }
        | ToBroker::Reach { .. }
        | ToBroker::Claim { .. }
        | ToBroker::Suspended { .. }
        | ToBroker::Woke { .. }
        | ToBroker::Ticked { .. }
        | ToBroker::Reclaimed { .. }
        | ToBroker::Terminating { .. }
        | ToBroker::Answer { .. }
        | ToBroker::Exited { .. }
        | ToBroker::OutOfMemory { .. } => true,
    }
}
