//! Supervised clients that found no listener.

use std::io::ErrorKind;
use std::time::Instant;

use imsup_lifecycle::{Answer, Input, Port, Want};
use imsup_protocol::{Outcome, ToSupervisor};
use imsup_wire::address::Plane;
use imsup_wire::{Cause, CauseKind, Endpoint, Transport};

use super::Broker;
use super::lives::Target;
use crate::ids::{HostId, SessionId};
use crate::sockets::Sharing;

/// What a supervisor asks for its program.
#[derive(Clone, Copy, Debug)]
struct Question {
    /// Of which of the called host's addresses the endpoint is.
    plane: Plane,
    transport: Transport,
    /// The caller is of the called host.
    is_own: bool,
    /// The caller can be kept waiting.
    can_wait: bool,
}

/// What the broker knows of the host that is called. Each is looked up only if the decision needs
/// it.
trait Called {
    /// Something that connects (or sends) to the endpoint now is taken.
    fn is_open(&self) -> bool;
    /// The program listened there, and has closed what it listened on.
    fn is_closed(&self) -> bool;
    /// The host is started and not ready.
    fn is_booting(&self) -> bool;
    /// The program runs, and does not listen there.
    fn refuses(&self) -> bool;
    /// The caller and the host are of one stop group.
    fn is_companion(&self) -> bool;
    /// One more may wait.
    fn has_room(&self) -> bool;
}

/// What is done with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// The answer is known.
    Answer(Outcome),
    /// A tentative socket is made, in which the caller's connection or datagram waits;
    /// [`after_make`] says how it goes on.
    Make,
    /// The caller waits until the program listens.
    Wait,
}

fn decide(question: Question, called: &impl Called) -> Plan {
    let is_vip = question.plane == Plane::Vip;
    if !is_vip && !question.is_own {
        return Plan::Answer(Outcome::Refused);
    }
    if called.is_open() {
        return Plan::Answer(Outcome::Connect);
    }
    // An own localhost is never a reason to boot: the caller runs already, or is a command beside
    // the program.
    if called.is_closed() || (!is_vip && !called.is_booting()) || called.refuses() || called.is_companion() {
        return Plan::Answer(Outcome::Refused);
    }
    if !called.has_room() {
        return Plan::Answer(Outcome::Busy);
    }
    match (is_vip, question.can_wait) {
        // Only the host itself reaches an own localhost, and there are no tentative listeners
        // there, since these would hide listeners at the wildcard address.
        (false, false) => Plan::Answer(Outcome::Refused),
        (false, true) => Plan::Wait,
        (true, true) if question.transport == Transport::Tcp => Plan::Wait,
        (true, _) => Plan::Make,
    }
}

/// What is done once a tentative socket was made for a question, or could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// The host is told of the connection that follows, and the caller connects.
    Signal,
    /// The caller sends: the datagram itself is the signal. Resolvers connect a UDP socket to every
    /// address of a name, to see how it is reached (getaddrinfo(3) sorts them by RFC 6724), and
    /// send nothing.
    Watch,
    /// The caller sends to the program's own socket, on a port that the kernel chose, which is not
    /// retained.
    Connect,
    /// The caller waits, also if it would rather not: the program has bound the port and does not
    /// listen yet.
    Wait,
    /// The host is told, and the caller refused: it would wait for as long as a boot takes, and its
    /// event loop with it.
    SignalAndRefuse,
}

fn after_make(question: Question, made: Result<(), ErrorKind>) -> Made {
    match (made, question.transport) {
        (Ok(()), Transport::Tcp) => Made::Signal,
        (Ok(()), Transport::Udp) => Made::Watch,
        (Err(ErrorKind::AddrInUse), Transport::Udp) => Made::Connect,
        (Err(ErrorKind::AddrInUse), Transport::Tcp) => Made::Wait,
        (Err(_), _) if !question.can_wait => Made::SignalAndRefuse,
        (Err(_), _) => Made::Wait,
    }
}

/// The called host as the broker knows it.
struct Known<'a> {
    broker: &'a Broker,
    id: HostId,
    caller: HostId,
    endpoint: Endpoint,
}

