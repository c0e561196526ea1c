//! Sockets that a running program has closed.
//!
//! close(2) is not trapped, and imsup's duplicates keep a retained socket open. Epoll then goes on
//! reporting a descriptor that the program has closed, clients go on queueing, and the port stays
//! bound. So a duplicate is closed as soon as the program is not seen to have the socket any more.
//! The checks are at a bind or connect of the socket's address, at each arrival, and at intervals.
//!
//! Closing a duplicate (never shutting the socket down) is right even in doubt. If a process still
//! has the socket, the socket lives on, and the kernel reports that. So the decision needs only one
//! look at the place that had the socket. A socket that has moved (a parent that ended, dup2(2),
//! SCM_RIGHTS) is searched for, in slices, and retained again.

mod budget;
mod search;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::Endpoint;

use crate::host::{Descriptors, Host};
use crate::sockets::{Given, Retained};
use budget::{Budget, WAKE};
use imsup_linux::arrivals::Arrivals;
use imsup_linux::{cpu, process, socket};
use search::Searches;

/// The delay between checks while data or a connection waits in a socket that the program has. The
/// program is about to take the arrival, or to close the socket.
const FIRST_CHECK: Duration = Duration::from_micros(100);
const LAST_CHECK: Duration = Duration::from_millis(100);
const LATE_CHECK: Duration = Duration::from_millis(320);

/// The age from which the program is no longer expected to take an arrival soon.
const LONG: Duration = Duration::from_secs(2);

/// The delay from an arrival to the next look at the places of the program's sockets: a program
/// mostly acts because of an arrival. Later looks are ever less frequent. While the program's
/// processes run, the looks have this least frequency, as far as the budget allows.
const FIRST_LOOK: Duration = Duration::from_millis(4);
const RUNNING_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_millis(640);

/// Closed sockets of which the next broker is told, at most; the oldest were closed by the program
/// first, and bound again.
const MAX_PENDING_REPORTS: usize = 1024;

/// The cost of a look at one place (measured: 1.7 us).
const PLACE: Duration = Duration::from_micros(2);

/// The number of places per look.
const SLICE: usize = 64;

/// The most processes to check for recent run time by their clocks.
const MAX_CLOCKS: usize = 16;

/// Questions to the broker count from here: the numbers of calls begin anywhere, so a clash is as
/// likely as any number.
const FIRST_QUESTION: u64 = 1 << 63;

/// The source of arrival reports.
#[derive(Debug)]
enum Watch {
    /// No socket was to be watched yet.
    Unused,
    /// The kernel has no more room for AIO contexts (fs.aio-max-nr), or lacks AIO: only looks find
    /// closed sockets.
    Unavailable,
    On(Arrivals),
}

/// A socket of the program in which an arrival waits: the program is about to take the arrival, or
/// to close the socket.
#[derive(Debug)]
struct Standing {
    since: Instant,
    check_at: Instant,
}

impl Standing {
    /// The pause before the next check of the socket, which grows with age.
    fn pause(&self, now: Instant) -> Duration {
        let stood = now.saturating_duration_since(self.since);
        let longest = if stood < LONG { LAST_CHECK } else { LATE_CHECK };
        (stood / 2).clamp(FIRST_CHECK, longest)
    }
}

/// A socket that the program has closed.
#[derive(Clone, Copy, Debug)]
struct Closed {
    endpoint: Endpoint,
    inode: u64,
}

/// The search for listeners and other retained sockets that the program has closed.
#[derive(Debug)]
pub struct ClosedListeners {
    watch: Watch,
    /// Sockets in which an arrival waits, by inode.
    standing: HashMap<u64, Standing>,
    budget: Budget,
    /// When the next arrival is to be told of, if not already.
    arm_at: Option<Instant>,
    look_at: Instant,
    look_after: Duration,
    /// The position at which the last look ended, and the number of places without a look since a
    /// process ran.
    looked: usize,
    unlooked: usize,
    clocks: HashMap<i32, Duration>,
    searches: Searches,
    /// Sockets that the broker was told to close, without a confirmation yet.
    closing: HashMap<u64, Closed>,
    /// Sockets that were closed since the last broker died, or without a confirmation of the
    /// broker. The next broker has these sockets open until told to close them, and so has the
    /// keeper.
    pending_reports: Vec<Closed>,
    /// Whether the next broker comes by itself.
    next_comes: bool,
    next_question: u64,
}

impl Default for ClosedListeners {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            watch: Watch::Unused,
            standing: HashMap::new(),
            budget: Budget::new(now),
            arm_at: None,
            look_at: now,
            look_after: FIRST_LOOK,
            looked: 0,
            unlooked: 0,
            clocks: HashMap::new(),
            searches: Searches::new(now),
            closing: HashMap::new(),
            pending_reports: Vec::new(),
            next_comes: false,
            next_question: FIRST_QUESTION,
        }
    }
}

