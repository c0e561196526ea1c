//! Sleep: a host whose processes are all idle is held, and its supervisor waits in its place.
//!
//! The host is looked at now and then ([`idle`], [`meter`]). Once it has been idle for long enough it is held ([`tree`]), every thread's
//! call is read ([`calls`], [`plan`]), what they wait for is duplicated ([`waitset`]), and if nothing of it is ready, the host sleeps.
//! Whatever becomes ready wakes it; a deadline ([`deadlines`]) lets it run for a moment: a tick.

mod asleep;
mod awake;
mod backlog;
mod beginnings;
mod calls;
mod children;
mod connections;
mod correct;
mod deadlines;
mod hold;
mod idle;
mod meter;
mod own_times;
mod plan;
mod rhythm;
mod runtimes;
mod taking;
mod terminate;
mod tick;
mod transfer;
mod tree;
mod waitset;
mod why;
mod words;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_protocol::message::Role;
use imsup_wire::{Awaited, Awake, CauseKind, Order, Report, SleepPolicy, Usage, WakeCause};

use self::asleep::Asleep;
use self::awake::Trouble;
use self::backlog::Backlogs;
use self::children::Children;
use self::connections::Connections;
use self::correct::Correction;
use self::deadlines::{CallKey, Interrupted};
use self::hold::NotNow;
use self::idle::{Idleness, Traffic};
use self::meter::Meter;
use self::own_times::OwnTimes;
use self::rhythm::{Constants, Rhythms};
use self::tick::Tick;
pub use self::tree::Tree;
use self::words::PrivateWords;
use crate::host::Host;
use crate::incoming::Seen;
use imsup_linux::traffic::Connection;
use imsup_linux::{descriptors, process};

/// How long an order to suspend is tried.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);

/// How long after a wake everything else is done: the report, who it was, the first look. The answer to the client goes first, and
/// the supervisor that goes on working may stand in its way: they are on one processor, mostly.
const AFTERWARDS: Duration = Duration::from_millis(10);

/// The descriptors of hosts with more than this are not looked through at each tick, nor more connections than this asked.
const MANY_DESCRIPTORS: u64 = 512;

/// What the receive loop knows that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Trapped calls that wait for something elsewhere.
    pub held_calls: usize,
    /// A trapped accept(2) waits, for some milliseconds at most ([`crate::handover`]): its thread cannot be stopped meanwhile.
    pub handing_over: bool,
    /// The program is being ended.
    pub stopping: bool,
}

#[derive(Debug)]
enum Phase {
    Awake,
    Asleep(Box<Asleep>),
    Ticking(Box<Tick>),
}

/// The sleep of one host.
#[derive(Debug)]
pub struct Sleep {
    /// `None` for a command of `imsup exec`, which never sleeps.
    policy: Option<SleepPolicy>,
    commands: u32,
    /// The callers of a port that the program has not opened yet.
    awaited: Awaited,
    lease_until: Option<Instant>,
    tree: Tree,
    phase: Phase,
    idle: Idleness,
    connections: Connections,
    /// A socket of it has been connected since its connections were last searched for.
    search_again: bool,
    children: Children,
    own_times: OwnTimes,
    /// When it ran last where it was not known whether by itself.
    ran_unasked: Option<Instant>,
    meter: Meter,
    next_look: Instant,
    /// Not suspended before, after it could not be.
    trouble: Option<Trouble>,
    interrupted: Interrupted,
    /// Calls without a limit, as far as that was seen when the host was held last, by thread.
    unlimited: HashMap<i32, CallKey>,
    /// Calls of open(2) that wait, by thread, and since when.
    opening: Vec<((i32, CallKey), Instant)>,
    /// Which deadlines come again and again.
    rhythms: Rhythms,
    constants: Constants,
    /// Since when the host has been let run.
    ran_from: Instant,
    backlogs: Backlogs,
    /// Orders to suspend that wait for the host to be quiet: their numbers, and until when.
    orders: Vec<(u64, Instant)>,
    /// Its program is to be told to end.
    ending: bool,
    /// It is being terminated, after it had slept this long: successors have taken the place of what the program listens on.
    terminated: Option<Duration>,
    /// When to tell the broker of a wake, and of which kind it was where it is to be found out whose data it was.
    afterwards: Option<(Instant, Option<CauseKind>)>,
    /// Calls that were made to go on and are to be told when their time is over.
    corrections: Vec<Correction>,
    private_words: PrivateWords,
}

impl Sleep {
    /// The sleep of a host whose program was just executed in `tree`.
    pub fn new(policy: Option<SleepPolicy>, awake: Awake, tree: Tree) -> Self {
        let now = Instant::now();
        let mut sleep = Self {
            policy,
            commands: 0,
            awaited: Awaited::Nobody,
            lease_until: None,
            tree,
            phase: Phase::Awake,
            idle: Idleness::new(now),
            connections: Connections::default(),
            search_again: false,
            children: Children::default(),
            own_times: OwnTimes::default(),
            ran_unasked: None,
            meter: Meter::new(now),
            next_look: now,
            trouble: None,
            interrupted: Interrupted::default(),
            unlimited: HashMap::new(),
            opening: Vec::new(),
            rhythms: Rhythms::default(),
            constants: Constants::default(),
            ran_from: now,
            backlogs: Backlogs::default(),
            orders: Vec::new(),
            ending: false,
            terminated: None,
            afterwards: None,
            corrections: Vec::new(),
            private_words: PrivateWords::default(),
        };
        sleep.keep_awake(awake);
        sleep
    }

