//! Sockets that a program has closed while it goes on running.
//!
//! close(2) is not trapped, and imsup's duplicates keep a retained socket open. Then epoll goes on telling the program of a descriptor that it has closed,
//! clients go on queueing, and the port stays bound. So a duplicate is closed as soon as the program is not seen to have the socket any more: at a bind or
//! connect of its address, once something comes to it, and at a look now and then.
//!
//! To close a duplicate (never to shut the socket down) is right also in doubt: if anybody still has the socket, it lives on, and the kernel says so. So what
//! decides is one look at the place where the program had it. A socket that has moved (a parent that ended, dup2(2), SCM_RIGHTS) is searched
//! for, in slices, and retained again.

mod search;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use imsup_wire::{Endpoint, ToBroker};

use crate::host::{Descriptors, Host};
use crate::kernel::arrivals::Arrivals;
use crate::kernel::holders::Search;
use crate::kernel::{cpu, process};
use crate::sockets::{Given, Retained};
use search::Searches;

/// Looks and checks may use a thousandth of a processor.
const SHARE: u32 = 1000;

/// What a check of arrivals costs at most, wake included (measured: 6-9 us).
const CHECK_COST: Duration = Duration::from_micros(10);

/// Checks that may follow each other at once, after a time without.
const BURST: u32 = 10;

/// How long after a check the next one is, while something waits in a socket that the program has: it is about to take it, or to close the socket.
const FIRST_CHECK: Duration = Duration::from_micros(100);
const LAST_CHECK: Duration = Duration::from_millis(160);

/// How often it is looked where the program's sockets are; less often while its processes do not run.
const LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(640);

/// Places looked at in one go.
const SLICE: usize = 64;

/// Processes whose clocks are read to see whether they ran.
const MAX_CLOCKS: usize = 16;

/// Descriptors that a connect to a port of its own host may look at itself.
const MAX_AT_ONCE: usize = 512;

/// Questions to the broker count from here: the numbers of calls begin anywhere, so a clash is as likely as any number.
const FIRST_QUESTION: u64 = 1 << 63;

/// What is told of arrivals.
#[derive(Debug)]
enum Watch {
    /// Nothing was to be watched yet.
    Unused,
    /// The kernel has no more room for it (fs.aio-max-nr), or lacks it: looks alone find what was closed.
    Unavailable,
    On(Arrivals),
}

/// Which of its retained sockets the program still has.
#[derive(Debug)]
pub struct Doors {
    watch: Watch,
    /// When to see whether what has come was taken.
    check_at: Option<Instant>,
    check_after: Duration,
    /// Until when the time for checks is spent.
    spent_until: Instant,
    look_at: Instant,
    look_after: Duration,
    /// Where the last look ended, and how many places were not looked at since a process ran.
    looked: usize,
    unlooked: usize,
    clocks: HashMap<i32, Duration>,
    searches: Searches,
    /// What the broker is to close, and has not said to have closed.
    closing: HashMap<u64, Endpoint>,
    next_question: u64,
}

impl Default for Doors {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            watch: Watch::Unused,
            check_at: None,
            check_after: FIRST_CHECK,
            spent_until: now,
            look_at: now,
            look_after: LOOK,
            looked: 0,
            unlooked: 0,
            clocks: HashMap::new(),
            searches: Searches::new(now),
            closing: HashMap::new(),
            next_question: FIRST_QUESTION,
        }
    }
}

/// What was found of an address before it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vetted {
    /// Whoever has it is the program, or the kernel.
    Settled,
    /// The broker is closing its duplicate.
    Closing,
    /// A search must end first: the one with this number.
    Search(u64),
}

impl Doors {
    /// When [`on_time`] is to be called.
    pub fn due(&self, retained: &Retained) -> Option<Instant> {
        let look = retained.has_given().then_some(self.look_at);
        [look, self.check_at, self.searches.due()].into_iter().flatten().min()
    }