/// The state of an address before a bind or a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vetted {
    /// The address is used by the program or the kernel, or is free.
    Settled,
    /// The broker is closing its duplicate.
    Closing,
    /// The search with this number must end first.
    Search(u64),
}

impl ClosedListeners {
    /// When [`on_time`] is to be called.
    pub fn due(&self, retained: &Retained) -> Option<Instant> {
        let look = retained.has_given().then(|| self.look_at.max(self.budget.spared_at()));
        let all = [look, self.arm_at, self.check_at(), self.searches.due()];
        all.into_iter().flatten().min()
    }

    /// The time of the next check of a socket in which an arrival waits.
    fn check_at(&self) -> Option<Instant> {
        let next = self.standing.values().map(|standing| standing.check_at).min()?;
        // As urgent as arrivals. Otherwise the arrivals of other sockets would use up the budget
        // for a second, while epoll reports a closed socket to the program.
        Some(next.max(self.budget.allowed_at()))
    }

    /// Polls readable after an arrival in a retained socket.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.watch {
            Watch::On(arrivals) => Some(arrivals.as_fd()),
            _ => None,
        }
    }

    /// Watches a socket that the program listens on, or receives datagrams with.
    pub fn watch(&mut self, socket: BorrowedFd<'_>, inode: u64) {
        if matches!(self.watch, Watch::Unused) {
            self.watch = Arrivals::new().map_or(Watch::Unavailable, Watch::On);
        }
        let Watch::On(arrivals) = &mut self.watch else { return };
        if let Err(errno) = arrivals.add(socket, inode) {
            tracing::debug!(%errno, "a retained socket is not watched");
        }
        let now = Instant::now();
        if self.arm_at.is_none() {
            self.arm(now);
        }
        self.look_soon();
    }

    /// The supervisor is about to end.
    pub fn leave(&mut self) {
        if let Watch::On(arrivals) = std::mem::replace(&mut self.watch, Watch::Unavailable) {
            arrivals.leave();
        }
    }

    /// The program no longer has a socket. To be called before our descriptor is closed.
    pub fn unwatch(&mut self, socket: BorrowedFd<'_>) {
        if let Watch::On(arrivals) = &self.watch {
            arrivals.remove(socket);
        }
    }

    /// Notes that an arrival waits in a socket that the program has.
    fn stands(&mut self, inode: u64, now: Instant) {
        self.standing.entry(inode).or_insert(Standing {
            since: now,
            check_at: now + FIRST_CHECK,
        });
    }

    /// Arms the report of the next arrival, once the budget allows.
    fn arm(&mut self, now: Instant) {
        let allowed_at = self.budget.allowed_at();
        let Watch::On(arrivals) = &mut self.watch else { return };
        self.arm_at = if allowed_at > now {
            Some(allowed_at)
        } else {
            // An arrival between the wake of another poll and this call is reported at once.
            arrivals.arm().err().map(|_| now + LAST_CHECK)
        };
    }

    /// The program is active, so it may close a socket.
    fn look_soon(&mut self) {
        let at = Instant::now() + FIRST_LOOK;
        if self.look_at > at {
            self.look_at = at;
            self.look_after = FIRST_LOOK * 4;
        }
    }

    /// The broker has closed a socket as asked. False if `question` is another question's number.
    pub fn closed(&mut self, question: u64) -> bool {
        self.searches.closed(Some(question));
        self.closing.remove(&question).is_some()
    }

    /// The program was given an address exclusively: no process has the released sockets of that
    /// address.
    pub fn bound_alone(&mut self, endpoint: Endpoint) {
        self.searches.forget(endpoint);
    }

    /// There is no broker. The keeper holds the last broker's sockets open until the next broker
    /// comes, if `next_comes`. Otherwise these sockets are closed.
    pub fn broker_lost(&mut self, next_comes: bool) {
        self.searches.closed(None);
        self.pending_reports
            .extend(self.closing.drain().map(|(_, closed)| closed));
        self.next_comes = next_comes;
    }

    /// True if the next broker is to close sockets of the last broker.
    pub fn awaits_next(&self) -> bool {
        self.next_comes && !self.pending_reports.is_empty()
    }

    /// Whether the broker is still to close a socket there.
    pub fn is_closing(&self, endpoint: Endpoint) -> bool {
        let pending_reports = self.pending_reports.iter().filter(|_| self.next_comes);
        self.closing
            .values()
            .chain(pending_reports)
            .any(|closed| closed.endpoint == endpoint)
    }

    /// Whether the search with this number is over.
    pub fn has_searched(&self, number: u64) -> bool {
        self.searches.is_over(number)
    }

    /// The number of a search that begins from now on.
    pub fn search(&mut self) -> u64 {
        self.searches.ask()
    }

    /// True if a process of the program ran since the last call. The descriptors of a process that
    /// did not run are unchanged, unless another process shares them.
    fn ran(&mut self, retained: &Retained) -> bool {
        let mut tids: Vec<i32> = retained.given().map(|(_, given)| given.place.tid).collect();
        tids.sort_unstable();
        tids.dedup();
        if tids.len() > MAX_CLOCKS {
            return true;
        }
        let clocks: Option<HashMap<i32, Duration>> = tids
            .into_iter()
            .map(|tid| Some((tid, cpu::process_cpu(tid)?)))
            .collect();
        let Some(clocks) = clocks else { return true };
        clocks != std::mem::replace(&mut self.clocks, clocks.clone())
    }
}

