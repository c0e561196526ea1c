//! A host that runs: looked at now and then, and suspended once it has been idle for long enough.

use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::sleep::ReasonKind;
use imsup_wire::{Awaited, Report};
use nix::errno::Errno;

use super::asleep::Asleep;
use super::deadlines::Bounds;
use super::hold::NotNow;
use super::idle::{Activity, SHORTEST_PAUSE, Trace};
use super::own_times::Waits;
use super::plan::NotIdle;
use super::{Circumstances, Phase, Sleep};
use crate::host::Host;
use imsup_linux::means::Means;
use imsup_linux::{cpu, pageout};

/// How soon it is tried again after a thread was found running.
const RETRY: Duration = Duration::from_millis(10);
/// The same where somebody has ordered it, and waits: it was closing the connection of whoever ordered it, mostly.
const RETRY_ORDERED: Duration = Duration::from_millis(1);
/// How soon after something that is not over in a moment.
const RETRY_TROUBLE: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY_RUNNING: Duration = Duration::from_millis(500);

/// An attempt that failed, and when to try again.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: NotNow,
    pub(super) retry_at: Instant,
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

impl Sleep {
    /// What keeps the host awake, besides its own work.
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
        if circumstances.held_calls > 0 {
            let detail = "it waits for another host to boot".to_owned();
            return Some((ReasonKind::Reaching, detail));
        }
        None
    }

    /// When to look at the host next; never where it may not sleep anyway.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let policy = self.policy.as_ref()?;
        if self.orders.is_empty() && impossible().is_some() {
            return None;
        }
        if self.orders.is_empty() && policy.idle_after.is_none() && self.next_look > self.ran_from {
            return None;
        }
        Some(self.next_look)
    }

    pub(super) fn look(&mut self, host: &mut Host, circumstances: &Circumstances, now: Instant) {
        let Some(policy) = &self.policy else { return };
        let idle_after = policy.idle_after;
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
        // A host that could not be held was let run by us.
        let waited = match ran && self.trouble.is_none() {
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
        let mut idle = std::mem::replace(&mut self.idle, super::idle::Idleness::new(now));
        idle.look(read, &used, trace, || self.traffic(host, &pids));
        self.idle = idle;
        let cost = cpu::own_thread().saturating_sub(before);
        let kept = self.kept_awake(host, circumstances, now);
        let ordered = !self.orders.is_empty();
        let wanted = match (idle_after, ordered) {
            (_, true) => true,
            (Some(idle_after), false) => now.saturating_duration_since(self.idle.quiet_since()) >= idle_after,
            (None, false) => false,
        };
        // Whoever ordered it waits for it.
        let troubled = !ordered && self.trouble.as_ref().is_some_and(|trouble| trouble.retry_at > now);
        let tried = wanted && kept.is_none() && !circumstances.handing_over;
        if tried && !troubled {
            self.suspend(host, now);
        }
        if !tried {
            // Whatever was in the way, something else is now.
            self.trouble = None;
        }
        self.give_up_orders(host, kept, now);
        let idle_after = idle_after.unwrap_or(Duration::from_secs(3600));
        self.next_look = self.idle.next_look(idle_after, cost);
        if let Some(trouble) = &self.trouble {
            self.next_look = self.next_look.min(trouble.retry_at);
        }
        self.next_look = self.next_look.max(now + SHORTEST_PAUSE);
        if !self.orders.is_empty() {
            let pause = self.trouble.as_ref().map_or(RETRY, |trouble| trouble.pause.min(RETRY));
            self.next_look = Instant::now() + pause;
        }
    }

    fn suspend(&mut self, host: &mut Host, now: Instant) {
        let since_run = self.ran_from;
        if self.tree.finds_more_strays() {
            self.idle.restart(now);
            return;
        }
        let held = self.hold(host, since_run);
        self.own_times.forget();
        if let (Ok(_), true) = (&held, self.orders.is_empty())
            && let Some((at, activity)) = self.came_after_all(host, now)
        {
            self.trouble = None;
            // The duplicates first, or they would delay a FIN.
            drop(held);
            self.let_go_on();
            self.idle.noticed(at, activity);
            return;
        }
        match held {
            Ok(asleep) if self.awaited == Awaited::Asked && self.may_run_by_itself(&asleep) => {
                drop(asleep);
                self.let_go_on();
                self.note_trouble(NotNow::Awaited);
            }
            Ok(asleep) => {
                host.incoming.rest();
                self.trouble = None;
                self.observe_deadlines(&asleep.pids, since_run, false);
                self.say_suspended(host, &asleep, now.elapsed());
                self.phase = Phase::Asleep(Box::new(asleep));
                self.reclaim(host);
                self.answer_orders(host, &Report::Done);
            }
            Err(what) => {
                self.note_trouble(what);
            }
        }
    }

    fn note_trouble(&mut self, what: NotNow) {
        tracing::debug!(%what, "not suspended");
        let ordered = !self.orders.is_empty();
        self.trouble = Some(Trouble::new(what, self.trouble.as_ref(), ordered, Instant::now()));
    }

    /// Whether a host that is held may be about to do more by itself: it waits for a time, or for an answer.
    fn may_run_by_itself(&mut self, asleep: &Asleep) -> bool {
        self.connections.note_held(&asleep.pids, &[], &self.tree.duplicates());
        asleep.deadline_us().is_some()
            || self
                .connections()
                .is_none_or(|connections| connections.iter().any(|connection| connection.established))
    }

    /// What is read once more while a host is held, before its sleep is final: what came until it was held and was dealt with at once, and whether it ran by
    /// itself where nobody could say before.
    fn came_after_all(&mut self, host: &mut Host, now: Instant) -> Option<(Instant, Activity)> {
        if host.incoming.peek().came {
            return Some((Instant::now(), Activity::Arrival));
        }
        let idle_after = self.policy.as_ref().and_then(|policy| policy.idle_after)?;
        let ran_at = self.ran_unasked.take()?;
        let lately = now.saturating_duration_since(ran_at) < idle_after;
        (lately && !self.own_times.learn(&self.tree.duplicates())).then_some((ran_at, Activity::Unasked))
    }

    fn answer_orders(&mut self, host: &mut Host, report: &Report) {
        for (id, _) in std::mem::take(&mut self.orders) {
            let report = report.clone();
            host.link.send(&ToBroker::Answer { id, report }, Vec::new());
        }
    }

    fn give_up_orders(&mut self, host: &mut Host, kept: Option<(ReasonKind, String)>, now: Instant) {
        let Some((_, until)) = self.orders.first().copied() else {
            return;
        };
        // What the broker has said of a start is perhaps over: the order may have overtaken the program's listen(2).
        let is_starting = matches!(kept, Some((ReasonKind::Starting, _)));
        if let Some((_, why)) = kept
            && (until <= now || !is_starting)
        {
            self.answer_orders(host, &Report::Failed(format!("it is kept awake: {why}")));
        } else if until <= now && !is_starting {
            let why = match &self.trouble {
                Some(trouble) => trouble.what.to_string(),
                None => "it did not become quiet".to_owned(),
            };
            let message = format!("it was busy for {} s: {why}", super::ORDER_PATIENCE.as_secs());
            self.answer_orders(host, &Report::Failed(message));
        }
    }

    fn say_suspended(&mut self, host: &mut Host, asleep: &Asleep, took: Duration) {
        let message = ToBroker::Suspended {
            time_us: asleep.began.wall_us(),
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

/// Why no host can sleep here; `None` where they can.
fn impossible() -> Option<&'static str> {
    (!Means::present().duplicates_of_held()).then_some(
        "imsup may neither duplicate its descriptors here (pidfd_getfd(2)) nor stop its threads to have them handed over (ptrace(2)), so it cannot wait for \
         what the program waits for: no host sleeps. In a container --cap-add SYS_PTRACE allows both, and so does a seccomp profile that allows ptrace(2)",
    )
}
