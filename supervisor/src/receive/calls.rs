//! Trapped calls on the receive loop: handled, kept pending, checked again, and answered.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use imsup_protocol::ToBroker;
use imsup_wire::Endpoint;
use nix::errno::Errno;

use super::Loop;
use crate::host::Host;
use crate::pending::{MAX_PENDING, PendingCall, TICK, Until, Waiting};
use crate::syscalls;
use crate::unhonoured::Unhonoured;
use crate::verdict::Verdict;
use imsup_linux::notify::{Answer, Notification, NotificationId};
use imsup_linux::signals;

impl Loop {
    pub(super) fn handle(&mut self, call: &Notification) {
        let traced = self.host.trace.begin(call);
        let verdict = match syscalls::handle(&mut self.host, call) {
            Verdict::Pending(_) if self.pending.len() >= MAX_PENDING => {
                self.host.warned.once(call.tid, Unhonoured::TooManyPending);
                self.host
                    .link
                    .send(&ToBroker::CancelReach { id: call.id.number() }, Vec::new());
                Verdict::from(Errno::EAGAIN)
            }
            verdict => verdict,
        };
        if let Some(traced) = traced {
            self.host.trace.end(call.id, traced, &verdict);
        }
        match verdict {
            Verdict::Answer(answer) => self.answer(call.id, answer),
            Verdict::Done => {}
            Verdict::Pending(pending) => {
                if self.pending.is_empty() {
                    self.next_tick = Instant::now() + TICK;
                }
                self.pending.insert(call.id, *pending);
                if self.host.link.socket().is_none() {
                    self.answer_without_broker(call.id);
                }
            }
        }
    }

    /// Without a next broker, a caller that cannot wait is refused. The other calls are asked for
    /// again when the next broker comes.
    pub(super) fn answer_without_broker(&mut self, id: NotificationId) {
        if let Some(pending) = self.pending.get_mut(&id)
            && let Some(answer) = syscalls::without_broker(&mut self.host, id, pending)
        {
            self.finish(id, answer);
        }
    }

    pub(super) fn answer_all_without_broker(&mut self) {
        for id in self.pending.keys().copied().collect::<Vec<_>>() {
            self.answer_without_broker(id);
        }
    }

    pub(super) fn answer(&self, id: NotificationId, answer: Answer) {
        if let Err(errno) = self.host.listener.answer(id, answer) {
            tracing::warn!(%errno, "a trapped call could not be answered");
        }
    }

    /// Answers a pending call. The call's duplicate is closed first, since the duplicate would
    /// delay a FIN.
    pub(super) fn finish(&mut self, id: NotificationId, answer: Answer) {
        let pending = self.pending.remove(&id);
        if let Some(Waiting::Connect(connect)) = pending.map(|pending| pending.waiting) {
            syscalls::connect_answered(&mut self.host, connect.socket.as_fd(), answer);
        }
        self.host.trace.resumed(id, answer);
        self.answer(id, answer);
    }

    pub(super) fn pending_id(&self, number: u64) -> Option<NotificationId> {
        self.pending.keys().copied().find(|id| id.number() == number)
    }

    /// Repeats the questions of pending calls: a new broker does not know the questions to the old
    /// broker.
    pub(super) fn ask_again(&mut self) {
        for (id, pending) in &self.pending {
            let (endpoint, can_wait) = match &pending.waiting {
                Waiting::Connect(connect) if !connect.in_kernel => (connect.endpoint, connect.blocking),
                Waiting::Datagram { endpoint, .. } | Waiting::Send { endpoint, .. } => (Some(*endpoint), false),
                Waiting::Anew {
                    until: Until::Trusted { uid, endpoint },
                    ..
                } => {
                    let (uid, endpoint) = (*uid, *endpoint);
                    self.host.link.send(&ToBroker::Trusts { uid, endpoint }, Vec::new());
                    continue;
                }
                Waiting::Connect(_) | Waiting::Bind(_) | Waiting::Accept { .. } | Waiting::Anew { .. } => continue,
            };
            let Some(endpoint) = endpoint else {
                continue;
            };
            let id = id.number();
            self.host
                .link
                .send(&ToBroker::Reach { id, endpoint, can_wait }, Vec::new());
        }
    }