impl Called for Known<'_> {
    fn is_open(&self) -> bool {
        self.broker.is_open(self.id, self.endpoint)
    }

    fn is_closed(&self) -> bool {
        self.broker.is_closed(self.id, self.endpoint)
    }

    fn is_booting(&self) -> bool {
        self.broker.is_booting(self.id)
    }

    fn refuses(&self) -> bool {
        let host = &self.broker.hosts[self.id];
        host.life().refuses(self.endpoint, Instant::now()) && host.instance().is_some()
    }

    fn is_companion(&self) -> bool {
        self.broker.stop_groups.are_companions(self.caller, self.id)
    }

    fn has_room(&self) -> bool {
        self.broker.lives.has_room()
    }
}

impl Broker {
    /// Host `caller` wants to reach an endpoint.
    pub(super) fn reach(
        &mut self,
        session: SessionId,
        caller: HostId,
        question: u64,
        endpoint: Endpoint,
        can_wait: bool,
    ) {
        if let Some(outcome) = self.begin_reach(session, caller, question, endpoint, can_wait) {
            let answer = ToSupervisor::Reached { id: question, outcome };
            self.tell(session, &answer, Vec::new());
        }
    }

    /// The outcome, or `None` if the caller waits.
    fn begin_reach(
        &mut self,
        session: SessionId,
        caller: HostId,
        number: u64,
        endpoint: Endpoint,
        can_wait: bool,
    ) -> Option<Outcome> {
        let place = self.planes.place(*endpoint.address.ip());
        let called = place.and_then(|place| Some((place.plane, self.hosts.at(place.index)?)));
        let Some((plane, id)) = called else {
            return Some(Outcome::Unknown);
        };
        let question = Question {
            plane,
            transport: endpoint.transport,
            is_own: id == caller,
            can_wait,
        };
        let known = Known {
            broker: self,
            id,
            caller,
            endpoint,
        };
        let made = match decide(question, &known) {
            Plan::Answer(outcome) => return Some(outcome),
            Plan::Make => self.make_tentative(id, question, endpoint),
            Plan::Wait => Made::Wait,
        };
        match made {
            Made::Connect => Some(Outcome::Connect),
            Made::Watch => {
                self.watch(id);
                Some(Outcome::Connect)
            }
            Made::Signal => {
                let cause = self.cause_of_reach(caller, endpoint);
                let queued = Some(Port {
                    endpoint,
                    declared: false,
                    length: None,
                });
                self.feed(id, Input::Signal { cause, queued });
                Some(Outcome::Connect)
            }
            Made::SignalAndRefuse => {
                let cause = self.cause_of_reach(caller, endpoint);
                self.feed(id, Input::Signal { cause, queued: None });
                Some(Outcome::Refused)
            }
            Made::Wait => {
                let cause = self.cause_of_reach(caller, endpoint);
                let waiter = self.lives.new_waiter(Target::Reach {
                    session,
                    id: number,
                    host: id,
                });
                let want = Want::Port(endpoint);
                self.feed(id, Input::Wait { waiter, want, cause });
                None
            }
        }
    }

    fn cause_of_reach(&self, caller: HostId, endpoint: Endpoint) -> Cause {
        Cause {
            kind: match endpoint.transport {
                Transport::Udp => CauseKind::Datagram,
                Transport::Tcp => CauseKind::Connect,
            },
            by: Some(self.name_of(caller).to_string()),
            port: Some(endpoint.address.port()),
        }
    }

    fn make_tentative(&mut self, id: HostId, question: Question, endpoint: Endpoint) -> Made {
        let sharing = match self.hosts[id].life().absent() {
            true => Sharing::WithTheDead,
            false => Sharing::Exclusive,
        };
        let made = self.make(id, endpoint, true, sharing);
        let next = after_make(question, made.as_ref().map(drop).map_err(std::io::Error::kind));
        if let (Err(error), Made::SignalAndRefuse) = (&made, next) {
            tracing::warn!(%endpoint, %error, "a caller that cannot wait is refused");
        }
        next
    }

    /// The caller of a question is gone.
    pub(super) fn cancel_reach(&mut self, session: SessionId, question: u64) {
        if let Some((waiter, host)) = self.lives.cancel(session, question) {
            self.feed(host, Input::Cancel(waiter));
        }
    }

