//! The one place where something that happened to a host is recorded: in its account, in the
//! history and its file, and with whoever follows.
//!
//! An event whose sender is still to be named is pending, and so is every later event: all are told
//! in their order, once the name is known.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use imsup_wire::{Cause, Endpoint, Event, EventKind, HostName, Usage};
use slotmap::SecondaryMap;

use crate::accounts::Account;
use crate::events::{OnEvent, now_us};
use crate::history::{Entry, History};
use crate::ids::HostId;
use crate::peer_lookup::{self, Answers, Listener, PeerLookup, Question};
use crate::peers;

/// Something that happened to a host: an event but for the host's name.
#[derive(Debug)]
pub(crate) struct Happening {
    /// By the wall clock, in microseconds since the Unix epoch.
    pub(crate) time_us: u64,
    pub(crate) kind: EventKind,
    pub(crate) cause: Option<Cause>,
    pub(crate) duration: Option<Duration>,
    pub(crate) detail: Option<String>,
    pub(crate) usage: Option<Usage>,
    /// The question for its sender, which is to be answered before it is told.
    pub(crate) question: Option<Question>,
}

impl Happening {
    /// Something that happens now, with no more known of it.
    pub(crate) fn now(kind: EventKind) -> Self {
        Self::at(now_us(), kind)
    }

    /// Something that happened then.
    pub(crate) fn at(time_us: u64, kind: EventKind) -> Self {
        Self {
            time_us,
            kind,
            cause: None,
            duration: None,
            detail: None,
            usage: None,
            question: None,
        }
    }

    /// The event, of this host.
    pub(crate) fn of(self, host: HostName) -> Event {
        Event {
            time_us: self.time_us,
            host,
            kind: self.kind,
            cause: self.cause,
            duration: self.duration,
            detail: self.detail,
            usage: self.usage,
        }
    }
}

/// An event that is not told yet.
#[derive(Debug)]
struct Pending {
    host: HostId,
    entry: Entry,
    /// The question to be answered first.
    question: Option<Question>,
}

/// The accounts of all hosts, and all that happened since `up`.
pub(crate) struct Journal {
    history: History,
    on_event: Option<OnEvent>,
    /// Opened with a host's first event: a host without one has been imaginary all the time.
    accounts: SecondaryMap<HostId, Box<Account>>,
    peer_lookup: Option<PeerLookup>,
    /// Oldest first.
    pending: VecDeque<Pending>,
    /// What the senders' threads are asked, and have not answered, oldest first.
    asked: Vec<(Question, Endpoint)>,
    last_question: u64,
}

impl Journal {
    /// A journal that goes on with this history, with the accounts of those hosts in it that exist
    /// still.
    pub(crate) fn new(
        history: History,
        on_event: Option<OnEvent>,
        peer_lookup: Option<PeerLookup>,
        named: impl Fn(&HostName) -> Option<HostId>,
    ) -> Self {
        let known = history.ledger().iter().filter_map(|(name, summary)| {
            let account = Box::new(summary.account.clone());
            Some((named(name)?, account))
        });
        let accounts = known.collect();
        Self {
            history,
            on_event,
            accounts,
            peer_lookup,
            pending: VecDeque::new(),
            asked: Vec::new(),
            last_question: 0,
        }
    }

    /// Records what happened to a host, whose account is opened as of then if it has none. It is
    /// told once its question is answered, and all before it are told. Accounts of hosts that
    /// `is_known` does not know are not carried into the next file.
    pub(crate) fn record(
        &mut self,
        host: HostId,
        opened_us: u64,
        entry: Entry,
        question: Option<Question>,
        is_known: impl Fn(&HostName) -> bool,
    ) {
        self.account(host, opened_us).apply(&entry.event, entry.at_us);
        if question.is_some() || !self.pending.is_empty() {
            self.history.note(&entry);
        }
        self.pending.push_back(Pending { host, entry, question });
        self.tell(is_known);
    }

    /// Tells the events before which no question is left.
    pub(crate) fn tell(&mut self, is_known: impl Fn(&HostName) -> bool) {
        let pending = &mut self.pending;
        let named = pending.iter().take_while(|event| event.question.is_none()).count();
        if named == 0 {
            return;
        }
        let published: Vec<Entry> = pending.drain(..named).map(|pending| pending.entry).collect();
        if let Some(on_event) = &self.on_event {
            published.iter().for_each(|entry| on_event(&entry.event));
        }
        let pending = pending.iter().map(|pending| &pending.entry);
        self.history.tell(published, pending, is_known);
    }

    /// Asks who has come to an endpoint; `None` if nobody answers that.
    pub(crate) fn ask_sender(&mut self, endpoint: Endpoint) -> Option<Question> {
        self.last_question += 1;
        let question = Question(self.last_question);
        if !self.peer_lookup.as_ref()?.ask(question, endpoint) {
            return None;
        }
        self.asked.push((question, endpoint));
        Some(question)
    }

    /// Names the sender of the events that wait for this question, as far as it is known, and gives
    /// their hosts.
    pub(crate) fn name(&mut self, question: Question, by: Option<&str>) -> Vec<HostId> {
        self.asked.retain(|(asked, _)| *asked != question);
        let mut hosts = Vec::new();
        for pending in self.pending.iter_mut().filter(|event| event.question == Some(question)) {
            pending.question = None;
            if let Some(cause) = &mut pending.entry.event.cause {
                cause.by = cause.by.take().or_else(|| by.map(str::to_owned));
            }
            hosts.push(pending.host);
        }
        hosts
    }