    /// Polls readable when something has come to a retained socket.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.watch {
            Watch::On(arrivals) if self.check_at.is_none() => Some(arrivals.as_fd()),
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
        if self.check_at.is_none() && arrivals.arm().is_err() {
            self.watch = Watch::Unavailable;
        }
        self.look_soon();
    }

    /// A socket is not the program's any more; to be called before its descriptor is closed.
    pub fn unwatch(&mut self, socket: BorrowedFd<'_>) {
        if let Watch::On(arrivals) = &self.watch {
            arrivals.remove(socket);
        }
    }

    /// The program does something, so it may close something.
    fn look_soon(&mut self) {
        self.look_after = LOOK;
        self.look_at = self.look_at.min(Instant::now() + LOOK);
    }

    /// The broker has closed what it was to close; false if this answers another question.
    pub fn closed(&mut self, question: u64) -> bool {
        self.closing.remove(&question).is_some()
    }

    /// There is no broker, which would have anything open.
    pub fn broker_lost(&mut self) {
        self.closing.clear();
    }

    /// Whether the broker is still to close a socket there.
    pub fn is_closing(&self, endpoint: Endpoint) -> bool {
        self.closing.values().any(|closing| *closing == endpoint)
    }

    /// Whether the search with this number is over.
    pub fn has_searched(&self, number: u64) -> bool {
        self.searches.is_over(number)
    }

    /// The number of a search that begins from now on.
    pub fn search(&mut self) -> u64 {
        self.searches.ask()
    }

    /// Whether a process of the program ran since it was last asked. A process that did not run has what it had, unless it shares its descriptors.
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

/// Something has come, or it is time. True if binds that wait may go on.
pub fn on_time(host: &mut Host, now: Instant) -> bool {
    let over = search::on_time(host, now);
    if host.doors.check_at.is_some_and(|at| at <= now) {
        check(host);
    }
    if host.doors.look_at <= now {
        look(host, now);
    }
    over
}

/// Something has come: lets go of sockets that the program was told of and does not have.
pub fn check(host: &mut Host) {
    let Watch::On(arrivals) = &mut host.doors.watch else {
        return;
    };
    let (mut stands, mut unknown) = (false, false);
    for inode in arrivals.take() {
        match host.retained.find_given(inode) {
            Some((_, given)) if given.place.has(inode) => stands = true,
            // A process that has ended is told of nothing, and its host may be about to end.
            Some((_, given)) if process::is_gone(given.place.tid) => host.doors.searches.suspect(inode),
            Some((endpoint, given)) => let_go_in_doubt(host, endpoint, given),
            None => unknown = true,
        }
    }
    if unknown {
        watch_anew(host);
    }
    let doors = &mut host.doors;
    let now = Instant::now();
    doors.spent_until = doors.spent_until.max(now) + CHECK_COST * SHARE;
    let allowed_at = doors.spent_until.checked_sub(CHECK_COST * SHARE * BURST).unwrap_or(now);
    doors.look_soon();
    doors.check_at = match (stands, &mut doors.watch) {
        (true, _) => {
            let after = doors.check_after;
            doors.check_after = (after * 2).min(LAST_CHECK);
            Some(allowed_at.max(now + after))
        }
        (false, _) if allowed_at > now => Some(allowed_at),
        (false, Watch::On(arrivals)) => {
            doors.check_after = FIRST_CHECK;
            match arrivals.arm() {
                Ok(()) => None,
                Err(_) => Some(now + LAST_CHECK),
            }
        }
        (false, _) => None,
    };
}

/// Watches what is retained, and nothing else.
fn watch_anew(host: &mut Host) {
    host.doors.watch = Watch::Unused;
    let sockets = host.retained.listening_sockets();
    for (inode, socket) in sockets {
        host.doors.watch(socket, inode);
    }
}

