//! A running host: looked at now and then, and suspended after a long enough idle time.

use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::sleep::ReasonKind;
use imsup_wire::{Awaited, ErrorKind, Report, WakeCause};
use nix::errno::Errno;

use super::{Asleep, Awake, Phase, Slept};
use crate::host::Host;
use crate::sleep::correct::Stage;
use crate::sleep::deadlines::Bounds;
use crate::sleep::frozen::Frozen;
use crate::sleep::hold::NotNow;
use crate::sleep::idle::{Activity, Idleness, SHORTEST_PAUSE, Trace};
use crate::sleep::own_times::Waits;
use crate::sleep::plan::NotIdle;
use crate::sleep::{AFTERWARDS, Circumstances, ORDER_TIMEOUT, Sleeper};
use imsup_linux::clock::Stamp;
use imsup_linux::support::Support;
use imsup_linux::{cpu, pageout};

/// The delay of a retry after a thread was found running.
const RETRY: Duration = Duration::from_millis(10);
/// The same if a caller has ordered the suspension and waits. Mostly the host was just closing the
/// connection of this caller.
const RETRY_ORDERED: Duration = Duration::from_millis(1);
/// The delay of a retry after a lasting obstacle.
const RETRY_TROUBLE: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY_RUNNING: Duration = Duration::from_millis(500);

/// An attempt that failed, and when to try again.
#[derive(Debug)]
pub(super) struct Trouble {
    what: NotNow,
    retry_at: Instant,
    pause: Duration,
}

impl Trouble {
    fn new(what: NotNow, before: Option<&Self>, ordered: bool, now: Instant) -> Self {
        let first = match what {
            NotNow::NotIdle(NotIdle::Running { .. }) | NotNow::Ready if ordered => RETRY_ORDERED,
            NotNow::NotIdle(NotIdle::Running { .. }) | NotNow::Ready => RETRY,
            _ => RETRY_TROUBLE,
        };
        let longest = if first == RETRY_TROUBLE {
            LONGEST_RETRY
        } else {
            LONGEST_RETRY_RUNNING
        };
        let pause = before.map_or(first, |before| (before.pause * 2).clamp(first, longest));
        Self {
            what,
            retry_at: now + pause,
            pause,
        }
    }
}

impl Awake {
    /// A sleeper was let run, since something has come.
    pub(super) fn woken(
        sleeper: &mut Sleeper,
        host: &mut Host,
        noticed: Instant,
        cause: WakeCause,
        named_later: bool,
        slept: &Slept,
    ) -> Self {
        let now = Instant::now();
        sleeper.ran_from = noticed;
        sleeper.idle.restart(now);
        let afterwards = now + AFTERWARDS;
        sleeper.backlogs.narrow_later(now);
        sleeper.afterwards = Some((afterwards, named_later.then_some(cause.kind)));
        let awake = Self {
            corrections: sleeper.corrections(Stage::LetRun),
            ..Self::new(afterwards)
        };
        let message = ToBroker::Woke {
            time_us: Stamp::now().wall_us(),
            cause,
            named_later,
            slept: noticed.saturating_duration_since(slept.since),
            ticks: slept.ticks,
            took: now.saturating_duration_since(noticed),
            usage: sleeper.meter.usage_woken(now),
        };
        host.link.defer(message);
        awake
    }

    /// Somebody waits for a port of it, or nobody does any more.
    pub(in crate::sleep) fn note_awaited(&mut self, awaited: Awaited, now: Instant) {
        let was_in_the_way = |trouble: &Trouble| matches!(trouble.what, NotNow::Awaited);
        if awaited == Awaited::Nobody && self.trouble.as_ref().is_some_and(was_in_the_way) {
            self.trouble = None;
        }
        self.next_look = self.next_look.min(now);
    }

    /// It is to be suspended, once it is quiet.
    pub(in crate::sleep) fn order(&mut self, id: u64, now: Instant) {
        self.orders.push((id, now + ORDER_TIMEOUT));
        self.trouble = None;
        self.next_look = now;
    }

    /// Why it could not be suspended when that was tried last.
    pub(in crate::sleep) fn not_now(&self) -> Option<&NotNow> {
        self.trouble.as_ref().map(|trouble| &trouble.what)
    }

