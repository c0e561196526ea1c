//! The search for sockets that are not at their known places in the program.

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

/// Descriptors per slice (measured: 1.7 us each): a slice delays a trapped call by no more than
/// this.
const SLICE: usize = 64;

/// The delays before the next searches for a released socket that was not found: descriptors may be
/// on the way between processes.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// The time for which the sockets of an ended process are kept. If the host ends within that time,
/// its next boot serves the waiting clients.
const GRACE: Duration = Duration::from_secs(1);

/// A released socket that a process may still have.
#[derive(Debug)]
struct Lost {
    endpoint: Endpoint,
    given: Given,
    /// The broker's duplicate, while that is not closed.
    closing: Option<u64>,
    /// True if the socket's address is in use although imsup has no socket open there.
    in_use: bool,
    searched: usize,
    search_at: Instant,
}

impl Lost {
    fn is_to_be_tried(&self) -> bool {
        self.closing.is_none() && !self.in_use
    }
}

/// The running search, and the sockets to search for.
#[derive(Debug)]
pub(super) struct Searches {
    running: Option<Search>,
    /// A time in the past, for actions due at once.
    past: Instant,
    cost: Duration,
    begun: u64,
    over: u64,
    /// Whether a call waits for the next.
    asked: bool,
    /// Retained sockets that are not at their known places, with the time of the search.
    suspects: HashMap<u64, Instant>,
    /// The suspects of an ended process that were given time for the end of the host.
    graced: HashSet<u64>,
    lost: Vec<Lost>,
    budget: Budget,
    /// True if the last search could not look everywhere.
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

    /// Notes that a socket is not at its known place.
    pub(super) fn suspect(&mut self, inode: u64) {
        self.suspects.entry(inode).or_insert_with(Instant::now);
    }

    /// The same without grace: a socket that is not found is released, and the kernel is asked
    /// about its address.
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

    /// A socket was released in doubt. `closing` is the number of the message to the broker.
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

    /// The broker has closed a duplicate; `None` if the broker is gone, and with it all duplicates.
    pub(super) fn closed(&mut self, question: Option<u64>) {
        for lost in &mut self.lost {
            lost.closing
                .take_if(|closing| question.is_none_or(|question| question == *closing));
        }
    }

    /// The program was given an address exclusively, so no process had any of these sockets.
    pub(super) fn forget(&mut self, endpoint: Endpoint) {
        self.lost.retain(|lost| lost.endpoint != endpoint);
    }

    /// Asks the kernel if any process has the released sockets. A bind that succeeds at the address
    /// proves that no process has the socket.
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

    /// Epoll reports a socket to the program that the program may have closed. Suspects are
    /// searched for now, unless such a search is known to be useless.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        self.asked |= !self.was_hidden && self.suspects.values().any(|at| *at <= now);
    }

    /// Requests a search that begins from now on, and returns the search's number.
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

/// A look found that a socket is not at its known place. A socket that can be taken again is
/// released at once: a probe of the kernel is cheaper than a search.
pub(super) fn suspect(host: &mut Host, given: &Given, now: Instant) {
    host.closed_listeners.searches.suspect(given.inode);
    let mut ended = Ended::default();
    if can_take_again(host) && given.listened && !ended.has(given.place.tid) {
        part(host, given.inode, None, &mut ended, now);
    }
}

/// Continues the search, or begins a search if due. True if a search is over.
pub(super) fn on_time(host: &mut Host, now: Instant) -> bool {
    let searches = &mut host.closed_listeners.searches;
    searches.try_lost();
    if searches.running.is_none() {
        if !searches.asked && !searches.is_due(now) {
            return false;
        }
        searches.begin();
    }
    if searches.is_idle() {
        // The question of the search has been answered by other means.
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
    let suspects: Vec<u64> = host.closed_listeners.searches.suspects.keys().copied().collect();
    let mut ended = Ended::default();
    for inode in suspects {
        let place = search.place(inode);
        if place.is_some() || !search.is_hidden_from() || can_take_again(host) {
            part(host, inode, place, &mut ended, now);
        } else {
            // An uninspectable process counts as the holder of sockets that no other process has.
            host.closed_listeners.searches.suspects.remove(&inode);
        }
    }
    for mut lost in std::mem::take(&mut host.closed_listeners.searches.lost) {
        if let Some(place) = search.place(lost.given.inode) {
            take_again(host, &lost, place);
        } else if lost.search_at > now || lost.searched < AGAIN.len() {
            if lost.search_at <= now {
                lost.search_at = now + AGAIN[lost.searched];
                lost.searched += 1;
            }
            host.closed_listeners.searches.lost.push(lost);
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

/// Decides about a socket that is not at its known place: it is moved to the place found, or
/// released.
fn part(host: &mut Host, inode: u64, place: Option<Place>, ended: &mut Ended, now: Instant) {
    let Some((endpoint, given)) = host.retained.find_given(inode) else {
        host.closed_listeners.searches.suspects.remove(&inode);
        return;
    };
    if place.is_none()
        && given.listened
        && ended.has(given.place.tid)
        && let Some(at) = host.closed_listeners.searches.suspects.get_mut(&inode)
        && !host.closed_listeners.searches.graced.contains(&inode)
    {
        *at = now + GRACE;
        host.closed_listeners.searches.graced.insert(inode);
        return;
    }
    host.closed_listeners.searches.suspects.remove(&inode);
    host.closed_listeners.searches.graced.remove(&inode);
    match place {
        Some(place) => host.retained.moved(inode, place),
        // The program only tried the bind: natively no queue was closed.
        None if !given.listened => host.retained.wait_again(inode),
        None => {
            let closing = let_go(host, endpoint, inode);
            if can_take_again(host) {
                host.closed_listeners.searches.lost(endpoint, given, closing);
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
            host.closed_listeners.watch(ours.as_fd(), given.inode);
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