/// To be called after an arrival, or when due. True if pending binds may go on.
pub fn on_time(host: &mut Host, now: Instant) -> bool {
    let over = search::on_time(host, now);
    if let Descriptors::Mirrored(mirror) = &mut host.descriptors {
        mirror.tidy(now);
    }
    if host.closed_listeners.arm_at.is_some_and(|at| at <= now) {
        host.closed_listeners.arm(now);
    }
    if host.closed_listeners.check_at().is_some_and(|at| at <= now) {
        check_again(host, now);
    }
    if host
        .closed_listeners
        .look_at
        .max(host.closed_listeners.budget.spared_at())
        <= now
    {
        host.closed_listeners.budget.spend(now, WAKE);
        look(host, now);
    }
    over
}

/// Handles arrivals: releases the sockets that were reported to the program and that the program no
/// longer has.
pub fn check(host: &mut Host) {
    let Watch::On(arrivals) = &mut host.closed_listeners.watch else {
        return;
    };
    let now = Instant::now();
    for inode in arrivals.take() {
        match host.retained.find_given(inode) {
            Some((_, given)) if given.place.may_have(inode) => host.closed_listeners.stands(inode, now),
            Some((endpoint, given)) => told_of(host, endpoint, given),
            None => {}
        }
    }
    host.closed_listeners.searches.hurry();
    host.closed_listeners.budget.spend(now, WAKE);
    if host.closed_listeners.look_at <= now {
        // The budget allowed no separate wake.
        look(host, now);
    }
    host.closed_listeners.look_soon();
    host.closed_listeners.arm(now);
}

/// Checks the sockets in which an arrival waits. Arms the report of a socket again once the arrival
/// was taken.
fn check_again(host: &mut Host, now: Instant) {
    let due = |(inode, standing): (&u64, &Standing)| (standing.check_at <= now).then_some(*inode);
    let inodes: Vec<u64> = host.closed_listeners.standing.iter().filter_map(due).collect();
    for inode in inodes {
        let Some((endpoint, given)) = host.retained.find_given(inode) else {
            host.closed_listeners.standing.remove(&inode);
            continue;
        };
        if !given.place.may_have(inode) {
            host.closed_listeners.standing.remove(&inode);
            told_of(host, endpoint, given);
        } else if host
            .retained
            .by_inode(inode)
            .is_some_and(|socket| socket::is_readable(socket.as_fd()))
        {
            if let Some(standing) = host.closed_listeners.standing.get_mut(&inode) {
                standing.check_at = now + standing.pause(now);
            }
        } else {
            host.closed_listeners.standing.remove(&inode);
            if let (Watch::On(arrivals), Some(socket)) = (&host.closed_listeners.watch, host.retained.by_inode(inode)) {
                let _ = arrivals.again(socket.as_fd(), inode);
            }
        }
    }
    host.closed_listeners.searches.hurry();
    host.closed_listeners.budget.spend(now, WAKE);
    if host.closed_listeners.look_at <= now {
        // The budget may allow no separate wake.
        look(host, now);
    }
}

/// Looks if the program still has its sockets at the known places.
fn look(host: &mut Host, now: Instant) {
    let closed_listeners = &mut host.closed_listeners;
    let ran = closed_listeners.ran(&host.retained);
    if ran {
        closed_listeners.unlooked = usize::MAX;
    }
    let longest = if ran { RUNNING_LOOK } else { LONGEST_LOOK };
    closed_listeners.look_at = now + closed_listeners.look_after.min(longest);
    closed_listeners.look_after = (closed_listeners.look_after * 4).min(LONGEST_LOOK);
    if closed_listeners.unlooked == 0 {
        return;
    }
    let all: Vec<(Endpoint, Given)> = host.retained.given().collect();
    let count = all.len().min(SLICE);
    closed_listeners
        .budget
        .spend(now, PLACE * u32::try_from(count).unwrap_or(u32::MAX));
    let first = if closed_listeners.looked < all.len() {
        closed_listeners.looked
    } else {
        0
    };
    closed_listeners.looked = first + count;
    closed_listeners.unlooked = closed_listeners.unlooked.min(all.len()).saturating_sub(count);
    for (_, given) in all.iter().cycle().skip(first).take(count) {
        if !given.place.may_have(given.inode) {
            search::suspect(host, given, now);
        }
    }
}

