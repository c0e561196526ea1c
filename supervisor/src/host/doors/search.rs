//! The search for sockets that are not where the program had them.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::budget::Budget;
use super::{can_take_again, let_go};
use crate::host::{Host, bound};
use crate::sockets::Given;
use imsup_linux::holders::{Place, Search};
use imsup_linux::{cpu, pidfd, process, socket, task};

/// Descriptors looked at in one go (measured: 1.7 us each): a trapped call waits no longer than that.
const SLICE: usize = 64;

/// How long after a search the next one is, for what was let go and not found: descriptors may be under way between processes.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// For how long what an ended process had is kept. If the host ends within that time, its next boot serves who waits there.
const GRACE: Duration = Duration::from_secs(1);

/// A socket that was let go, and that somebody may still have.
#[derive(Debug)]
struct Lost {
    endpoint: Endpoint,
    given: Given,
    /// The broker's duplicate, while that is not closed.
    closing: Option<u64>,
    /// Whether its address is in use although imsup has nothing open there.
    in_use: bool,
    searched: usize,
    search_at: Instant,
}

impl Lost {
    fn is_to_be_tried(&self) -> bool {
        self.closing.is_none() && !self.in_use
    }
}

/// The search that is under way, and what is to be searched for.
#[derive(Debug)]
pub(super) struct Searches {
    running: Option<Search>,
    /// A time that is over: what is due at once.
    past: Instant,
    cost: Duration,
    begun: u64,
    over: u64,
    /// Whether a call waits for the next.
    asked: bool,
    /// Retained sockets that are not where they were, and when to search for them.
    suspects: HashMap<u64, Instant>,
    /// Those among them whose process has ended, and whose host was given time to end too.
    graced: HashSet<u64>,
    lost: Vec<Lost>,
    budget: Budget,
    /// Whether the last one could not look everywhere.
    was_hidden: bool,
}

impl Searches {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            running: None,
            past: now,
            cost: Duration::ZERO,
            begun: 0,
            over: 0,
            asked: false,
            suspects: HashMap::new(),
            graced: HashSet::new(),
            lost: Vec::new(),
            budget: Budget::new(now),
            was_hidden: false,
        }
    }

    /// When [`on_time`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.running.is_some() || self.asked {
            return Some(self.past);
        }
        if self.lost.iter().any(Lost::is_to_be_tried) {
            return Some(self.past);
        }
        let lost = self.lost.iter().filter(|lost| lost.in_use).map(|lost| lost.search_at);
        let next = self.suspects.values().copied().chain(lost).min()?;
        Some(next.max(self.budget.allowed_at()))
    }

    /// A socket is not where it was.
    pub(super) fn suspect(&mut self, inode: u64) {
        self.suspects.entry(inode).or_insert_with(Instant::now);
    }

    /// The same, and it is let go if it is not found: the kernel will be asked for its address.
    pub(super) fn suspect_now(&mut self, inode: u64) {
        self.suspects.insert(inode, Instant::now());
        self.graced.insert(inode);
    }

    pub(super) fn is_suspect(&self, inode: u64) -> bool {
        self.suspects.contains_key(&inode)
    }

    fn is_due(&self, now: Instant) -> bool {
        let lost = self.lost.iter().filter(|lost| lost.in_use).map(|lost| lost.search_at);
        let mut all = self.suspects.values().copied().chain(lost);
        self.budget.allowed_at() <= now && all.any(|at| at <= now)
    }

    /// A socket was let go in doubt; `closing` is what the broker was told of it.
    pub(super) fn lost(&mut self, endpoint: Endpoint, given: Given, closing: Option<u64>) {
        self.suspects.remove(&given.inode);
        self.lost.push(Lost {
            endpoint,
            given,
            closing,
            in_use: false,
            searched: 0,
            search_at: Instant::now(),
        });
    }

    /// The broker has closed a duplicate; all of them, if it is gone.
    pub(super) fn closed(&mut self, question: Option<u64>) {
        for lost in &mut self.lost {
            lost.closing
                .take_if(|closing| question.is_none_or(|question| question == *closing));
        }
    }

    /// The program was given an address for itself alone, so nobody had any of these sockets.
    pub(super) fn forget(&mut self, endpoint: Endpoint) {
        self.lost.retain(|lost| lost.endpoint != endpoint);
    }

    /// Asks the kernel whether anybody has what was let go: if its address can be bound, nobody has.
    fn try_lost(&mut self) {
        let mut left = SLICE / 4;
        self.lost.retain_mut(|lost| {
            if left == 0 || !lost.is_to_be_tried() {
                return true;
            }
            left -= 1;
            lost.in_use = socket::probe(lost.endpoint).is_err();
            lost.in_use
        });
    }

    /// The program is told of something that it may have closed: what is suspect is searched for now, unless that is known to be of no use.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        self.asked |= !self.was_hidden && self.suspects.values().any(|at| *at <= now);
    }

    /// Asks for a search that begins from now on, and says its number.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked = true;
        self.begun + 1
    }

    pub(super) fn is_over(&self, number: u64) -> bool {
        self.over >= number
    }

    fn is_idle(&self) -> bool {
        self.suspects.is_empty() && self.lost.is_empty()
    }

    fn begin(&mut self) {
        self.asked = false;
        self.begun += 1;
        self.cost = Duration::ZERO;
        let lost = self.lost.iter().map(|lost| lost.given.inode);
        self.running = Some(Search::new(self.suspects.keys().copied().chain(lost)));
    }
}