    /// Ends pending calls after the death of the caller, an interruption, or a long enough wait.
    pub(super) fn look_at_pending(&mut self, now: Instant) {
        self.watchdog.begin();
        let ids: Vec<_> = self.pending.keys().copied().collect();
        for id in ids {
            let Some(pending) = self.pending.get_mut(&id) else {
                continue;
            };
            if !self.host.listener.is_valid(id) {
                self.cancel(id);
                if let Some(Waiting::Connect(connect)) = self.pending.remove(&id).map(|pending| pending.waiting) {
                    self.host.give_up_copy(connect.socket.as_fd());
                }
                self.host.trace.gone(id);
            } else if pending.is_interruptible() && signals::interrupts(pending.tid) {
                let answer = pending.interruption();
                self.cancel(id);
                self.finish(id, answer);
            } else if now >= pending.deadline
                && let Waiting::Anew {
                    call,
                    until: Until::ResolverSockets,
                } = pending.waiting
            {
                self.begin_anew(&call);
            } else if now >= pending.deadline {
                let errno = pending.timeout_errno;
                self.cancel(id);
                self.finish(id, Answer::Errno(errno));
            } else if let Some(answer) = syscalls::look_again(&mut self.host, id, pending) {
                self.finish(id, answer);
            }
        }
    }

    /// The listener of a pending accept(2): a new connection need not wait for the next look.
    pub(super) fn accepted_from(&self) -> Option<BorrowedFd<'_>> {
        if self.accepts_wait {
            return None;
        }
        let inode = self.pending.values().find_map(PendingCall::accepts_from)?;
        self.host.retained.by_inode(inode).map(AsFd::as_fd)
    }

    pub(super) fn look_at_accepts(&mut self) {
        self.watchdog.begin();
        let accepts = |(id, pending): (&NotificationId, &PendingCall)| pending.accepts_from().map(|_| *id);
        let ids: Vec<_> = self.pending.iter().filter_map(accepts).collect();
        self.accepts_wait = true;
        for id in ids {
            if let Some(pending) = self.pending.get_mut(&id)
                && let Some(answer) = syscalls::look_again(&mut self.host, id, pending)
            {
                self.finish(id, answer);
                self.accepts_wait = false;
            }
        }
    }

    pub(super) fn cancel(&mut self, id: NotificationId) {
        if let Some(PendingCall {
            waiting: Waiting::Connect(_) | Waiting::Datagram { .. } | Waiting::Send { .. },
            ..
        }) = self.pending.get(&id)
        {
            self.host
                .link
                .send(&ToBroker::CancelReach { id: id.number() }, Vec::new());
        }
    }

    /// Calls that wait for a resolver's socket are begun anew: there are some now, or none will
    /// come.
    pub(super) fn resume_resolvers(&mut self) {
        self.begin_all_anew(|_, until| until == Until::ResolverSockets);
    }

    /// Calls that wait for the broker's word on a user.
    pub(super) fn resume_trusted(&mut self, of: (u32, Endpoint)) {
        self.begin_all_anew(|_, until| matches!(until, Until::Trusted { uid, endpoint } if (uid, endpoint) == of));
    }

    /// Calls that wait for the broker to close a socket, or for a search.
    pub(super) fn go_on_with_vetted(&mut self) {
        self.watchdog.begin();
        let is_bind = |pending: &PendingCall| matches!(pending.waiting, Waiting::Bind(_));
        let binds = self.pending.iter().filter(|(_, pending)| is_bind(pending));
        for id in binds.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(pending) = self.pending.get_mut(&id)
                && let Some(answer) = syscalls::bind_again(&mut self.host, id, pending)
            {
                self.finish(id, answer);
            }
        }
        self.begin_all_anew(|host, until| match until {
            Until::Vetted { endpoint, search } => {
                !host.closed_listeners.is_closing(endpoint) && host.closed_listeners.has_searched(search)
            }
            Until::ResolverSockets | Until::Trusted { .. } => false,
        });
    }

    /// Begins anew the calls that have finished their wait.
    fn begin_all_anew(&mut self, is_over: impl Fn(&Host, Until) -> bool) {
        let calls: Vec<_> = self
            .pending
            .values()
            .filter_map(|pending| match pending.waiting {
                Waiting::Anew { call, until } if is_over(&self.host, until) => Some(call),
                _ => None,
            })
            .collect();
        for call in calls {
            self.begin_anew(&call);
        }
    }

    /// Handles a call again after its wait. The call waits again at most for conditions whose time
    /// limit has not passed.
    fn begin_anew(&mut self, call: &Notification) {
        let Some(pending) = self.pending.remove(&call.id) else {
            return;
        };
        if self.host.listener.is_valid(call.id) {
            self.host.begun_anew = Some((call.id, pending.since));
            self.handle(call);
            self.host.begun_anew = None;
        } else {
            self.host.trace.gone(call.id);
        }
    }
}