    pub(super) fn answer_reach(&mut self, session: SessionId, question: u64, answer: Answer) {
        let outcome = match answer {
            Answer::Connect | Answer::Ready => Outcome::Connect,
            Answer::Refused | Answer::Failed | Answer::Ended => Outcome::Refused,
            Answer::TimedOut => Outcome::TimedOut,
        };
        let answer = ToSupervisor::Reached { id: question, outcome };
        self.tell(session, &answer, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An absent host, of which each fact may be set.
    #[derive(Clone, Copy, Default)]
    struct Facts {
        open: bool,
        closed: bool,
        booting: bool,
        refuses: bool,
        companion: bool,
        full: bool,
    }

    impl Called for Facts {
        fn is_open(&self) -> bool {
            self.open
        }
        fn is_closed(&self) -> bool {
            self.closed
        }
        fn is_booting(&self) -> bool {
            self.booting
        }
        fn refuses(&self) -> bool {
            self.refuses
        }
        fn is_companion(&self) -> bool {
            self.companion
        }
        fn has_room(&self) -> bool {
            !self.full
        }
    }

    const TCP: Question = Question {
        plane: Plane::Vip,
        transport: Transport::Tcp,
        is_own: false,
        can_wait: true,
    };
    const OWN_LOCALHOST: Question = Question {
        plane: Plane::Localhost,
        is_own: true,
        ..TCP
    };

    fn plan(question: Question, set: impl FnOnce(&mut Facts)) -> Plan {
        let mut facts = Facts::default();
        set(&mut facts);
        decide(question, &facts)
    }

    #[test]
    fn a_caller_of_an_absent_host_waits_and_one_that_cannot_gets_a_socket() {
        assert_eq!(plan(TCP, |_| {}), Plan::Wait);
        let impatient = Question { can_wait: false, ..TCP };
        assert_eq!(plan(impatient, |_| {}), Plan::Make);
        for can_wait in [true, false] {
            let datagram = Question {
                transport: Transport::Udp,
                can_wait,
                ..TCP
            };
            assert_eq!(plan(datagram, |_| {}), Plan::Make);
        }
    }

    #[test]
    fn what_is_open_is_connected_to_whatever_else_is_known() {
        let all = |facts: &mut Facts| {
            *facts = Facts {
                open: true,
                closed: true,
                booting: true,
                refuses: true,
                companion: true,
                full: true,
            }
        };
        assert_eq!(plan(TCP, all), Plan::Answer(Outcome::Connect));
    }

    #[test]
    fn a_closed_port_a_program_that_does_not_listen_and_a_companion_refuse() {
        let sets: [fn(&mut Facts); 3] = [
            |facts| facts.closed = true,
            |facts| facts.refuses = true,
            |facts| facts.companion = true,
        ];
        for set in sets {
            assert_eq!(plan(TCP, set), Plan::Answer(Outcome::Refused));
        }
        assert_eq!(plan(TCP, |facts| facts.full = true), Plan::Answer(Outcome::Busy));
    }

    #[test]
    fn a_localhost_is_the_hosts_own_and_boots_nothing() {
        let refused = Plan::Answer(Outcome::Refused);
        let strange = Question {
            is_own: false,
            ..OWN_LOCALHOST
        };
        assert_eq!(plan(strange, |facts| facts.open = true), refused);
        assert_eq!(plan(OWN_LOCALHOST, |_| {}), refused);
        assert_eq!(plan(OWN_LOCALHOST, |facts| facts.booting = true), Plan::Wait);
        let impatient = Question {
            can_wait: false,
            ..OWN_LOCALHOST
        };
        assert_eq!(plan(impatient, |facts| facts.booting = true), refused);
    }

    #[test]
    fn a_socket_that_cannot_be_made_makes_an_impatient_caller_wait_only_for_a_bound_port() {
        let of = |transport, can_wait, made| {
            let question = Question {
                transport,
                can_wait,
                ..TCP
            };
            after_make(question, made)
        };
        let (in_use, no_descriptor) = (Err(ErrorKind::AddrInUse), Err(ErrorKind::Other));
        assert_eq!(of(Transport::Tcp, false, Ok(())), Made::Signal);
        assert_eq!(of(Transport::Udp, true, Ok(())), Made::Watch);
        assert_eq!(of(Transport::Tcp, false, in_use), Made::Wait);
        assert_eq!(of(Transport::Udp, true, in_use), Made::Connect);
        assert_eq!(of(Transport::Udp, true, no_descriptor), Made::Wait);
        assert_eq!(of(Transport::Udp, false, no_descriptor), Made::SignalAndRefuse);
        assert_eq!(of(Transport::Tcp, false, no_descriptor), Made::SignalAndRefuse);
    }
}
