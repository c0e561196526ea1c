//! Callers and the ports of a host that they wait for.
//!
//! A program opens its ports one by one, and only the program knows the last port. So a start is
//! judged by the port that was asked for. A connection to a port that is not open yet waits for up
//! to `hold_timeout` while the program lives, whatever other ports the program opens.

use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use imsup_wire::{Awaited, Cause, Endpoint};

use super::{Life, Phase};
use crate::{Action, Answer, Hope, Port, UNMET_AFTER, Want};

/// Connections that wait in a retained socket without a listening program.
#[derive(Debug)]
pub(super) struct Queued {
    hope: Hope,
    /// Arrivals by time, the oldest first; never empty.
    arrivals: VecDeque<Arrivals>,
}

/// Connections that came at about the same time.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    since: Instant,
    /// The count of arrivals; unknown yet for the last ones.
    count: usize,
}

/// The time that supervisors may take to find the next broker, with their pending calls.
const RETURN: Duration = Duration::from_secs(5);

/// Arrivals within this part of `hold_timeout` are counted as if all had come with the first.
const AT_ONCE: u32 = 64;

impl Queued {
    fn new(hope: Hope, now: Instant) -> Self {
        let first = Arrivals { since: now, count: 0 };
        Self {
            hope,
            arrivals: VecDeque::from([first]),
        }
    }

    /// One more connection has arrived, and now this many wait.
    fn add(&mut self, length: usize, hold_timeout: Duration, now: Instant) {
        let earlier: usize = self.arrivals.iter().rev().skip(1).map(|arrivals| arrivals.count).sum();
        let is_old = self.is_old(hold_timeout, now);
        if let Some(last) = self.arrivals.back_mut()
            && is_old
            && length > earlier + 1
        {
            last.count = length - earlier - 1;
            self.arrivals.push_back(Arrivals { since: now, count: 0 });
        }
    }

    /// True if the last arrivals did not come at about this time.
    fn is_old(&self, hold_timeout: Duration, now: Instant) -> bool {
        self.arrivals
            .back()
            .is_some_and(|last| last.since + hold_timeout / AT_ONCE < now)
    }

    fn since(&self) -> Option<Instant> {
        self.arrivals.front().map(|arrivals| arrivals.since)
    }
}

/// The start of the program that runs.
#[derive(Debug)]
pub(super) struct Start {
    /// The beginning of the start, as far as this broker knows.
    began: Instant,
    /// The start began before this broker did.
    adopted: bool,
    /// The port that the start was for.
    pub(super) asked: Option<Endpoint>,
    /// The time of the first listen.
    pub(super) listened: Option<Instant>,
    /// The program has opened no more ports for a while.
    pub(super) quiet: bool,
    /// A declared port that is not open yet is still expected.
    expects_declared: bool,
    /// Endpoints with past or present callers at which the program does not listen, though it
    /// listens elsewhere. Reported already.
    unmet: BTreeSet<Endpoint>,
}

impl Start {
    pub(super) fn new(began: Instant, asked: Option<Endpoint>) -> Self {
        Self {
            began,
            adopted: false,
            asked,
            listened: None,
            quiet: false,
            expects_declared: true,
            unmet: BTreeSet::new(),
        }
    }
}

impl Start {
    /// A start that began before this broker: its callers come back to wait.
    pub(super) fn adopted(now: Instant) -> Self {
        Self {
            adopted: true,
            ..Self::new(now, None)
        }
    }

    fn is_just_adopted(&self, now: Instant) -> bool {
        self.adopted && now < self.began + RETURN
    }
}

impl Life {
    /// Whether the program that runs has listened anywhere.
    pub fn has_listened(&self) -> bool {
        self.start.listened.is_some()
    }

    /// True if the number of connections in the retained socket of this port is needed by now:
    /// earlier ones came a while ago.
    pub fn counts_arrivals(&self, endpoint: Endpoint, now: Instant) -> bool {
        let queued = self.queued.get(&endpoint);
        queued.is_some_and(|queued| queued.is_old(self.policy.hold_timeout, now))
    }

