//! Sleep: a host whose processes are all idle is held, and the supervisor waits in place of the
//! host.
//!
//! The host is looked at now and then ([`idle`], [`meter`]). After a long enough idle time the host
//! is held ([`tree`]), every thread's call is read ([`calls`], [`plan`]), and the awaited
//! descriptors are duplicated ([`waitset`]). The host sleeps if no descriptor is ready. Any
//! descriptor that becomes ready wakes the host. A deadline ([`deadlines`]) lets the host run for a
//! moment: a tick.

mod arguments;
mod backlog;
mod beginnings;
mod calls;
mod children;
mod connections;
mod correct;
mod deadlines;
mod frozen;
mod hold;
mod idle;
mod meter;
mod own_times;
mod phase;
mod plan;
mod rhythm;
mod runtimes;
mod taking;
mod traffic;
mod transfer;
mod tree;
mod wait;
mod waitset;
mod words;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_protocol::message::Role;
use imsup_wire::{Awaited, CauseKind, ErrorKind, Order, Report, SleepPolicy, Usage, WakeCause, Why};

use self::backlog::Backlogs;
use self::children::Children;
use self::connections::Connections;
use self::deadlines::{CallKey, Interrupted};
use self::idle::{Activity, Idleness};
use self::meter::Meter;
use self::own_times::OwnTimes;
use self::phase::{Asleep, Awake, Phase};
use self::rhythm::{Constants, Rhythms};
pub use self::tree::ProcessTree;
use self::words::PrivateWords;
use crate::host::Host;
use imsup_linux::process;
use nix::sys::signal::Signal;

/// How long an order to suspend is tried.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// The delay of all other work after a wake: the report, the origin of the wake, the first look.
/// The answer to the client goes first. A supervisor that goes on working may delay the answer,
/// since host and supervisor mostly share a processor.
const AFTERWARDS: Duration = Duration::from_millis(10);

/// The descriptors of hosts with more than this are not looked through at each tick, nor more
/// connections than this asked.
const MANY_DESCRIPTORS: u64 = 512;

/// So many descriptors are looked at without a thought.
const FEW_DESCRIPTORS: usize = 64;

/// The state of the receive loop that matters for the sleep.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Pending trapped calls that wait for an event elsewhere.
    pub pending_calls: usize,
    /// A trapped accept(2) is pending, for some milliseconds at most ([`crate::handover`]). The
    /// thread of the call cannot be stopped meanwhile.
    pub handing_over: bool,
    /// The program is being ended.
    pub stopping: bool,
}

/// The sleep of one host.
#[derive(Debug)]
pub struct Sleep {
    sleeper: Sleeper,
    phase: Phase,
}

/// What is known of a host in each phase.
#[derive(Debug)]
struct Sleeper {
    /// `None` for a command of `imsup exec`, which never sleeps.
    policy: Option<SleepPolicy>,
    commands: u32,
    /// Who waits for a port that the program has not opened yet.
    awaited: Awaited,
    lease_until: Option<Instant>,
    tree: ProcessTree,
    idle: Idleness,
    connections: Connections,
    /// True if a socket of the host has been connected since the last search for connections.
    search_again: bool,
    children: Children,
    own_times: OwnTimes,
    /// When it ran last if it was not known whether by itself.
    ran_unasked: Option<Instant>,
    meter: Meter,
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
    /// True if the program is to be told to end.
    ending: bool,
    /// Set if the host is being terminated: the time slept before. Successors have taken over the
    /// program's listeners.
    terminated: Option<Duration>,
    /// When to tell the broker of a wake, and of which kind it was if it is to be found out whose
    /// data it was.
    afterwards: Option<(Instant, Option<CauseKind>)>,
    private_words: PrivateWords,
}