    /// Has what is still asked answered before everything that only stands back. Gives the answers
    /// if nobody else will.
    pub(crate) fn ask_promptly(&self) -> Answers {
        let asked = self.asked.clone();
        let asks = |peer_lookup: &PeerLookup| peer_lookup.ask_promptly(asked.clone());
        match self.peer_lookup.as_ref().is_some_and(asks) {
            true => Vec::new(),
            false => asked.into_iter().map(|(question, _)| (question, None)).collect(),
        }
    }

    /// Asks who waits in a listener; false if nobody answers that.
    pub(crate) fn ask_queue(&self, listener: Listener) -> bool {
        self.peer_lookup
            .as_ref()
            .is_some_and(|peer_lookup| peer_lookup.ask_queue(listener))
    }

    /// The last question that is not answered.
    pub(crate) fn last_asked(&self) -> Option<Question> {
        self.asked.last().map(|(question, _)| *question)
    }

    /// True if all questions up to this one are answered.
    pub(crate) fn is_named_until(&self, last: Question) -> bool {
        self.asked.first().is_none_or(|(oldest, _)| last < *oldest)
    }

    /// True if the question is not answered.
    pub(crate) fn awaits(&self, question: Question) -> bool {
        self.asked.iter().any(|(asked, _)| *asked == question)
    }

    /// Finds out what is still asked here and now, after the loop.
    pub(crate) fn find_out(&mut self) -> Answers {
        let asked = std::mem::take(&mut self.asked);
        asked.chunks(peers::AT_ONCE).flat_map(peer_lookup::answers).collect()
    }

    /// The account of a host, opened as of then if it has none.
    pub(crate) fn account(&mut self, host: HostId, opened_us: u64) -> &mut Account {
        if !self.accounts.contains_key(host) {
            self.accounts.insert(host, Box::new(Account::new(opened_us)));
        }
        &mut self.accounts[host]
    }

    /// What a host's program is known to have used.
    pub(crate) fn usage(&self, host: HostId) -> Option<Usage> {
        self.accounts.get(host)?.current()
    }

    /// Forgets the account of a host that is removed.
    pub(crate) fn remove(&mut self, host: HostId) {
        self.accounts.remove(host);
    }

    /// The first event that was told at or after number `from` and is still kept, with its number.
    pub(crate) fn next(&self, from: u64) -> Option<(u64, &Event)> {
        self.history.next(from)
    }

    /// The number of the next event that is told.
    pub(crate) fn end(&self) -> u64 {
        self.history.end()
    }

    /// Makes the history's file anew if somebody has removed it.
    ///
    /// # Errors
    /// As [`History::restore`].
    pub(crate) fn restore(&mut self, is_known: impl Fn(&HostName) -> bool) -> io::Result<()> {
        self.history.restore(is_known)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use imsup_wire::CauseKind;
    use slotmap::SlotMap;

    use super::*;

    fn entry(second: u64, kind: EventKind) -> Entry {
        let cause = Cause {
            kind: CauseKind::Connection,
            by: None,
            port: Some(80),
        };
        let happening = Happening {
            cause: Some(cause),
            ..Happening::at(second * 1_000_000, kind)
        };
        let event = happening.of("web".parse().unwrap());
        Entry {
            at_us: event.time_us,
            event,
        }
    }

    #[test]
    fn events_are_told_in_their_order_once_their_sender_is_named() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&told);
        let on_event: OnEvent = Box::new(move |event| {
            let by = event.cause.as_ref().and_then(|cause| cause.by.clone());
            seen.borrow_mut().push((event.kind, by));
        });
        let mut journal = Journal::new(History::in_memory(0), Some(on_event), None, |_| None);
        let host = SlotMap::<HostId, ()>::with_key().insert(());
        let question = Question(1);
        journal.record(host, 0, entry(1, EventKind::Allocate), Some(question), |_| true);
        journal.record(host, 0, entry(2, EventKind::Boot), None, |_| true);
        assert_eq!((told.borrow().len(), journal.end()), (0, 0), "the sender is not named");
        assert_eq!(journal.name(question, Some("curl")), [host]);
        journal.tell(|_| true);
        let expected = [(EventKind::Allocate, Some("curl".to_owned())), (EventKind::Boot, None)];
        assert_eq!(*told.borrow(), expected);
        assert_eq!(
            journal.next(1).map(|(number, event)| (number, event.kind)),
            Some((1, EventKind::Boot))
        );
        assert_eq!(journal.account(host, 0).counts(), (1, 0));
    }

    #[test]
    fn the_host_that_has_taken_a_slot_has_an_account_of_its_own() {
        let mut hosts = SlotMap::<HostId, ()>::with_key();
        let gone = hosts.insert(());
        let mut journal = Journal::new(History::in_memory(0), None, None, |_| None);
        journal.record(gone, 0, entry(1, EventKind::Boot), None, |_| true);
        hosts.remove(gone);
        journal.remove(gone);
        let host = hosts.insert(());
        assert_eq!(journal.account(host, 0).counts(), (0, 0));
    }
}
