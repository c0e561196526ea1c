//! Events whose sender is still to be named, and those that happened after them: they are told in their order, once the name is known.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use imsup_wire::{Endpoint, Event, EventKind, Transport};

use super::{Broker, Timer};
use crate::history::Entry;
use crate::hosts::HostId;
use crate::peers;
use crate::senders::Question;

/// How long a question may take where the machine is busy: who asks stands back behind everybody ([`crate::senders`]).
const PATIENCE: Duration = Duration::from_secs(1);

/// Events that are not told yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Untold {
    events: VecDeque<Waiting>,
    /// What is asked, and not answered.
    asked: Vec<(Question, Endpoint)>,
    last_question: u64,
}

/// One of the two builds.
#[derive(Debug)]
struct Waiting {
    host: HostId,
    entry: Entry,
    /// What is to be answered first.
    question: Option<Question>,
}

impl Broker {
    /// Says that something happened to a host.
    pub(super) fn record(&mut self, id: HostId, event: Event) {
        self.record_unnamed(id, event, None);
    }

    /// Says that something happened to a host, once this question is answered.
    pub(super) fn record_unnamed(&mut self, id: HostId, event: Event, question: Option<Question>) {
        if event.kind == EventKind::Boot {
            let host = &mut self.hosts[id];
            host.boots = host.boots.saturating_add(1);
        }
        let at_us = self.clock.of_wall(event.time_us);
        self.account(id).apply(&event, at_us);
        let entry = Entry { event, at_us };
        if question.is_some() || !self.untold.events.is_empty() {
            self.history.note(&entry);
        }
        self.untold.events.push_back(Waiting {
            host: id,
            entry,
            question,
        });
        self.tell_events();
    }

    /// Tells those before which no question is left.
    fn tell_events(&mut self) {
        let waiting = &mut self.untold.events;
        let named = waiting.iter().take_while(|event| event.question.is_none()).count();
        if named == 0 {
            return;
        }
        let told: Vec<Entry> = waiting.drain(..named).map(|waiting| waiting.entry).collect();
        if let Some(on_event) = &self.on_event {
            told.iter().for_each(|entry| on_event(&entry.event));
        }
        let untold = waiting.iter().map(|waiting| &waiting.entry);
        self.history.tell(told, untold, |host| self.hosts.named(host).is_some());
    }

    /// Asks who has come to an endpoint; `None` where nobody answers that.
    pub(super) fn ask_sender(&mut self, endpoint: Endpoint) -> Option<Question> {
        self.untold.last_question += 1;
        let question = Question(self.untold.last_question);
        if !self.senders.ask(question, endpoint) {
            return None;
        }
        self.untold.asked.push((question, endpoint));
        self.after(PATIENCE, Timer::Unnamed(question.0));
        Some(question)
    }

    /// Finds out who sent the signal that a host was booted by.
    pub(super) fn name_sender(&mut self, id: HostId) {
        let Some(socket) = self.hosts[id].signalled_by.take() else {
            return;
        };
        let Some(retained) = self.sockets.get(socket) else {
            return;
        };
        let endpoint = retained.endpoint;
        match endpoint.transport {
            Transport::Udp => {
                if let Some(by) = peers::sender(&retained.socket).map(|sender| self.caller(sender)) {
                    self.hosts[id].life.name_caller(by);
                }
            }
            Transport::Tcp => self.hosts[id].unnamed = self.ask_sender(endpoint),
        }
    }

    /// Takes answers.
    pub(super) fn name_senders(&mut self, answers: Vec<(Question, Option<SocketAddr>)>) {
        for (question, sender) in answers {
            self.untold.asked.retain(|(asked, _)| *asked != question);
            let by = sender.map(|sender| self.caller(sender));
            for waiting in &mut self.untold.events {
                if waiting.question != Some(question) {
                    continue;
                }
                waiting.question = None;
                if let Some(cause) = &mut waiting.entry.event.cause {
                    cause.by = cause.by.take().or_else(|| by.clone());
                }
                // Its later events carry the cause as well, unless another signal has come since.
                if let Some(host) = self.hosts.get_mut(waiting.host)
                    && host.unnamed == Some(question)
                {
                    host.unnamed = None;
                    by.clone().into_iter().for_each(|by| host.life.name_caller(by));
                }
            }
        }
        self.tell_events();
    }

    /// Tells all that has happened: what is still asked is found out here and now.
    pub(super) fn tell_all_events(&mut self) {
        for asked in std::mem::take(&mut self.untold.asked).chunks(peers::AT_ONCE) {
            let (questions, endpoints): (Vec<_>, Vec<_>) = asked.iter().copied().unzip();
            let found = peers::came(&endpoints);
            self.name_senders(questions.into_iter().zip(found).collect());
        }
    }

    /// This question had its time.
    pub(super) fn name_at_last(&mut self, question: u64) {
        if self.untold.asked.iter().any(|(asked, _)| asked.0 == question) {
            self.tell_all_events();
        }
    }
}