    /// True if a connection waits in the retained socket of this port.
    #[cfg(test)]
    pub fn has_queued(&self, endpoint: Endpoint) -> bool {
        self.queued.contains_key(&endpoint)
    }

    /// True if a caller waits for this port, which has no listener yet.
    pub fn is_awaited(&self, endpoint: Endpoint) -> bool {
        self.hope_for(endpoint).is_some()
    }

    /// True if a connect to this port, which has no listener, is refused at once: the program has
    /// started, and no caller waits for the port.
    pub fn refuses(&self, endpoint: Endpoint, now: Instant) -> bool {
        let over = match self.phase {
            Phase::Running { .. } => self.start.quiet,
            Phase::Booting { .. } => self.start.quiet && self.start.listened.is_some(),
            Phase::Imaginary { .. } | Phase::Failed { .. } => false,
        };
        over && !self.is_awaited(endpoint) && !self.start.is_just_adopted(now)
    }

    /// Callers of a port of the running program, which must not sleep meanwhile.
    pub fn awaited(&self) -> Awaited {
        if self.absent() || self.ending() {
            return Awaited::Nobody;
        }
        let awaited = |hope: Hope| match hope {
            Hope::Asked if self.start.quiet => Awaited::Asked,
            Hope::Stray if self.start.quiet => Awaited::Nobody,
            Hope::Stray | Hope::Asked | Hope::Declared => Awaited::Expected,
        };
        self.hopes().map(|(_, hope)| awaited(hope)).max().unwrap_or_default()
    }

    /// The signal of a caller of this port: its own, or the signal that the host was booted for.
    pub fn cause_at(&self, endpoint: Endpoint) -> Option<&Cause> {
        let waiter = self
            .waiters
            .iter()
            .find(|waiter| waiter.want == Want::Port(endpoint))
            .map(|waiter| &waiter.cause);
        let is_asked = self.start.asked == Some(endpoint);
        waiter.or_else(|| self.cause().filter(|_| is_asked))
    }

    /// Endpoints with past or present callers, if the running program listens elsewhere.
    pub fn unmet(&self) -> impl Iterator<Item = Endpoint> {
        let lives = !self.absent();
        self.start.unmet.iter().copied().filter(move |_| lives)
    }

    /// True if any caller waits for a port.
    pub(super) fn is_any_awaited(&self) -> bool {
        self.hopes().next().is_some()
    }

    /// The first port with a waiting caller.
    pub(super) fn first_awaited(&self) -> Option<Endpoint> {
        self.hopes().next().map(|(endpoint, _)| endpoint)
    }

    fn hopes(&self) -> impl Iterator<Item = (Endpoint, Hope)> {
        let waiters = self.waiters.iter().filter_map(|waiter| match waiter.want {
            Want::Port(endpoint) => Some((endpoint, waiter.hope)),
            Want::Ready | Want::Ended => None,
        });
        waiters.chain(self.queued.iter().map(|(endpoint, queued)| (*endpoint, queued.hope)))
    }

    fn hope_for(&self, endpoint: Endpoint) -> Option<Hope> {
        self.hopes()
            .filter(|(at, _)| *at == endpoint)
            .map(|(_, hope)| hope)
            .max()
    }

    /// The evidence for a port that gets a caller.
    pub(super) fn hope_of(&self, endpoint: Endpoint, declared: bool, now: Instant) -> Hope {
        let own = match (declared, self.phase) {
            (true, _) => Hope::Declared,
            // A caller that comes while the program is being ended is for the next boot.
            (false, Phase::Running { .. }) if !self.ending() && !self.start.is_just_adopted(now) => Hope::Stray,
            (false, _) => Hope::Asked,
        };
        self.hope_for(endpoint).map_or(own, |known| own.max(known))
    }