    /// The time of the next action.
    pub(in crate::sleep) fn due(&self, sleeper: &Sleeper) -> Option<Instant> {
        let correction = self.corrections.iter().map(|correction| correction.at).min();
        self.look_at(sleeper).into_iter().chain(correction).min()
    }

    /// Does the work that is due.
    pub(in crate::sleep) fn on_time(
        mut self,
        sleeper: &mut Sleeper,
        host: &mut Host,
        circumstances: &Circumstances,
        now: Instant,
    ) -> Phase {
        if self.corrections.iter().any(|correction| correction.at <= now) {
            sleeper.correct(&mut self.corrections);
        }
        sleeper.backlogs.narrow(&host.retained, now);
        match self.look_at(sleeper).is_some_and(|at| at <= now) {
            true => self.look(sleeper, host, circumstances, now),
            false => Phase::Awake(self),
        }
    }

    /// When to look at the host next; never if it may not sleep anyway.
    fn look_at(&self, sleeper: &Sleeper) -> Option<Instant> {
        let policy = sleeper.policy.as_ref()?;
        if self.orders.is_empty() && impossible().is_some() {
            return None;
        }
        if self.orders.is_empty() && policy.idle_after.is_none() && self.next_look > sleeper.ran_from {
            return None;
        }
        Some(self.next_look)
    }

    fn look(mut self, sleeper: &mut Sleeper, host: &mut Host, circumstances: &Circumstances, now: Instant) -> Phase {
        let Some(policy) = &sleeper.policy else {
            return Phase::Awake(self);
        };
        let idle_after = policy.idle_after;
        // A host that could not be held was let run by us.
        let cost = sleeper.observe(host, self.trouble.is_some(), now);
        let kept = sleeper.kept_awake(host, circumstances, now);
        let ordered = !self.orders.is_empty();
        let wanted = match (idle_after, ordered) {
            (_, true) => true,
            (Some(idle_after), false) => now.saturating_duration_since(sleeper.idle.quiet_since()) >= idle_after,
            (None, false) => false,
        };
        // An ordered suspension is not delayed: the caller waits.
        let troubled = !ordered && self.trouble.as_ref().is_some_and(|trouble| trouble.retry_at > now);
        let tried = wanted && kept.is_none() && !circumstances.handing_over;
        let idle_after = idle_after.unwrap_or(Duration::from_secs(3600));
        if !tried {
            // Another condition now prevents the suspension, so the earlier obstacle is dropped.
            self.trouble = None;
        }
        let mut awake = match tried && !troubled {
            true => match self.suspend(sleeper, host, now) {
                Phase::Awake(awake) => awake,
                phase => {
                    let _ = sleeper.idle.next_look(idle_after, cost);
                    return phase;
                }
            },
            false => self,
        };
        awake.give_up_orders(host, kept, now);
        awake.look_again(sleeper.idle.next_look(idle_after, cost), now);
        Phase::Awake(awake)
    }

    /// Decides when to look again: then, unless something is to be tried before.
    fn look_again(&mut self, next_look: Instant, now: Instant) {
        self.next_look = next_look;
        if let Some(trouble) = &self.trouble {
            self.next_look = self.next_look.min(trouble.retry_at);
        }
        self.next_look = self.next_look.max(now + SHORTEST_PAUSE);
        if !self.orders.is_empty() {
            let pause = self.trouble.as_ref().map_or(RETRY, |trouble| trouble.pause.min(RETRY));
            self.next_look = Instant::now() + pause;
        }
    }

