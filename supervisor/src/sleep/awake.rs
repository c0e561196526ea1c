//! A host that runs: looked at now and then, and suspended once it has been idle for long enough.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use imsup_wire::{Report, ToBroker};
use nix::errno::Errno;

use super::asleep::Asleep;
use super::calls::SocketTimeout;
use super::deadlines::{Due, Now};
use super::plan::{self, NotIdle};
use super::tree::HoldError;
use super::waitset::WaitSet;
use super::{Circumstances, Phase, Sleep};
use crate::host::Host;
use crate::kernel::memory::ThreadMemory;
use crate::kernel::stopped::{GoOn, StopError, StoppedThread};
use crate::kernel::{cpu, descriptors, pageout, signals, socket, task, timers};
use imsup_wire::sleep::ReasonKind;
use rustix::event::PollFlags;
use rustix::fs::OFlags;

/// How soon it is tried again after a thread was found running.
const RETRY: Duration = Duration::from_millis(10);
/// How soon after something that is not over in a moment.
const RETRY_TROUBLE: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY_RUNNING: Duration = Duration::from_millis(500);

/// Signals from outside a host are looked for this often: where it has timers that end in signals, and elsewhere.
const SIGNALS_WITH_TIMERS: Duration = Duration::from_millis(100);
const SIGNALS: Duration = Duration::from_secs(10);

/// Why a host that was idle could not be suspended.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotNow {
    /// It was not idle after all.
    #[error(transparent)]
    NotIdle(#[from] NotIdle),
    /// What it waits for has come.
    #[error("what it waits for has just come")]
    Ready,
    /// It could not be held.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// What it waits for could not be duplicated.
    #[error("what it waits for cannot be duplicated: {}", .0.desc())]
    Duplicate(Errno),
}

impl NotNow {
    /// Whether a process is stopped or traced by somebody else, so that nobody sees what will make it run.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(
            self,
            Self::NotIdle(NotIdle::Stopped { .. }) | Self::Hold(HoldError::Stop(StopError::Traced { .. }))
        )
    }
}

/// An attempt that failed, and when to try again.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: NotNow,
    pub(super) retry_at: Instant,
    pause: Duration,
}

impl Trouble {
    fn new(what: NotNow, before: Option<&Self>, now: Instant) -> Self {
        let first = match what {
            NotNow::NotIdle(NotIdle::Running { .. }) | NotNow::Ready => RETRY,
            _ => RETRY_TROUBLE,
        };
        let longest = if first == RETRY {
            LONGEST_RETRY_RUNNING
        } else {
            LONGEST_RETRY
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
        if circumstances.held_calls > 0 {
            let detail = "it waits for another host to boot".to_owned();
            return Some((ReasonKind::Reaching, detail));
        }
        None
    }

    /// When to look at the host next; never where it may not sleep anyway.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let policy = self.policy.as_ref()?;
        if self.ordered.is_none() && policy.idle_after.is_none() && self.next_look > self.ran_from {
            return None;
        }
        Some(self.next_look)
    }

    pub(super) fn look(&mut self, host: &mut Host, circumstances: &Circumstances, now: Instant) {
        let Some(policy) = &self.policy else { return };
        let idle_after = policy.idle_after;
        let before = cpu::own_thread();
        let pids = self.tree.processes();
        let used = self.meter.sample(now, &pids);
        let mut idle = std::mem::replace(&mut self.idle, super::idle::Idleness::new(now));
        idle.look(now, &used, || self.bytes(host, &pids));
        self.idle = idle;
        let cost = cpu::own_thread().saturating_sub(before);
        let kept = self.kept_awake(host, circumstances, now);
        let wanted = match (idle_after, self.ordered) {
            (_, Some(_)) => true,
            (Some(idle_after), None) => now.saturating_duration_since(self.idle.quiet_since()) >= idle_after,
            (None, None) => false,
        };
        // Whoever ordered it waits for it.
        let troubled = self.ordered.is_none() && self.trouble.as_ref().is_some_and(|trouble| trouble.retry_at > now);
        if wanted && kept.is_none() && !troubled {
            self.suspend(host, now);
        }
        self.give_up_order(host, kept, now);
        let idle_after = idle_after.unwrap_or(Duration::from_secs(3600));
        self.next_look = self.idle.next_look(idle_after, cost);
        if let Some(trouble) = &self.trouble {
            self.next_look = self.next_look.min(trouble.retry_at.max(now));
        }
        if self.ordered.is_some() {
            self.next_look = self.next_look.min(now + RETRY);
        }
    }