    /// A connection waits in a retained socket.
    pub(super) fn queue(&mut self, port: Port, now: Instant, actions: &mut Vec<Action>) {
        let hope = self.hope_of(port.endpoint, port.declared, now);
        if hope == Hope::Stray && self.start.quiet {
            self.close_unused(actions);
            return;
        }
        let hold_timeout = self.policy.hold_timeout;
        match self.queued.entry(port.endpoint) {
            Entry::Vacant(vacant) => {
                vacant.insert(Queued::new(hope, now));
            }
            Entry::Occupied(occupied) => {
                let queued = occupied.into_mut();
                queued.hope = queued.hope.max(hope);
                if let Some(length) = port.length {
                    queued.add(length, hold_timeout, now);
                }
            }
        }
        // If the program is long known to listen elsewhere, that is reported at once.
        self.tell_unmet(now, actions);
    }

    /// The program listens here.
    pub(super) fn listening(&mut self, endpoint: Endpoint, counts: bool, now: Instant, actions: &mut Vec<Action>) {
        let was_awaited = self.is_awaited(endpoint);
        self.start.listened.get_or_insert(now);
        self.start.unmet.remove(&endpoint);
        self.queued.remove(&endpoint);
        let is_ready = match self.start.asked {
            Some(asked) if asked == endpoint => true,
            Some(asked) if self.is_awaited(asked) => false,
            _ => counts || was_awaited,
        };
        if is_ready {
            self.ready(now, actions);
        }
        self.answer(
            |waiter| (waiter.want == Want::Port(endpoint)).then_some(Answer::Connect),
            actions,
        );
        self.ready_if_quiet(now, actions);
    }