/// A look found a socket not where it was. What can be taken again is let go at once: to ask the kernel whether anybody has it is cheaper than to search.
pub(super) fn suspect(host: &mut Host, given: &Given, now: Instant) {
    host.doors.searches.suspect(given.inode);
    let mut ended = Ended::default();
    if can_take_again(host) && given.listened && !ended.has(given.place.tid) {
        part(host, given.inode, None, &mut ended, now);
    }
}

/// Goes on with the search; begins one if it is time. True if one is over.
pub(super) fn on_time(host: &mut Host, now: Instant) -> bool {
    let searches = &mut host.doors.searches;
    searches.try_lost();
    if searches.running.is_none() {
        if !searches.asked && !searches.is_due(now) {
            return false;
        }
        searches.begin();
    }
    if searches.is_idle() {
        // What it was for has been found out otherwise.
        searches.running = None;
        searches.over = searches.begun;
        return true;
    }
    let began = cpu::own_thread();
    let is_over = searches.running.as_mut().is_some_and(|search| search.step(SLICE));
    searches.cost += cpu::own_thread().saturating_sub(began);
    if !is_over {
        return false;
    }
    searches.budget.spend(now, searches.cost);
    searches.over = searches.begun;
    if let Some(search) = searches.running.take() {
        searches.was_hidden = search.is_hidden_from();
        finish(host, &search, now);
    }
    true
}

/// Draws the consequences of a search.
fn finish(host: &mut Host, search: &Search, now: Instant) {
    let suspects: Vec<u64> = host.doors.searches.suspects.keys().copied().collect();
    let mut ended = Ended::default();
    for inode in suspects {
        let place = search.place(inode);
        if place.is_some() || !search.is_hidden_from() || can_take_again(host) {
            part(host, inode, place, &mut ended, now);
        } else {
            // A process that may not be looked into counts as having what nobody else has.
            host.doors.searches.suspects.remove(&inode);
        }
    }
    for mut lost in std::mem::take(&mut host.doors.searches.lost) {
        if let Some(place) = search.place(lost.given.inode) {
            take_again(host, &lost, place);
        } else if lost.search_at > now || lost.searched < AGAIN.len() {
            if lost.search_at <= now {
                lost.search_at = now + AGAIN[lost.searched];
                lost.searched += 1;
            }
            host.doors.searches.lost.push(lost);
        }
    }
}

/// Which processes have ended, each asked once.
#[derive(Default)]
struct Ended(HashMap<i32, bool>);

impl Ended {
    fn has(&mut self, pid: i32) -> bool {
        *self.0.entry(pid).or_insert_with(|| process::has_no_descriptors(pid))
    }
}

/// Decides of a socket that is not where it was: it was found elsewhere, or is let go.
fn part(host: &mut Host, inode: u64, place: Option<Place>, ended: &mut Ended, now: Instant) {
    let Some((endpoint, given)) = host.retained.find_given(inode) else {
        host.doors.searches.suspects.remove(&inode);
        return;
    };
    if place.is_none()
        && given.listened
        && ended.has(given.place.tid)
        && let Some(at) = host.doors.searches.suspects.get_mut(&inode)
        && !host.doors.searches.graced.contains(&inode)
    {
        *at = now + GRACE;
        host.doors.searches.graced.insert(inode);
        return;
    }
    host.doors.searches.suspects.remove(&inode);
    host.doors.searches.graced.remove(&inode);
    match place {
        Some(place) => host.retained.moved(inode, place),
        // It only tried whether it could bind: natively there was no queue that it closed.
        None if !given.listened => host.retained.wait_again(inode),
        None => {
            let closing = let_go(host, endpoint, inode);
            if can_take_again(host) {
                host.doors.searches.lost(endpoint, given, closing);
            }
        }
    }
}

/// Retains a socket again that was let go and that the program has elsewhere.
fn take_again(host: &mut Host, lost: &Lost, place: Place) {
    let (endpoint, given) = (lost.endpoint, lost.given);
    if endpoint.transport == Transport::Udp && host.retained.has_another(endpoint, given.inode) {
        return;
    }
    match duplicates(place, given.inode) {
        Ok((ours, brokers)) => {
            host.doors.watch(ours.as_fd(), given.inode);
            let asked = socket::cookie(ours.as_fd())
                .ok()
                .and_then(|cookie| host.sockets.get(cookie).bound);
            if let Some(asked) = asked {
                bound::note(host, ours.as_fd(), endpoint.transport, asked.ip());
            }
            if host
                .retained
                .add_listening(endpoint, ours, given.inode, given.backlog, place)
            {
                host.link.send(&ToBroker::Listening { endpoint }, vec![brokers]);
            }
        }
        Err(errno) => tracing::debug!(%endpoint, %errno, "a socket that has moved is not retained again"),
    }
}

fn duplicates(place: Place, inode: u64) -> Result<(OwnedFd, OwnedFd), Errno> {
    let ours = pidfd::duplicate_from(&task::open_thread(place.tid)?, place.number)?;
    if socket::inode(ours.as_fd())? != inode {
        return Err(Errno::EBADF);
    }
    let brokers = socket::duplicate(&ours)?;
    Ok((ours, brokers))
}
