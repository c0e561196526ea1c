//! Holding a host: what its threads were in is read, and what they wait for is waited for in their place.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::PollFlags;
use rustix::fs::OFlags;

use super::Sleep;
use super::asleep::Asleep;
use super::calls::SocketTimeout;
use super::deadlines::{Due, Now};
use super::plan::{self, NotIdle, Plan};
use super::tree::HoldError;
use super::waitset::WaitSet;
use crate::host::Host;
use crate::kernel::memory::ThreadMemory;
use crate::kernel::stopped::{GoOn, StopError, StoppedThread};
use crate::kernel::{descriptors, process, signals, socket, task, timers};

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

impl Sleep {
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
            process::monotonic_ahead,
        )?;
        watch_sockets(&mut plan);
        let set = wait_set(&pids, &mut plan, &now).map_err(NotNow::Duplicate)?;
        if !set.ready().is_empty() {
            return Err(NotNow::Ready);
        }
        for pid in &pids {
            plan.dues
                .extend(few_timerfds(*pid).iter().map(|timer| due_of(timer, &now)));
        }
        let posix_timers = pids.iter().any(|pid| timers::has_posix_timers(*pid));
        let slack = self.slack();
        let signals_every = match posix_timers || pids.iter().any(|pid| timers::may_have_interval_timer(*pid)) {
            true => slack.max(SIGNALS_WITH_TIMERS),
            false => SIGNALS,
        };
        let terminate_after = self.policy.as_ref().and_then(|policy| policy.terminate_after);
        self.interrupted.set(std::mem::take(&mut plan.calls));
        let asleep = Asleep {
            since: now.instant,
            since_us: now.realtime_us(now.instant),
            held: now.instant,
            signals: pids
                .iter()
                .map(|pid| (*pid, signals::waiting_for(*pid, posix_timers)))
                .collect(),
            pids,
            set,
            dues: plan.dues,
            slack,
            posix_timers,
            signals_every,
            signals_at: now.instant + signals_every,
            terminate_at: terminate_after.and_then(|time| now.instant.checked_add(time)),
            not_terminated: None,
            ticks: 0,
            bytes: None,
        };
        Ok((asleep, plan.rewrites))
    }
}

/// Adds sockets that nobody names: all of a process with a call that is not in the table, and those that send signals where somebody waits for
/// signals only.
fn watch_sockets(plan: &mut Plan) {
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
}

/// Duplicates what is to be waited for. What cannot be waited for is let run now and then.
fn wait_set(pids: &[i32], plan: &mut Plan, now: &Now) -> Result<WaitSet, Errno> {
    let mut set = WaitSet::new(pids)?;
    for (pid, watches) in &plan.watches {
        if !set.watch(*pid, watches)?.is_empty() {
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
        set.watch_clock(first.max(now.realtime) + Duration::from_secs(5))?;
    }
    Ok(set)
}

fn due_of(timer: &timers::TimerFd, now: &Now) -> (i32, &'static str, Due) {
    let due = Due::From {
        earliest: now.instant + timer.expires_in,
        latest: now.instant + timer.expires_in,
        span: timer.expires_in.max(timer.interval),
        realtime: None,
    };
    (timer.pid, "timerfd", due)
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