/// Handles an arrival in a socket that is not at its known place in the program.
fn told_of(host: &mut Host, endpoint: Endpoint, given: Given) {
    if process::has_no_descriptors(given.place.tid) {
        // Epoll reports nothing to an ending process. The host may end too; then the next boot
        // serves the waiting clients.
        host.closed_listeners.searches.suspect(given.inode);
    } else {
        let_go_in_doubt(host, endpoint, given);
    }
}

/// Releases a socket that is not at its known place in the program. The socket is searched for
/// first if it cannot be taken again, or if the next bind has a use for it.
fn let_go_in_doubt(host: &mut Host, endpoint: Endpoint, given: Given) {
    if given.listened && can_take_again(host) {
        let closing = let_go(host, endpoint, given.inode);
        host.closed_listeners.searches.lost(endpoint, given, closing);
    } else {
        host.closed_listeners.searches.suspect_now(given.inode);
    }
}

/// Whether a socket that was let go, and that the program has elsewhere, can be retained again.
fn can_take_again(host: &Host) -> bool {
    matches!(host.descriptors, Descriptors::Duplicated(_))
}

/// Closes all of imsup's duplicates of a socket. Returns the number of the message to the broker,
/// if there is a broker: the broker's duplicate is open until its reply.
fn let_go(host: &mut Host, endpoint: Endpoint, inode: u64) -> Option<u64> {
    let socket = host.retained.remove(endpoint, inode)?;
    tracing::debug!(%endpoint, inode, "the program has closed a retained socket");
    host.closed_listeners.unwatch(socket.as_fd());
    host.closed_listeners.standing.remove(&inode);
    host.bound.forget(endpoint, inode);
    drop(socket);
    if let Descriptors::Mirrored(mirror) = &mut host.descriptors {
        mirror.give_up(inode);
    }
    if host.retained.given_at(endpoint).is_empty() {
        host.handovers.left(endpoint);
    }
    let id = host.closed_listeners.next_question;
    host.closed_listeners.next_question = id.wrapping_add(1);
    host.link.send(&ToBroker::Closed { id, endpoint, inode }, Vec::new());
    let closed = Closed { endpoint, inode };
    if host.link.socket().is_none() {
        // The message just sent may be the first to find the broker dead, before the loss is noted.
        host.closed_listeners.next_comes = host.link.is_answered();
        if host.closed_listeners.pending_reports.len() == MAX_PENDING_REPORTS {
            host.closed_listeners.pending_reports.remove(0);
        }
        host.closed_listeners.pending_reports.push(closed);
        return None;
    }
    host.closed_listeners.closing.insert(id, closed);
    Some(id)
}

/// Tells the next broker of the sockets that were closed without a broker.
pub fn tell_next_broker(host: &mut Host) {
    for closed in std::mem::take(&mut host.closed_listeners.pending_reports) {
        let Closed { endpoint, inode } = closed;
        let id = host.closed_listeners.next_question;
        host.closed_listeners.next_question = id.wrapping_add(1);
        host.link.send(&ToBroker::Closed { id, endpoint, inode }, Vec::new());
        host.closed_listeners.closing.insert(id, closed);
    }
}

/// To be called before a bind of `endpoint` or a connect: releases the sockets that the program has
/// closed there.
pub fn vet(host: &mut Host, endpoint: Endpoint) -> Vetted {
    let mut doubtful = false;
    for given in host.retained.given_at(endpoint) {
        if !given.place.may_have(given.inode) {
            let_go_in_doubt(host, endpoint, given);
            doubtful |= host.closed_listeners.searches.is_suspect(given.inode);
        }
    }
    if doubtful {
        Vetted::Search(host.closed_listeners.searches.ask())
    } else if host.closed_listeners.is_closing(endpoint) {
        Vetted::Closing
    } else {
        Vetted::Settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_leave_time_to_look_at_sockets_in_which_something_waits() {
        let now = Instant::now();
        let mut closed_listeners = ClosedListeners::default();
        while closed_listeners.budget.allowed_at() <= now {
            closed_listeners.budget.spend(now, WAKE);
        }
        closed_listeners.stands(1, now);
        assert!(closed_listeners.check_at().unwrap() <= now + LAST_CHECK);
    }
}
