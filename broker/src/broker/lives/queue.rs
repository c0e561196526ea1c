//! What happened to hosts and was not told to their lives yet, and who waits for what they say.

use std::collections::{HashMap, VecDeque};

use imsup_lifecycle::{Input, WaiterId};

use crate::ids::{HostId, SessionId};

/// Callers that may wait at once.
const MAX_WAITERS: usize = 4096;

/// The recipient of the answer when a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Target {
    /// A supervisor's question.
    Reach { session: SessionId, id: u64, host: HostId },
    /// A client of the command line.
    Client { session: SessionId, host: HostId },
}

impl Target {
    fn session(&self) -> SessionId {
        let (Self::Reach { session, .. } | Self::Client { session, .. }) = self;
        *session
    }

    fn host(&self) -> HostId {
        let (Self::Reach { host, .. } | Self::Client { host, .. }) = self;
        *host
    }
}

/// The inputs and the waiters of all lives.
#[derive(Debug, Default)]
pub(in crate::broker) struct Lives {
    inputs: VecDeque<(HostId, Input)>,
    /// An input is being acted on. Those that this leads to come after it.
    is_feeding: bool,
    waiters: HashMap<WaiterId, Target>,
    next_waiter: u64,
}

impl Lives {
    /// Queues an input. True for the caller that has to act on [`Self::next_input`] until there is
    /// none.
    pub(super) fn queue(&mut self, id: HostId, input: Input) -> bool {
        self.inputs.push_back((id, input));
        !std::mem::replace(&mut self.is_feeding, true)
    }

    /// The next input to act on.
    pub(super) fn next_input(&mut self) -> Option<(HostId, Input)> {
        let next = self.inputs.pop_front();
        self.is_feeding = next.is_some();
        next
    }

    /// A waiter whose answer is for this target.
    pub(in crate::broker) fn new_waiter(&mut self, target: Target) -> WaiterId {
        let waiter = self.unheard_waiter();
        self.waiters.insert(waiter, target);
        waiter
    }

    /// A waiter whose answer nobody hears.
    pub(in crate::broker) fn unheard_waiter(&mut self) -> WaiterId {
        let waiter = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        waiter
    }

    /// True if one more may wait.
    pub(in crate::broker) fn has_room(&self) -> bool {
        self.waiters.len() < MAX_WAITERS
    }

    /// Ends a wait, which is answered.
    pub(super) fn answered(&mut self, waiter: WaiterId) -> Option<Target> {
        self.waiters.remove(&waiter)
    }

    /// Ends the wait for this question of a session, whose caller is gone, and names the host that
    /// is to know.
    pub(in crate::broker) fn cancel(&mut self, session: SessionId, question: u64) -> Option<(WaiterId, HostId)> {
        let is_it = |target: &Target| matches!(target, Target::Reach { session: of, id, .. } if *of == session && *id == question);
        let found = self.waiters.iter().find(|(_, target)| is_it(target));
        let (waiter, host) = found.map(|(waiter, target)| (*waiter, target.host()))?;
        self.waiters.remove(&waiter);
        Some((waiter, host))
    }

    /// Ends all waits of a session that is gone, and names the hosts that are to know.
    pub(in crate::broker) fn cancel_all(&mut self, session: SessionId) -> Vec<(WaiterId, HostId)> {
        let gone = self.waiters.extract_if(|_, target| target.session() == session);
        gone.map(|(waiter, target)| (waiter, target.host())).collect()
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn what_an_input_leads_to_comes_after_it() {
        let mut hosts = SlotMap::<HostId, ()>::with_key();
        let (one, other) = (hosts.insert(()), hosts.insert(()));
        let mut lives = Lives::default();
        assert!(lives.queue(one, Input::Executed));
        assert!(matches!(lives.next_input(), Some((id, Input::Executed)) if id == one));
        assert!(!lives.queue(other, Input::Settled), "whoever feeds comes to it");
        assert!(matches!(lives.next_input(), Some((id, Input::Settled)) if id == other));
        assert!(lives.next_input().is_none());
        assert!(lives.queue(one, Input::Tick));
    }

    #[test]
    fn the_session_that_has_taken_a_slot_is_not_answered_for_the_one_before() {
        let mut hosts = SlotMap::<HostId, ()>::with_key();
        let mut sessions = SlotMap::<SessionId, ()>::with_key();
        let host = hosts.insert(());
        let gone = sessions.insert(());
        sessions.remove(gone);
        let session = sessions.insert(());
        let mut lives = Lives::default();
        let reach = |session| Target::Reach { session, id: 1, host };
        let waiter = lives.new_waiter(reach(session));
        assert_eq!(lives.cancel(gone, 1), None);
        assert_eq!(lives.cancel_all(gone), []);
        assert_eq!(lives.answered(waiter), Some(reach(session)));
        let waiter = lives.new_waiter(reach(session));
        assert_eq!(lives.cancel_all(session), [(waiter, host)]);
        assert_eq!(lives.answered(waiter), None);
    }
}