    fn suspend(&mut self, host: &mut Host, now: Instant) {
        let since_run = self.ran_from;
        match self.hold(host, since_run) {
            Ok(asleep) => {
                self.trouble = None;
                self.say_suspended(host, &asleep, now.elapsed());
                self.phase = Phase::Asleep(Box::new(asleep));
                self.reclaim(host);
                self.answer_order(host, Report::Done);
            }
            Err(what) => {
                tracing::debug!(%what, "not suspended");
                self.trouble = Some(Trouble::new(what, self.trouble.as_ref(), Instant::now()));
            }
        }
    }

    fn answer_order(&mut self, host: &mut Host, report: Report) {
        if let Some((id, _)) = self.ordered.take() {
            host.link.send(&ToBroker::Answer { id, report }, Vec::new());
        }
    }

    fn give_up_order(&mut self, host: &mut Host, kept: Option<(ReasonKind, String)>, now: Instant) {
        let Some((_, until)) = self.ordered else { return };
        if let Some((_, why)) = kept {
            self.answer_order(host, Report::Failed(format!("it is kept awake: {why}")));
        } else if until <= now {
            let why = match &self.trouble {
                Some(trouble) => trouble.what.to_string(),
                None => "it did not become quiet".to_owned(),
            };
            let message = format!("it was busy for {} s: {why}", super::ORDER_PATIENCE.as_secs());
            self.answer_order(host, Report::Failed(message));
        }
    }

    /// Holds the host and takes over its waiting. On an error it runs as before.
    pub(super) fn hold(&mut self, host: &Host, ran_from: Instant) -> Result<Asleep, NotNow> {
        // Before: who comes from now on must find the door open.
        self.backlogs.widen(&host.retained);
        let held = self.tree.hold().map_err(NotNow::from).and_then(|threads| {
            let taken_over = self.take_over(&threads, ran_from);
            match &taken_over {
                Ok((_, rewrites)) => self.tree.settle(rewrites.clone()),
                Err(_) => self.tree.release(),
            }
            taken_over
        });
        match held {
            Ok((mut asleep, _)) => {
                asleep.bytes = self.bytes(host, &asleep.pids);
                Ok(asleep)
            }
            Err(error) => {
                self.backlogs.narrow_later(Instant::now());
                Err(error)
            }
        }
    }

