//! Supervised callers that found nobody listening.

use std::io::ErrorKind;
use std::time::Instant;

use imsup_protocol::{Outcome, ToSupervisor};
use imsup_wire::address::Plane;
use imsup_wire::{Cause, CauseKind, Endpoint, Transport};

use super::{Broker, MAX_WAITERS, Target};
use crate::hosts::HostId;
use crate::sockets::Sharing;
use imsup_lifecycle::{Answer, Input, Port, Want};

impl Broker {
    /// Host `caller` wants to reach an endpoint.
    pub(super) fn reach(&mut self, session: usize, caller: HostId, question: u64, endpoint: Endpoint, can_wait: bool) {
        if let Some(outcome) = self.decide_reach(session, caller, question, endpoint, can_wait) {
            let answer = ToSupervisor::Reached { id: question, outcome };
            self.tell(session, &answer, Vec::new());
        }
    }

    /// The outcome, or `None` where the caller waits.
    fn decide_reach(
        &mut self,
        session: usize,
        caller: HostId,
        question: u64,
        endpoint: Endpoint,
        can_wait: bool,
    ) -> Option<Outcome> {
        let Some(place) = self.planes.place(*endpoint.address.ip()) else {
            return Some(Outcome::Unknown);
        };
        let Some(id) = self.hosts.at(place.index) else {
            return Some(Outcome::Unknown);
        };
        let own = id == caller;
        if place.plane != Plane::Vip && !own {
            return Some(Outcome::Refused);
        }
        if self.is_open(id, endpoint) {
            return Some(Outcome::Connect);
        }
        if self.is_closed(id, endpoint) {
            return Some(Outcome::Refused);
        }
        let host = &self.hosts[id];
        // An own localhost is never a reason to boot: whoever asks runs already, or is a command beside the program.
        if (place.plane != Plane::Vip && !self.is_booting(id))
            || (host.life.refuses(endpoint, Instant::now()) && host.instance.is_some())
        {
            return Some(Outcome::Refused);
        }
        if self.were_ended_together(caller, id) {
            return Some(Outcome::Refused);
        }
        if self.waiters.len() >= MAX_WAITERS {
            return Some(Outcome::Busy);
        }
        let datagram = endpoint.transport == Transport::Udp;
        let cause = Cause {
            kind: if datagram {
                CauseKind::Datagram
            } else {
                CauseKind::Connect
            },
            by: Some(self.hosts[caller].name(&self.cluster).to_string()),
            port: Some(endpoint.address.port()),
        };
        // Nobody else can be at an own localhost, and it has no tentative listeners: they would hide those at the wildcard.
        if !can_wait && place.plane != Plane::Vip {
            return Some(Outcome::Refused);
        }
        if (datagram || !can_wait) && place.plane == Plane::Vip {
            let sharing = match self.hosts[id].life.absent() {
                true => Sharing::WithTheDead,
                false => Sharing::Exclusive,
            };
            match self.make(id, endpoint, true, sharing) {
                Ok(_) => {
                    if !datagram {
                        let queued = Some(Port {
                            endpoint,
                            declared: false,
                            length: None,
                        });
                        self.feed(id, Input::Signal { cause, queued });
                    } else {
                        // The datagram itself is the signal. Resolvers connect a UDP socket to every address of a name, to see
                        // how it is reached (getaddrinfo(3) sorts them by RFC 6724), and send nothing.
                        self.watch(id);
                    }
                    return Some(Outcome::Connect);
                }
                // The program has a datagram socket there, on a port that the kernel chose, which nobody retains.
                Err(error) if datagram && error.kind() == ErrorKind::AddrInUse => return Some(Outcome::Connect),
                // The program has bound it and does not listen yet. Then even an impatient caller waits.
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                // It would be held for as long as a boot takes, and its event loop with it.
                Err(error) if !can_wait => {
                    tracing::warn!(%endpoint, %error, "a caller that cannot wait is refused");
                    self.feed(id, Input::Signal { cause, queued: None });
                    return Some(Outcome::Refused);
                }
                Err(_) => {}
            }
        }
        let waiter = self.new_waiter(Target::Reach {
            session,
            id: question,
            host: id,
        });
        let want = Want::Port(endpoint);
        self.feed(id, Input::Wait { waiter, want, cause });
        None
    }

    /// The caller of a question is gone.
    pub(super) fn cancel_reach(&mut self, session: usize, question: u64) {
        let asked = self.waiters.iter().find_map(|(waiter, target)| match target {
            Target::Reach { session: s, id, host } if *s == session && *id == question => Some((*waiter, *host)),
            _ => None,
        });
        if let Some((waiter, host)) = asked {
            self.waiters.remove(&waiter);
            self.feed(host, Input::Cancel(waiter));
        }
    }

    pub(super) fn answer_reach(&mut self, session: usize, question: u64, answer: Answer) {
        let outcome = match answer {
            Answer::Connect | Answer::Ready => Outcome::Connect,
            Answer::Refused | Answer::Failed | Answer::Ended => Outcome::Refused,
            Answer::TimedOut => Outcome::TimedOut,
        };
        let answer = ToSupervisor::Reached { id: question, outcome };
        self.tell(session, &answer, Vec::new());
    }
}