    /// What a new broker says.
    pub fn set_policy(&mut self, policy: Option<SleepPolicy>, awake: Awake) {
        if self.policy.is_some() {
            self.policy = policy;
        }
        self.keep_awake(awake);
    }

    /// What keeps the host awake from now on.
    pub fn keep_awake(&mut self, awake: Awake) {
        let now = Instant::now();
        self.commands = awake.commands;
        self.lease_until = awake.lease.and_then(|lease| now.checked_add(lease));
        self.set_awaited(awake.awaited, now);
    }

    fn set_awaited(&mut self, awaited: Awaited, now: Instant) {
        self.awaited = awaited;
        let was_in_the_way = |trouble: &Trouble| matches!(trouble.what, NotNow::Awaited);
        if awaited == Awaited::Nobody && self.trouble.as_ref().is_some_and(was_in_the_way) {
            self.trouble = None;
        }
        self.next_look = self.next_look.min(now);
    }

    /// Whether somebody waits for a port that the program has not opened yet.
    pub fn is_awaited(&self) -> bool {
        self.awaited != Awaited::Nobody
    }

    /// What becomes readable when the host is to be woken.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Asleep(asleep) if asleep.pledged.is_none() => Some(asleep.set.as_fd()),
            Phase::Asleep(_) | Phase::Awake | Phase::Ticking(_) => None,
        }
    }

    /// When [`Sleep::on_time`] is due.
    pub fn due(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Asleep(asleep) => asleep.due(),
            Phase::Ticking(tick) => Some(tick.next_check),
            Phase::Awake => self.look_at(),
        };
        [
            phase,
            self.backlogs.due(),
            self.afterwards.map(|(at, _)| at),
            self.corrections.iter().map(|correction| correction.at).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what it is time for.
    pub fn on_time(&mut self, host: &mut Host, circumstances: &Circumstances) {
        let now = Instant::now();
        if let Some((at, nameless)) = self.afterwards
            && at <= now
        {
            self.afterwards = None;
            self.tree.rest();
            match nameless {
                Some(kind) => self.name_waker(host, kind),
                None => host.link.send_deferred(),
            }
        }
        if self.corrections.iter().any(|correction| correction.at <= now) {
            self.correct();
        }
        match &self.phase {
            Phase::Awake => {
                self.backlogs.narrow(&host.retained, now);
                if self.look_at().is_some_and(|at| at <= now) {
                    self.look(host, circumstances, now);
                }
            }
            Phase::Asleep(asleep) => {
                if asleep.due().is_some_and(|at| at <= now) {
                    self.asleep_on_time(host, now);
                }
            }
            Phase::Ticking(tick) => {
                if tick.next_check <= now {
                    self.check_tick(host, circumstances, now);
                }
            }
        }
    }

    /// Does what the broker asks for, and answers it.
    pub fn ask(&mut self, host: &mut Host, circumstances: &Circumstances, id: u64, order: Order) {
        let report = match order {
            Order::Suspend => match &self.phase {
                Phase::Asleep(_) | Phase::Ticking(_) => Report::Done,
                Phase::Awake => {
                    let now = Instant::now();
                    self.orders.push((id, now + ORDER_PATIENCE));
                    self.trouble = None;
                    self.next_look = now;
                    self.on_time(host, circumstances);
                    return;
                }
            },
            Order::Resume => {
                self.wake_for(host, CauseKind::Wake);
                Report::Done
            }
            Order::Why => Report::Why(self.why(host, circumstances)),
            Order::Usage => Report::Usage(self.usage()),
            Order::Pledge => self.pledge(host),
            Order::Fulfil => self.fulfil(host),
            Order::Release => {
                self.give_back_pledged(host);
                Report::Done
            }
        };
        host.link.send(&ToBroker::Answer { id, report }, Vec::new());
    }

    /// Wakes the host, where it sleeps, for a reason that is not in its wait set.
    pub fn wake_for(&mut self, host: &mut Host, kind: CauseKind) {
        let cause = WakeCause {
            kind,
            by: None,
            port: None,
        };
        self.wake(host, Instant::now(), cause, false);
    }

    /// The broker is gone: nobody says any more what becomes of a promise or who waits, and the next one has heard of nothing.
    pub fn broker_lost(&mut self, host: &mut Host) {
        self.give_back_pledged(host);
        self.set_awaited(Awaited::Nobody, Instant::now());
        self.try_to_terminate_again();
    }

    /// Lets a sleeper run without a word: its end has begun, and the broker knows.
    pub fn let_end(&mut self, host: &mut Host) {
        self.give_back_pledged(host);
        self.let_run();
    }

    fn let_run(&mut self) {
        if matches!(self.phase, Phase::Asleep(_)) {
            // The duplicates first, or they would delay a FIN.
            self.phase = Phase::Awake;
            self.tree.release();
        }
        self.phase = Phase::Awake;
        self.idle.restart(Instant::now());
    }

    /// Whether it has just been woken, and runs before everything else.
    pub fn is_waking(&self) -> bool {
        self.afterwards.is_some()
    }

    /// Whether threads of it are traced, though it runs.
    pub fn traces(&mut self) -> bool {
        self.tree.carries().is_some()
    }

    /// What the host has used.
    pub fn usage(&self) -> Usage {
        self.meter.usage(Instant::now(), &self.tree)
    }

    /// Since when the host sleeps, by the wall clock as it is set now: microseconds since the Unix epoch.
    pub fn suspended_us(&self) -> Option<u64> {
        match &self.phase {
            Phase::Asleep(asleep) => Some(asleep.began.wall_us()),
            Phase::Ticking(tick) => Some(tick.asleep.began.wall_us()),
            Phase::Awake => None,
        }
    }

    /// Its next deadline: microseconds since the Unix epoch.
    pub fn deadline_us(&self) -> Option<u64> {
        match &self.phase {
            Phase::Asleep(asleep) => asleep.deadline_us(),
            Phase::Ticking(_) | Phase::Awake => None,
        }
    }

    /// Ends: lets everything run that is left, to be ended. The account is what was used until now.
    pub fn finish(mut self) -> (Usage, Tree) {
        self.let_run();
        let pids = self.tree.processes();
        self.meter.sample(Instant::now(), &pids);
        (self.usage(), self.tree)
    }

    /// The connections of the host with others, as far as they are known; `None` where they cannot be read.
    fn connections(&self) -> Option<Vec<Connection>> {
        match self.connections.read() {
            Ok(connections) => Some(connections),
            Err(error) => {
                tracing::warn!(%error, "the connections of a host cannot be read");
                None
            }
        }
    }

    /// Notes what was seen, which is told once: its connections may be searched for much later.
    fn note_seen(&mut self, seen: Seen) {
        self.search_again |= seen.went || seen.own;
    }

    /// What has moved so far on the connections of a host that runs.
    fn traffic(&mut self, host: &Host, pids: &[i32]) -> Option<Traffic> {
        if !self.note_connections(host, pids, self.search_again) {
            return None;
        }
        self.search_again = false;
        self.connections().map(|connections| traffic_of(&connections))
    }

    /// Searches for the connections of a host that runs and that are not known yet, also among sockets that were none, if any has `connected` since.
    fn note_connections(&mut self, host: &Host, pids: &[i32], connected: bool) -> bool {
        let listeners: Vec<u64> = host.retained.listening_by_inode().map(|(inode, _)| inode).collect();
        let noted = self
            .connections
            .note(pids, planes(host), &self.tree.cgroups(), &listeners, connected);
        if let Err(error) = &noted {
            tracing::warn!(%error, "the connections of a host cannot be searched for");
        }
        noted.is_ok()
    }

    /// What bytes have moved so far on the connections of a host that is held, as a number to compare; `None` where there are too many to be asked at
    /// each tick.
    fn held_bytes(&mut self, host: &Host, pids: &[i32]) -> Option<u64> {
        let count: u64 = pids.iter().map(|pid| descriptors::count(*pid)).sum();
        if count <= MANY_DESCRIPTORS {
            let listeners: Vec<u64> = host.retained.listening_by_inode().map(|(inode, _)| inode).collect();
            self.connections.note_held(pids, &listeners, &self.tree.duplicates());
        }
        let few = u64::try_from(self.connections.count()).is_ok_and(|count| count <= MANY_DESCRIPTORS);
        let connections = few.then(|| self.connections())?;
        connections.map(|connections| fingerprint(&connections))
    }
}