    fn suspend(mut self, sleeper: &mut Sleeper, host: &mut Host, now: Instant) -> Phase {
        let since_run = sleeper.ran_from;
        if sleeper.tree.finds_more_strays() {
            sleeper.idle.restart(now);
            return Phase::Awake(self);
        }
        let held = sleeper.hold(host, since_run, &mut self.corrections);
        sleeper.own_times.forget();
        if let (Ok(_), true) = (&held, self.orders.is_empty())
            && let Some((at, activity)) = sleeper.came_after_all(host, now)
        {
            self.trouble = None;
            // The duplicates are closed first: open duplicates would delay a FIN.
            drop(held);
            self.corrections = sleeper.let_go_on();
            sleeper.idle.noticed(at, activity);
            return Phase::Awake(self);
        }
        match held {
            Ok(frozen) if sleeper.awaited == Awaited::Asked && sleeper.may_run_by_itself(&frozen) => {
                drop(frozen);
                self.corrections = sleeper.let_go_on();
                self.note_trouble(NotNow::Awaited);
                Phase::Awake(self)
            }
            Ok(frozen) => {
                host.incoming.rest();
                sleeper.observe_deadlines(&frozen.pids, since_run, false);
                let terminate_at = sleeper.terminate_at(frozen.since, host.retained.has_successors());
                let orders = std::mem::take(&mut self.orders);
                let asleep = self.fall_asleep(frozen, terminate_at);
                sleeper.say_suspended(host, &asleep, now.elapsed());
                sleeper.reclaim(host);
                answer(host, orders, &Report::Done);
                Phase::Asleep(asleep)
            }
            Err(what) => {
                self.note_trouble(what);
                Phase::Awake(self)
            }
        }
    }

    fn note_trouble(&mut self, what: NotNow) {
        tracing::debug!(%what, "not suspended");
        let ordered = !self.orders.is_empty();
        self.trouble = Some(Trouble::new(what, self.trouble.as_ref(), ordered, Instant::now()));
    }

    fn answer_orders(&mut self, host: &mut Host, report: &Report) {
        answer(host, std::mem::take(&mut self.orders), report);
    }

    fn give_up_orders(&mut self, host: &mut Host, kept: Option<(ReasonKind, String)>, now: Instant) {
        let Some((_, until)) = self.orders.first().copied() else {
            return;
        };
        // The broker's report of a start may be outdated: the order may have overtaken the
        // program's listen(2).
        let is_starting = matches!(kept, Some((ReasonKind::Starting, _)));
        if let Some((_, why)) = kept
            && (until <= now || !is_starting)
        {
            self.answer_orders(
                host,
                &Report::Failed(ErrorKind::Busy.because(format!("it is kept awake: {why}"))),
            );
        } else if until <= now && !is_starting {
            let why = match &self.trouble {
                Some(trouble) => trouble.what.to_string(),
                None => "it did not become quiet".to_owned(),
            };
            let message = format!("it was busy for {} s: {why}", ORDER_TIMEOUT.as_secs());
            self.answer_orders(host, &Report::Failed(ErrorKind::Busy.because(message)));
        }
    }
}

impl Sleeper {
    /// Looks at what the host has done since the last look; says what that took of a processor.
    fn observe(&mut self, host: &mut Host, was_let_run: bool, now: Instant) -> Duration {
        let before = cpu::own_thread();
        self.tree.notice_removal();
        let pids = self.tree.processes();
        let used = self.meter.sample(now, &pids);
        let read = Bounds {
            earliest: now,
            latest: Instant::now(),
        };
        let seen = host.incoming.look(&host.retained);
        self.note_seen(seen);
        let ran = self.idle.has_run(&used);
        let waited = match ran && !was_let_run {
            true => self.own_times.before(&used, &host.retained),
            false => Waits::Yes,
        };
        if waited == Waits::Perhaps {
            self.ran_unasked = Some(now);
        }
        let trace = Trace {
            seen,
            child: ran && self.children.came(&self.tree, &used),
            unasked: waited == Waits::No,
        };
        let mut idle = std::mem::replace(&mut self.idle, Idleness::new(now));
        idle.look(read, &used, trace, || self.traffic(host, &pids));
        self.idle = idle;
        cpu::own_thread().saturating_sub(before)
    }