    /// The program has opened no more ports for a while.
    pub(super) fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.absent() {
            return;
        }
        self.start.quiet = true;
        if self.start.listened.is_none() {
            // The program used all the time allowed, and listens nowhere.
            self.refuse_up_to(Hope::Asked, actions);
        }
        self.ready_if_quiet(now, actions);
        if matches!(self.phase, Phase::Running { .. }) {
            self.failures = 0;
            self.breaks = 0;
            self.refuse_up_to(Hope::Stray, actions);
        }
    }

    /// A host is ready, too, when its program is quiet and no caller waits for a port.
    pub(super) fn ready_if_quiet(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.start.quiet && matches!(self.phase, Phase::Booting { .. }) && !self.is_any_awaited() {
            self.ready(now, actions);
            self.failures = 0;
            self.breaks = 0;
            self.close_unused(actions);
        }
    }

    /// Refuses callers of ports with no more evidence than this, and closes the sockets without
    /// waiting connections.
    pub(super) fn refuse_up_to(&mut self, most: Hope, actions: &mut Vec<Action>) {
        self.queued.retain(|_, queued| queued.hope > most);
        self.answer(
            |waiter| (matches!(waiter.want, Want::Port(_)) && waiter.hope <= most).then_some(Answer::Refused),
            actions,
        );
        self.close_unused(actions);
    }

    fn close_unused(&self, actions: &mut Vec<Action>) {
        actions.push(Action::CloseUnused {
            spare_declared: self.start.expects_declared,
        });
    }

    /// Resets all connections at ports on which the program has not listened.
    pub(super) fn reset_queued(&mut self, actions: &mut Vec<Action>) {
        let queued = std::mem::take(&mut self.queued);
        actions.extend(queued.into_keys().map(|endpoint| Action::ResetAt(endpoint, None)));
    }

    /// The time of the next deadline here.
    pub(super) fn port_deadline(&self) -> Option<Instant> {
        let hold_timeout = self.policy.hold_timeout;
        let expiry = self.queued.values().map(|queued| self.expiry(queued)).min();
        let lives = !self.absent();
        let window = (lives && self.start.expects_declared).then(|| self.start.began + hold_timeout);
        let is_reported = !lives || self.ending() || self.unreported().next().is_none();
        let tell = self.start.listened.filter(|_| !is_reported).map(|at| at + UNMET_AFTER);
        [expiry, window, tell].into_iter().flatten().min()
    }

    /// The time at which a queued connection has waited for long enough: never the moment of the
    /// host's start, however old the connection is.
    fn expiry(&self, queued: &Queued) -> Instant {
        let hold_timeout = self.policy.hold_timeout;
        let end = queued.since().map_or(self.start.began, |since| since + hold_timeout);
        match self.absent() {
            true => end,
            false => end.max(self.start.began + hold_timeout / 2),
        }
    }

    /// Ends the waits that have timed out.
    pub(super) fn ports_on_time(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.tell_unmet(now, actions);
        let runs = !self.absent() && !self.ending();
        let listens = runs && self.start.listened.is_some();
        let failed = matches!(self.phase, Phase::Failed { .. });
        let mut late = Vec::new();
        self.waiters.retain(|waiter| {
            let due = waiter.deadline.is_some_and(|deadline| deadline <= now);
            if due {
                late.push((waiter.id, waiter.want));
            }
            !due
        });
        let expired = self.expire_queued(now);
        if runs {
            let asked = late.iter().filter_map(|(_, want)| match want {
                Want::Port(endpoint) => Some(*endpoint),
                Want::Ready | Want::Ended => None,
            });
            let unmet = expired.iter().map(|(endpoint, _)| *endpoint).chain(asked).collect();
            self.unmet_at(unmet, actions);
        }
        actions.extend(late.into_iter().map(|(id, want)| {
            let answer = match (failed, want) {
                (true, Want::Ready | Want::Ended) => Answer::Failed,
                // The program has started, and does not listen there.
                (_, Want::Port(_)) if failed || listens => Answer::Refused,
                _ => Answer::TimedOut,
            };
            Action::Answer(id, answer)
        }));
        let window_ends = self.start.expects_declared && self.start.began + self.policy.hold_timeout <= now;
        if window_ends {
            self.start.expects_declared = false;
        }
        let any_expired = !expired.is_empty();
        actions.extend(
            expired
                .into_iter()
                .map(|(endpoint, count)| Action::ResetAt(endpoint, count)),
        );
        if self.absent() {
            return;
        }
        self.ready_if_quiet(now, actions);
        if (any_expired || window_ends) && self.start.quiet && matches!(self.phase, Phase::Running { .. }) {
            self.close_unused(actions);
        }
    }

    /// Forgets connections that have waited in retained sockets for long enough: how many, or all,
    /// at which endpoint.
    fn expire_queued(&mut self, now: Instant) -> Vec<(Endpoint, Option<usize>)> {
        let mut expired = Vec::new();
        let mut queued = std::mem::take(&mut self.queued);
        queued.retain(|endpoint, queued| {
            let mut count = 0;
            while self.expiry(queued) <= now {
                if queued.arrivals.len() <= 1 {
                    expired.push((*endpoint, None));
                    return false;
                }
                count += queued.arrivals.pop_front().map_or(0, |arrivals| arrivals.count);
            }
            if count > 0 {
                expired.push((*endpoint, Some(count)));
            }
            true
        });
        self.queued = queued;
        expired
    }

    /// Ports with callers and evidence for which the missing listener was not reported yet.
    fn unreported(&self) -> impl Iterator<Item = Endpoint> {
        self.hopes()
            .filter(|(endpoint, hope)| *hope > Hope::Stray && !self.start.unmet.contains(endpoint))
            .map(|(endpoint, _)| endpoint)
    }

    fn tell_unmet(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let listened = self.start.listened.filter(|_| !self.absent() && !self.ending());
        if listened.is_some_and(|at| at + UNMET_AFTER <= now) {
            let unreported = self.unreported().collect();
            self.unmet_at(unreported, actions);
        }
    }

    /// Reports once where the program does not listen. A caller that waits for the host itself, not
    /// for a port, has waited for long enough if the program listens elsewhere.
    fn unmet_at(&mut self, mut endpoints: Vec<Endpoint>, actions: &mut Vec<Action>) {
        endpoints.retain(|endpoint| self.start.unmet.insert(*endpoint));
        if !endpoints.is_empty() {
            actions.push(Action::Unmet(endpoints));
        }
        if self.has_unmet() {
            self.answer(|waiter| (waiter.want == Want::Ready).then_some(Answer::Ready), actions);
        }
    }

    /// True if the listener elsewhere was reported.
    pub(super) fn has_unmet(&self) -> bool {
        self.has_listened() && !self.start.unmet.is_empty()
    }
}