impl Sleep {
    /// The sleep of a host whose program was just executed in `tree`.
    pub fn new(policy: Option<SleepPolicy>, awake: imsup_wire::Awake, tree: ProcessTree) -> Self {
        let now = Instant::now();
        let sleeper = Sleeper {
            policy,
            commands: 0,
            awaited: Awaited::Nobody,
            lease_until: None,
            tree,
            idle: Idleness::new(now),
            connections: Connections::default(),
            search_again: false,
            children: Children::default(),
            own_times: OwnTimes::default(),
            ran_unasked: None,
            meter: Meter::new(now),
            interrupted: Interrupted::default(),
            unlimited: HashMap::new(),
            opening: Vec::new(),
            rhythms: Rhythms::default(),
            constants: Constants::default(),
            ran_from: now,
            backlogs: Backlogs::default(),
            ending: false,
            terminated: None,
            afterwards: None,
            private_words: PrivateWords::default(),
        };
        let phase = Phase::Awake(Awake::new(now));
        let mut sleep = Self { sleeper, phase };
        sleep.keep_awake(awake);
        sleep
    }

    /// Has the phase go over to the next, or stay.
    fn step(&mut self, next: impl FnOnce(Phase, &mut Sleeper) -> Phase) {
        // Nobody sees what stands there meanwhile.
        let between = Phase::Awake(Awake::new(self.sleeper.ran_from));
        let phase = std::mem::replace(&mut self.phase, between);
        self.phase = next(phase, &mut self.sleeper);
    }

    /// Takes over the settings of a new broker.
    pub fn set_policy(&mut self, policy: Option<SleepPolicy>, awake: imsup_wire::Awake) {
        if self.sleeper.policy.is_some() {
            self.sleeper.policy = policy;
        }
        self.keep_awake(awake);
    }

    /// Sets the reasons that keep the host awake from now on.
    pub fn keep_awake(&mut self, awake: imsup_wire::Awake) {
        let now = Instant::now();
        self.sleeper.commands = awake.commands;
        self.sleeper.lease_until = awake.lease.and_then(|lease| now.checked_add(lease));
        self.set_awaited(awake.awaited, now);
    }

    fn set_awaited(&mut self, awaited: Awaited, now: Instant) {
        self.sleeper.awaited = awaited;
        if let Phase::Awake(awake) = &mut self.phase {
            awake.note_awaited(awaited, now);
        }
    }

    /// True if a caller waits for a port that the program has not opened yet.
    pub fn is_awaited(&self) -> bool {
        self.sleeper.is_awaited()
    }