/// Looks whether the program has its sockets where it had them.
fn look(host: &mut Host, now: Instant) {
    let began = cpu::own_thread();
    if host.doors.ran(&host.retained) {
        host.doors.unlooked = usize::MAX;
        host.doors.look_after = LOOK;
    }
    let mut longest = host.doors.look_after;
    if host.doors.unlooked > 0 {
        let all: Vec<(Endpoint, Given)> = host.retained.given().collect();
        let count = all.len().min(SLICE);
        let first = if host.doors.looked < all.len() {
            host.doors.looked
        } else {
            0
        };
        for (_, given) in all.iter().cycle().skip(first).take(count) {
            if !given.place.has(given.inode) {
                search::suspect(host, given, now);
            }
        }
        host.doors.looked = first + count;
        host.doors.unlooked = host.doors.unlooked.min(all.len()).saturating_sub(count);
    } else {
        host.doors.look_after = (host.doors.look_after * 2).min(LONGEST_LOOK);
        longest = host.doors.look_after;
    }
    let cost = cpu::own_thread().saturating_sub(began) + CHECK_COST / 2;
    host.doors.look_at = now + longest.max(cost * SHARE).min(Duration::from_secs(2));
}

/// Lets go of a socket that the program does not have where it had it. What cannot be taken again, or has a use for the next bind, is searched for first.
fn let_go_in_doubt(host: &mut Host, endpoint: Endpoint, given: Given) {
    if given.listened && can_take_again(host) {
        let_go(host, endpoint, given.inode);
        host.doors.searches.lost(endpoint, given);
    } else {
        host.doors.searches.suspect(given.inode);
    }
}

/// Whether a socket that was let go, and that the program has elsewhere, can be retained again.
fn can_take_again(host: &Host) -> bool {
    matches!(host.descriptors, Descriptors::Duplicated(_))
}

/// Closes all of imsup's duplicates of a socket.
fn let_go(host: &mut Host, endpoint: Endpoint, inode: u64) {
    let Some(socket) = host.retained.remove(endpoint, inode) else {
        return;
    };
    tracing::debug!(%endpoint, inode, "the program has closed a retained socket");
    host.doors.unwatch(socket.as_fd());
    drop(socket);
    if let Descriptors::Copied(copies) = &mut host.descriptors {
        copies.give_up(inode);
    }
    let id = host.doors.next_question;
    host.doors.next_question = id.wrapping_add(1);
    host.link.send(&ToBroker::Closed { id, endpoint, inode }, Vec::new());
    if host.link.socket().is_some() {
        host.doors.closing.insert(id, endpoint);
    }
}

/// Before `endpoint` is bound: lets go of what the program has closed there.
pub fn vet(host: &mut Host, endpoint: Endpoint) -> Vetted {
    let mut doubtful = false;
    for given in host.retained.given_at(endpoint) {
        if !given.place.has(given.inode) {
            let_go_in_doubt(host, endpoint, given);
            doubtful |= host.doors.searches.is_suspect(given.inode);
        }
    }
    if doubtful {
        Vetted::Search(host.doors.searches.ask())
    } else if host.doors.is_closing(endpoint) {
        Vetted::Closing
    } else {
        Vetted::Settled
    }
}

/// Whether nobody listens at an endpoint of this host, whatever imsup still has open: a connect is refused there, even if it was a moment ago that the
/// program closed its listener. If that takes too long to find out, the kernel answers the connect.
pub fn is_closed(host: &mut Host, endpoint: Endpoint) -> bool {
    let all = host.retained.given_at(endpoint);
    if all.is_empty() {
        return host.doors.is_closing(endpoint);
    }
    if all.iter().any(|given| given.place.has(given.inode)) {
        return false;
    }
    let mut search = Search::new(all.iter().map(|given| given.inode));
    if !search.step(MAX_AT_ONCE) || (search.is_hidden_from() && !can_take_again(host)) {
        return false;
    }
    let mut closed = true;
    for given in all {
        if let Some(place) = search.place(given.inode) {
            host.retained.moved(given.inode, place);
            closed = false;
        } else if given.listened {
            let_go(host, endpoint, given.inode);
            host.doors.searches.lost(endpoint, given);
        }
    }
    closed
}
