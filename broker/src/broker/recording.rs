//! What happens to hosts, with what the broker knows of it besides: recorded by the
//! [`crate::journal`].

use std::time::Duration;

use imsup_wire::{Cause, Endpoint, EventKind, HostName, Transport};

use super::Broker;
use super::timers::Timer;
use crate::accounts::Account;
use crate::history::Entry;
use crate::ids::HostId;
use crate::journal::Happening;
use crate::peer_lookup::{Answers, Found, Question};
use crate::peers;
use crate::sessions::{Peer, Reply};

/// How long a question may take on a busy machine: the thread that asks has the lowest priority
/// ([`crate::peer_lookup`]).
const NAMING_TIMEOUT: Duration = Duration::from_secs(1);

impl Broker {
    /// Records that something happened to a host.
    pub(super) fn record(&mut self, id: HostId, happening: Happening) {
        let opened_us = self.opened_us(id);
        let host = &mut self.hosts[id];
        if happening.kind == EventKind::Boot {
            host.count_boot();
        }
        let question = happening.question;
        let event = happening.of(host.name(&self.cluster).clone());
        let at_us = self.clock.of_wall(event.time_us);
        let entry = Entry { event, at_us };
        self.journal
            .record(id, opened_us, entry, question, |name| self.hosts.named(name).is_some());
    }

    /// What a host's life says that happened, with its cause and its usage.
    pub(super) fn of_life(&self, id: HostId, happening: Happening) -> Happening {
        let host = &self.hosts[id];
        let is_caused = is_caused(happening.kind);
        let is_end = matches!(happening.kind, EventKind::Exit | EventKind::Fail);
        Happening {
            cause: match is_end {
                true => host.life().end_cause(),
                false => host.life().cause().filter(|_| is_caused).cloned(),
            },
            usage: self.journal.usage(id).filter(|_| is_end),
            question: host.question().filter(|_| is_caused),
            ..happening
        }
    }

    /// The account of a host.
    pub(super) fn account(&mut self, id: HostId) -> &mut Account {
        let opened_us = self.opened_us(id);
        self.journal.account(id, opened_us)
    }

    /// Since when a host is accounted for, by the project's clock.
    fn opened_us(&self, id: HostId) -> u64 {
        let host = &self.hosts[id];
        match host.is_declared() {
            true => self.clock.up_us(),
            false => host.since_us(),
        }
    }

    /// Asks who has come to an endpoint; `None` if nobody answers that.
    pub(super) fn ask_sender(&mut self, endpoint: Endpoint) -> Option<Question> {
        let question = self.journal.ask_sender(endpoint)?;
        self.timers.after(NAMING_TIMEOUT, Timer::Unnamed(question.0));
        Some(question)
    }

    /// Finds the sender of the signal that booted a host.
    pub(super) fn name_sender(&mut self, id: HostId) {
        let Some(socket) = self.hosts[id].take_signal() else {
            return;
        };
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        let endpoint = retained.endpoint();
        match endpoint.transport {
            Transport::Udp => {
                if let Some(by) = peers::sender(retained.socket()).map(|sender| self.caller(sender)) {
                    self.hosts[id].life_mut().name_caller(by);
                }
            }
            Transport::Tcp => {
                let question = self.ask_sender(endpoint);
                self.hosts[id].await_sender(question);
            }
        }
    }

    /// What the threads that ask the kernel for peers have found.
    pub(super) fn hear_of_peers(&mut self, found: Found) {
        match found {
            Found::Peers(answers) => self.name_peers(answers),
            Found::Queue {
                listener,
                length,
                peers,
            } => self.queue_seen(listener, length, &peers),
        }
    }

    fn name_peers(&mut self, answers: Answers) {
        for (question, sender) in answers {
            let by = sender.map(|sender| self.caller(sender));
            for id in self.journal.name(question, by.as_deref()) {
                // Later events of the host carry the cause as well, unless another signal has come
                // since.
                if let Some(host) = self.hosts.get_mut(id) {
                    host.name_sender(question, by.as_deref());
                }
            }
        }
        self.journal.tell(|name| self.hosts.named(name).is_some());
        self.go_on_with_events();
    }

    /// Tells all that has happened, after the loop: what is still asked is found out here and now.
    pub(super) fn tell_all_events(&mut self) {
        let answers = self.journal.find_out();
        if !answers.is_empty() {
            self.name_peers(answers);
        }
    }

    /// This question has timed out.
    pub(super) fn name_at_last(&mut self, question: u64) {
        if self.journal.awaits(Question(question)) {
            self.name_promptly();
        }
    }

    /// Has what is still asked answered before everything that only stands back.
    fn name_promptly(&mut self) {
        let answers = self.journal.ask_promptly();
        if !answers.is_empty() {
            self.name_peers(answers);
        }
    }

    /// What a client is told that asks for events: all that has happened until now comes first, so
    /// it waits until that has names.
    pub(super) fn events_for(&mut self, follow: bool, hosts: Vec<HostName>) -> Reply {
        if self.journal.last_asked().is_some() {
            self.name_promptly();
        }
        match self.journal.last_asked() {
            Some(last) => Reply::Unnamed { last, follow, hosts },
            None => Reply::Events { from: 0, follow, hosts },
        }
    }

    /// Tells clients events that waited for names.
    fn go_on_with_events(&mut self) {
        let waiting = self.sessions.iter();
        let waiting = waiting.filter_map(|(number, session)| match &session.peer {
            Peer::Client(Reply::Unnamed { last, follow, hosts }) if self.journal.is_named_until(*last) => {
                Some((number, *follow, hosts.clone()))
            }
            _ => None,
        });
        for (number, follow, hosts) in waiting.collect::<Vec<_>>() {
            self.set_reply(number, Reply::Events { from: 0, follow, hosts });
            self.pump(number);
        }
    }
}

/// True for events that carry the signal behind the boot.
pub(super) fn is_caused(kind: EventKind) -> bool {
    matches!(kind, EventKind::Allocate | EventKind::Boot | EventKind::Ready)
}

/// A cause with no port.
pub(super) fn cause_of(kind: imsup_wire::CauseKind, by: Option<String>) -> Cause {
    Cause { kind, by, port: None }
}