    /// The descriptor that becomes readable when the host is to be woken.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Asleep(asleep) => Some(asleep.descriptor()),
            Phase::Prepared(_) | Phase::Awake(_) | Phase::Ticking(_) => None,
        }
    }

    /// When [`Sleep::on_time`] is due.
    pub fn due(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Awake(awake) => awake.due(&self.sleeper),
            Phase::Asleep(asleep) => asleep.due(),
            Phase::Prepared(_) => None,
            Phase::Ticking(ticking) => Some(ticking.next_check()),
        };
        let afterwards = self.sleeper.afterwards.map(|(at, _)| at);
        [phase, self.sleeper.backlogs.due(), afterwards]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does the work that is due.
    pub fn on_time(&mut self, host: &mut Host, circumstances: &Circumstances) {
        let now = Instant::now();
        self.sleeper.do_afterwards(host, now);
        self.step(|phase, sleeper| match phase {
            Phase::Awake(awake) => awake.on_time(sleeper, host, circumstances, now),
            Phase::Asleep(asleep) if asleep.due().is_some_and(|at| at <= now) => asleep.on_time(sleeper, host, now),
            Phase::Ticking(ticking) if ticking.next_check() <= now => ticking.check(sleeper, host, circumstances, now),
            phase => phase,
        });
    }

    /// Called when a source of a wake is ready.
    pub fn on_ready(&mut self, host: &mut Host) {
        let noticed = Instant::now();
        self.step(|phase, sleeper| match phase {
            Phase::Asleep(asleep) => asleep.on_ready(sleeper, host, noticed),
            phase => phase,
        });
    }

    /// Carries out an order of the broker, and sends the reply.
    pub fn ask(&mut self, host: &mut Host, circumstances: &Circumstances, id: u64, order: Order) {
        let report = match order {
            Order::Suspend => match &mut self.phase {
                Phase::Asleep(_) | Phase::Prepared(_) | Phase::Ticking(_) => Report::Done,
                Phase::Awake(awake) => {
                    awake.order(id, Instant::now());
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
            Order::Prepare => self.prepare(host),
            Order::Commit => self.commit(host),
            Order::Abort => {
                self.abort(host);
                Report::Done
            }
        };
        host.link.send(&ToBroker::Answer { id, report }, Vec::new());
    }

    /// The reasons that keep the host awake, or the events that the host waits for.
    fn why(&mut self, host: &mut Host, circumstances: &Circumstances) -> Why {
        let sleeper = &mut self.sleeper;
        // The last look may be some time ago.
        if matches!(self.phase, Phase::Awake(_)) && host.incoming.peek().came {
            sleeper.idle.noticed(Instant::now(), Activity::Arrival);
        }
        match (&self.phase, self.phase.asleep()) {
            (_, Some(asleep)) => asleep.why(sleeper, host),
            (Phase::Awake(awake), None) => sleeper.why_awake(host, circumstances, awake.not_now()),
            (_, None) => sleeper.why_awake(host, circumstances, None),
        }
    }

    /// Prepares the end of the program together with other programs, if the host sleeps and is
    /// unused.
    fn prepare(&mut self, host: &mut Host) -> Report {
        let mut report = Report::Failed(ErrorKind::Busy.because("it is awake"));
        self.step(|phase, sleeper| match phase {
            Phase::Asleep(asleep) => match asleep.prepare(sleeper, host) {
                Ok(prepared) => {
                    report = Report::Done;
                    Phase::Prepared(prepared)
                }
                Err((asleep, why)) => {
                    report = Report::Failed(ErrorKind::Busy.because(why));
                    Phase::Asleep(asleep)
                }
            },
            Phase::Prepared(prepared) => {
                report = Report::Done;
                Phase::Prepared(prepared)
            }
            phase @ (Phase::Awake(_) | Phase::Ticking(_)) => phase,
        });
        report
    }

    /// Commits a prepared termination: ends the program of the sleeping host.
    fn commit(&mut self, host: &mut Host) -> Report {
        let mut report = Report::Failed(ErrorKind::Busy.because("it is awake"));
        self.step(|phase, sleeper| match phase {
            Phase::Prepared(prepared) => {
                report = Report::Done;
                Phase::Asleep(prepared.commit(sleeper, host))
            }
            Phase::Asleep(asleep) => {
                report = Report::Failed(ErrorKind::Other.because("it has promised nothing"));
                Phase::Asleep(asleep)
            }
            phase @ (Phase::Awake(_) | Phase::Ticking(_)) => phase,
        });
        report
    }

    /// Aborts a prepared termination.
    fn abort(&mut self, host: &mut Host) {
        self.step(|phase, _| match phase {
            Phase::Prepared(prepared) => Phase::Asleep(prepared.abort(host)),
            phase => phase,
        });
    }

    /// Wakes the host, if it sleeps, for a reason that is not in its wait set.
    pub fn wake_for(&mut self, host: &mut Host, kind: CauseKind) {
        let now = Instant::now();
        self.abort(host);
        self.step(|phase, sleeper| match phase {
            Phase::Asleep(asleep) => Phase::Awake(asleep.wake(sleeper, host, now, unnamed(kind), false)),
            Phase::Ticking(ticking) => Phase::Awake(ticking.wake(sleeper, host, now, unnamed(kind))),
            phase @ (Phase::Awake(_) | Phase::Prepared(_)) => phase,
        });
    }

    /// The broker is lost: no message decides a prepared termination or names waiting callers any
    /// more, and the next broker knows of neither.
    pub fn broker_lost(&mut self, host: &mut Host) {
        self.abort(host);
        let now = Instant::now();
        self.set_awaited(Awaited::Nobody, now);
        if let Phase::Asleep(asleep) = &mut self.phase {
            asleep.try_to_terminate_again();
        }
    }

    /// Lets a sleeping host run without a report: the end of the host has begun, and the broker
    /// knows.
    pub fn let_end(&mut self, host: &mut Host) {
        self.abort(host);
        self.let_run();
    }

    fn let_run(&mut self) {
        let now = Instant::now();
        self.step(|phase, sleeper| match phase {
            Phase::Awake(awake) => Phase::Awake(awake),
            Phase::Ticking(_) => Phase::Awake(Awake::new(now)),
            phase @ (Phase::Asleep(_) | Phase::Prepared(_)) => {
                // The duplicates are closed first: open duplicates would delay a FIN.
                drop(phase);
                sleeper.tree.release();
                Phase::Awake(Awake::new(now))
            }
        });
        self.sleeper.idle.restart(now);
    }

    /// True if the host has just been woken, and runs before all other work.
    pub fn is_waking(&self) -> bool {
        self.sleeper.afterwards.is_some()
    }

    /// True if threads of the host are traced, though the host runs.
    pub fn traces(&mut self) -> bool {
        self.sleeper.tree.carries().is_some()
    }

    /// The resources used by the host.
    pub fn usage(&self) -> Usage {
        self.sleeper.usage()
    }

    /// The start of the host's sleep by the wall clock as set now, in microseconds since the Unix
    /// epoch.
    pub fn suspended_us(&self) -> Option<u64> {
        match &self.phase {
            Phase::Ticking(ticking) => Some(ticking.suspended_us()),
            phase => phase.asleep().map(Asleep::suspended_us),
        }
    }

    /// The next deadline, in microseconds since the Unix epoch.
    pub fn deadline_us(&self) -> Option<u64> {
        self.phase.asleep().and_then(Asleep::deadline_us)
    }

    /// The time slept until the termination; `None` if the host was not terminated.
    pub fn terminated(&self) -> Option<Duration> {
        self.sleeper.terminated
    }

    /// Whether the loop is to end the program now; says how, once.
    pub fn take_ending(&mut self) -> Option<(Signal, Duration)> {
        if !std::mem::take(&mut self.sleeper.ending) {
            return None;
        }
        let policy = self.sleeper.policy.as_ref()?;
        let signal = Signal::try_from(policy.stop_signal).unwrap_or(Signal::SIGTERM);
        Some((signal, policy.stop_grace))
    }

    /// Ends the sleep: lets all remaining processes run, so that the processes can be ended. The
    /// account covers the use until now.
    pub fn finish(mut self) -> (Usage, ProcessTree) {
        self.let_run();
        let Sleeper { mut meter, tree, .. } = self.sleeper;
        let now = Instant::now();
        meter.sample(now, &tree.processes());
        (meter.usage(now, &tree), tree)
    }
}

impl Sleeper {
    /// True if a caller waits for a port that the program has not opened yet.
    fn is_awaited(&self) -> bool {
        self.awaited != Awaited::Nobody
    }

    /// The resources used by the host.
    fn usage(&self) -> Usage {
        self.meter.usage(Instant::now(), &self.tree)
    }

    /// The slack to which deadlines are coalesced.
    fn slack(&self) -> Duration {
        self.policy
            .as_ref()
            .map_or(Duration::from_secs(1), |policy| policy.timer_slack)
    }

    /// Does what was put off at a wake, if it is time.
    fn do_afterwards(&mut self, host: &mut Host, now: Instant) {
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
    }
}

/// A cause of which nothing but the kind is known.
fn unnamed(kind: CauseKind) -> WakeCause {
    WakeCause {
        kind,
        by: None,
        port: None,
    }
}

/// The host's addresses in all planes.
fn planes(host: &Host) -> [Ipv4Addr; 3] {
    let identity = &host.identity;
    [identity.vip(), identity.localhost(), identity.v6_shadow()]
}

/// True if programs of this role sleep: a command of `imsup exec` keeps the host awake instead.
pub fn sleeps(role: &Role) -> bool {
    *role != Role::Exec
}

/// A process as shown to people: name and number.
fn named(pid: i32) -> String {
    match process::name(pid) {
        Some(name) => format!("{name} {pid}"),
        None => format!("process {pid}"),
    }
}

/// The port of an address.
fn port_of(address: SocketAddr) -> Option<u16> {
    Some(address.port()).filter(|port| *port != 0)
}