    /// The reason that keeps the host awake, besides the host's own work.
    pub(super) fn kept_awake(
        &self,
        host: &Host,
        circumstances: &Circumstances,
        now: Instant,
    ) -> Option<(ReasonKind, String)> {
        if circumstances.stopping {
            return Some((ReasonKind::Stopping, "its program is being ended".to_owned()));
        }
        if let Some(why) = impossible() {
            return Some((ReasonKind::Incapable, why.to_owned()));
        }
        if let Some(until) = self.lease_until.filter(|until| *until > now) {
            let left = humantime::format_duration(Duration::from_secs((until - now).as_secs()));
            return Some((
                ReasonKind::Lease,
                format!("`imsup keep-awake` holds it for another {left}"),
            ));
        }
        if self.commands > 0 {
            let commands = match self.commands {
                1 => "a command of `imsup exec` runs".to_owned(),
                count => format!("{count} commands of `imsup exec` run"),
            };
            return Some((ReasonKind::Command, format!("{commands} beside it")));
        }
        if !host.start.is_over() {
            return Some((ReasonKind::Starting, "it does not listen yet".to_owned()));
        }
        if self.awaited == Awaited::Expected {
            let detail = "somebody waits for a port that it has not opened yet".to_owned();
            return Some((ReasonKind::Starting, detail));
        }
        if circumstances.pending_calls > 0 {
            let detail = "it waits for another host to boot".to_owned();
            return Some((ReasonKind::Reaching, detail));
        }
        None
    }

    /// True if a held host may soon do more without a request: the host waits for a time, or for an
    /// answer.
    fn may_run_by_itself(&mut self, frozen: &Frozen) -> bool {
        self.connections.note_held(&frozen.pids, &[], &self.tree.duplicates());
        frozen.deadline_us().is_some()
            || self
                .connections()
                .is_none_or(|connections| connections.iter().any(|connection| connection.established))
    }

    /// Checks once more for activity while a host is held, before the sleep is final. Found are
    /// arrivals that were handled before the hold, and runs that only an outside event explains, if
    /// the cause was uncertain before.
    fn came_after_all(&mut self, host: &mut Host, now: Instant) -> Option<(Instant, Activity)> {
        if host.incoming.peek().came {
            return Some((Instant::now(), Activity::Arrival));
        }
        let idle_after = self.policy.as_ref().and_then(|policy| policy.idle_after)?;
        let ran_at = self.ran_unasked.take()?;
        let lately = now.saturating_duration_since(ran_at) < idle_after;
        (lately && !self.own_times.learn(&self.tree.duplicates())).then_some((ran_at, Activity::Unasked))
    }

    fn say_suspended(&mut self, host: &mut Host, asleep: &Asleep, took: Duration) {
        let message = ToBroker::Suspended {
            time_us: asleep.suspended_us(),
            deadline_us: asleep.deadline_us(),
            took,
            usage: self.meter.usage_suspended(Instant::now(), &self.tree),
        };
        host.link.send(&message, Vec::new());
    }

    fn reclaim(&mut self, host: &mut Host) {
        if !self.policy.as_ref().is_some_and(|policy| policy.reclaim) {
            return;
        }
        let began = Instant::now();
        let resident = |pids: &[i32]| pids.iter().map(|pid| pageout::resident(*pid)).sum::<u64>();
        let pids = self.tree.processes();
        let before = resident(&pids);
        let refused = pids.iter().find_map(|pid| pageout::page_out(*pid).err());
        self.meter.measure_memory(Instant::now(), &pids);
        let detail = match refused {
            Some(Errno::EPERM) => Some("another process's memory is paged out by CAP_SYS_NICE only".to_owned()),
            Some(errno) => Some(errno.desc().to_owned()),
            None if !pageout::has_swap() => Some("anonymous memory needs swap, and this machine has none".to_owned()),
            None => None,
        };
        let message = ToBroker::Reclaimed {
            bytes: before.saturating_sub(resident(&pids)),
            took: began.elapsed(),
            detail,
        };
        host.link.send(&message, Vec::new());
    }
}

/// Answers orders to suspend.
fn answer(host: &mut Host, orders: Vec<(u64, Instant)>, report: &Report) {
    for (id, _) in orders {
        let report = report.clone();
        host.link.send(&ToBroker::Answer { id, report }, Vec::new());
    }
}

/// The reason why no host can sleep on this machine; `None` if hosts can sleep.
fn impossible() -> Option<&'static str> {
    (!Support::present().duplicates_of_held()).then_some(
        "imsup may neither duplicate its descriptors here (pidfd_getfd(2)) nor stop its threads to have them handed over (ptrace(2)), so it cannot wait for \
         what the program waits for: no host sleeps. In a container --cap-add SYS_PTRACE allows both, and so does a seccomp profile that allows ptrace(2)",
    )
}