    fn take_over(
        &mut self,
        threads: &[StoppedThread],
        ran_from: Instant,
    ) -> Result<(Asleep, Vec<(i32, GoOn)>), NotNow> {
        let now = Now::read();
        let mut pids: Vec<i32> = threads.iter().map(|thread| thread.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut plan = plan::plan(
            threads,
            &self.interrupted,
            &now,
            ThreadMemory::of,
            |pid| self.idle.began(pid, ran_from, now.instant),
            limit_of_socket,
        )?;
        for pid in plan.unknown.clone() {
            for (number, kind) in descriptors::descriptors(pid) {
                if kind == descriptors::Kind::Socket {
                    plan.watch(pid, number, PollFlags::IN, "a call that imsup does not know");
                }
            }
        }
        for pid in plan.signalled.clone() {
            for number in asynchronous_sockets(pid) {
                plan.watch(pid, number, PollFlags::IN, "O_ASYNC");
            }
        }
        let mut set = WaitSet::new(&pids).map_err(NotNow::Duplicate)?;
        for (pid, watches) in &plan.watches {
            let unwatchable = set.watch(*pid, watches).map_err(NotNow::Duplicate)?;
            if !unwatchable.is_empty() {
                plan.dues
                    .push((*pid, "a descriptor that cannot be waited for", Due::Unknown));
            }
        }
        let realtime = plan.dues.iter().filter_map(|(_, _, due)| match due {
            Due::From { realtime, .. } => *realtime,
            _ => None,
        });
        if let Some(first) = realtime.min() {
            // What is due is seen by our own clock; this is for the clock that somebody sets.
            set.watch_clock(first.max(now.realtime) + Duration::from_secs(5))
                .map_err(NotNow::Duplicate)?;
        }
        if !set.ready().is_empty() {
            return Err(NotNow::Ready);
        }
        let slack = self
            .policy
            .as_ref()
            .map_or(Duration::from_secs(1), |policy| policy.timer_slack);
        for pid in &pids {
            for timer in few_timerfds(*pid) {
                let due = Due::From {
                    earliest: now.instant + timer.expires_in,
                    latest: now.instant + timer.expires_in,
                    span: timer.expires_in.max(timer.interval),
                    realtime: None,
                };
                plan.dues.push((timer.pid, "timerfd", due));
            }
        }
        let signal_timers: Vec<i32> = pids
            .iter()
            .copied()
            .filter(|pid| timers::has_posix_timers(*pid) || timers::may_have_interval_timer(*pid))
            .collect();
        let signals_every = match signal_timers.is_empty() {
            true => SIGNALS,
            false => slack.max(SIGNALS_WITH_TIMERS),
        };
        let posix_timers = pids.iter().any(|pid| timers::has_posix_timers(*pid));
        self.interrupted.set(std::mem::take(&mut plan.calls));
        let rewrites = std::mem::take(&mut plan.rewrites);
        let asleep = Asleep {
            since: now.instant,
            since_us: now.realtime_us(now.instant),
            held: now.instant,
            signals: pids
                .iter()
                .map(|pid| (*pid, signals::waiting_for(*pid, posix_timers)))
                .collect::<HashMap<_, _>>(),
            pids,
            set,
            dues: plan.dues,
            slack,
            posix_timers,
            signals_every,
            signals_at: now.instant + signals_every,
            terminate_at: self
                .policy
                .as_ref()
                .and_then(|policy| policy.terminate_after)
                .and_then(|time| now.instant.checked_add(time)),
            not_terminated: None,
            ticks: 0,
            bytes: None,
        };
        Ok((asleep, rewrites))
    }

    fn say_suspended(&self, host: &mut Host, asleep: &Asleep, took: Duration) {
        let message = ToBroker::Suspended {
            time_us: asleep.since_us,
            deadline_us: asleep.deadline_us(),
            took,
            usage: self.usage(),
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

/// The time limit of the socket behind a descriptor.
fn limit_of_socket(pid: i32, number: i32, kind: SocketTimeout) -> Option<Duration> {
    let pidfd = task::open_process(pid).ok()?;
    let socket = task::duplicate_from(&pidfd, number).ok()?;
    match kind {
        SocketTimeout::Receive => socket::receive_timeout(socket.as_fd()).ok()?,
        SocketTimeout::Send => socket::send_timeout(socket.as_fd()).ok()?,
    }
}

/// The sockets of a process that send it a signal when something comes (O_ASYNC).
fn asynchronous_sockets(pid: i32) -> Vec<i32> {
    let Ok(pidfd) = task::open_process(pid) else {
        return Vec::new();
    };
    let is_asynchronous = |number: i32| {
        let flags = task::duplicate_from(&pidfd, number).and_then(|socket| socket::status_flags(socket.as_fd()));
        flags.is_ok_and(|flags| flags.contains(OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned())))
    };
    descriptors::descriptors(pid)
        .into_iter()
        .filter(|(number, kind)| *kind == descriptors::Kind::Socket && is_asynchronous(*number))
        .map(|(number, _)| number)
        .collect()
}

/// The armed timerfds of a process that has not so many descriptors that looking through them takes long.
fn few_timerfds(pid: i32) -> Vec<timers::TimerFd> {
    match descriptors::count(pid) <= super::MANY_DESCRIPTORS {
        true => timers::timerfds(pid),
        false => Vec::new(),
    }
}

/// The port of an address.
pub(super) fn port_of(address: SocketAddr) -> Option<u16> {
    Some(address.port()).filter(|port| *port != 0)
}