fn traffic_of(connections: &[Connection]) -> Traffic {
    let heard = connections.iter().map(|connection| connection.last_heard);
    Traffic {
        fingerprint: fingerprint(connections),
        count: connections.len(),
        heard: heard.min().unwrap_or_default(),
    }
}

/// A number that changes when bytes move on any of the connections, or one comes or goes. Of each it is a hash that is added: sums of bytes
/// would not tell one connection from the next that carried as many.
fn fingerprint(connections: &[Connection]) -> u64 {
    connections.iter().fold(0, |sum: u64, connection| {
        let mut hasher = DefaultHasher::new();
        (connection.local, connection.peer, connection.bytes).hash(&mut hasher);
        sum.wrapping_add(hasher.finish())
    })
}

/// The host's addresses in all planes.
fn planes(host: &Host) -> [Ipv4Addr; 3] {
    let identity = &host.identity;
    [identity.vip(), identity.localhost(), identity.v6_shadow()]
}

/// Whether this role's programs sleep: a command of `imsup exec` keeps its host awake instead.
pub fn sleeps(role: &Role) -> bool {
    *role != Role::Exec
}

/// A process as people know it: name and number.
fn named(pid: i32) -> String {
    match process::name(pid) {
        Some(name) => format!("{name} {pid}"),
        None => format!("process {pid}"),
    }
}
