//! Holding a host: the calls of the threads are read, and imsup takes over the waits.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_linux::clock::Stamp;
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::Sleeper;
use super::beginnings::{Before, Held};
use super::calls;
use super::correct::{self, Correction, Stage};
use super::deadlines::{Bounds, Call, CallKey, Due, Now, UNSEEN_MARK};
use super::frozen::Frozen;
use super::plan::{self, Limit, NotIdle, Plan, Says};
use super::rhythm::Seen;
use super::taking::{Taking, leave_taking};
use super::transfer;
use super::tree::HoldError;
use super::wait::{Deadline, LimitOf};
use super::waitset::WaitSet;
use super::words::SharedWord;
use crate::host::Host;
use imsup_linux::carry::Carry;
use imsup_linux::duplicates::Duplicates;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::stopped::{At, GoOn, StopError, StoppedThread};
use imsup_linux::{cpu, descriptors, pidfd, process, signals, socket, terminal, timers};

/// The intervals of the check for signals from outside a host: with signalfds or timers that send
/// signals, and without.
const SIGNALS_WITH_TIMERS: Duration = Duration::from_millis(100);
const SIGNALS: Duration = Duration::from_secs(10);

/// For how many slacks a host is left awake that has begun to wait in open(2).
const OPENING_SLACKS: u32 = 3;

/// Why a host that was idle could not be suspended.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotNow {
    /// The host was not idle after all.
    #[error(transparent)]
    NotIdle(#[from] NotIdle),
    /// An awaited event has come.
    #[error("what it waits for has just come")]
    Ready,
    /// The host could not be held.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// A caller waits for a port that the host may still open.
    #[error("somebody waits for a port that it has not opened yet, and it waits for a time or an answer itself")]
    Awaited,
    /// An awaited descriptor could not be duplicated.
    #[error("what it waits for cannot be duplicated: {}", .0.desc())]
    Duplicate(Errno),
}

impl NotNow {
    /// True if a process is stopped or traced by an outsider, so that imsup cannot see the event
    /// that will make the process run.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(
            self,
            Self::NotIdle(NotIdle::Stopped { .. }) | Self::Hold(HoldError::Stop(StopError::Traced { .. }))
        )
    }
}

impl Sleeper {
    /// Holds the host and takes over its waiting. On an error it runs as before; if its calls were
    /// interrupted, `corrections` are those of them that are to be told when their time is over.
    pub(super) fn hold(
        &mut self,
        host: &Host,
        ran_from: Instant,
        corrections: &mut Vec<Correction>,
    ) -> Result<Frozen, NotNow> {
        let (seen, before) = self.look_untouched()?;
        let overwritten = self.to_be_overwritten(&seen);
        let (threads, trouble) = self.tree.hold(&before.counted().collect::<Vec<_>>());
        correct::put_back(&overwritten, &threads);
        if let Some(error) = trouble {
            // Some threads were interrupted. Threads that are not stopped no longer show their
            // calls, so the calls of the earlier look are planned as well.
            let now = Now::read();
            let known = self.interrupted.clone();
            let _ = self.plan(&seen, &before, false, ran_from, &now);
            // Both plans start from the calls known before: a marked call keeps the mark and the
            // deadline.
            let mut seen = std::mem::replace(&mut self.interrupted, known);
            let rewrites = self.plan(&threads, &before, false, ran_from, &now).rewrites;
            self.tree.carry(self.cut_short(&threads));
            self.tree.give_up(rewrites);
            seen.replace_with(&self.interrupted);
            self.interrupted = seen;
            *corrections = self.corrections(Stage::Settling);
            return Err(error.into());
        }
        let mut rewrites = Vec::new();
        let taken_over = self.take_over(host, &threads, &before, ran_from, &mut rewrites);
        self.tree.carry(self.cut_short(&threads));
        self.tree.settle(rewrites);
        match taken_over {
            Ok(mut frozen) => {
                frozen.bytes = self.held_bytes(host, &frozen.pids);
                self.tree.rest();
                Ok(frozen)
            }
            Err(error) => {
                *corrections = self.let_go_on();
                Err(error)
            }
        }
    }

    /// How threads go on after their calls were cut short.
    fn cut_short(&self, threads: &[StoppedThread]) -> Vec<Carry> {
        let duplicates = self.tree.duplicates();
        let cut_short = |thread| transfer::cut_short(thread, &duplicates);
        threads.iter().filter_map(cut_short).collect()
    }

    /// Lets a host go on that was held and is not to sleep. Says which of its calls are to be told
    /// when their time is over.
    pub(super) fn let_go_on(&mut self) -> Vec<Correction> {
        self.tree.release();
        self.tree.rest();
        let corrections = self.corrections(Stage::Settling);
        self.backlogs.narrow_later(Instant::now());
        corrections
    }

    /// Reads the calls of the threads without a stop: a hold wakes even stopped threads for a
    /// moment, and cuts transfers short. At last the processes' clocks are read once more, which
    /// shows the calls that began since the look.
    fn look_untouched(&mut self) -> Result<(Vec<StoppedThread>, Before), NotIdle> {
        let (mut seen, mut opening, now) = (Vec::new(), Vec::new(), Instant::now());
        let mut before = Before::default();
        if let Some(pid) = self.tree.carries() {
            return Err(NotIdle::Transfer { pid });
        }
        let pids = self.tree.processes();
        for pid in pids.iter().copied() {
            if process::is_stopped(pid) {
                return Err(NotIdle::Stopped { pid });
            }
            for tid in process::threads(pid) {
                let Some((number, args, stack)) = process::blocked_in(pid, tid) else {
                    continue;
                };
                if calls::is_transfer(number, &args)
                    || (number == libc::SYS_read && reads_many(pid, args[0]))
                    || (number == libc::SYS_splice && has_input(pid, args[0]))
                {
                    return Err(NotIdle::Transfer { pid });
                }
                if [libc::SYS_open, libc::SYS_openat, libc::SYS_openat2].contains(&number) {
                    let call = (tid, CallKey { args, stack });
                    let since = self.opening.iter().find(|(known, _)| *known == call);
                    let since = since.map_or(now, |(_, since)| *since);
                    opening.push((call, since));
                }
                if number == libc::SYS_restart_syscall {
                    self.recognize(pid, tid, CallKey { args, stack });
                }
                let key = CallKey { args, stack };
                self.note_constant(tid, number, key);
                let unlimited = self.unlimited.get(&tid) == Some(&key);
                before.note(tid, number, key, || match unlimited {
                    true => None,
                    false => process::waits(pid, tid),
                });
                let at = At::Blocked {
                    number,
                    args,
                    stack,
                    eintr: false,
                    mark: UNSEEN_MARK,
                };
                seen.push(StoppedThread { pid, tid, at });
            }
        }
        let left = now.checked_sub(OPENING_SLACKS * self.slack());
        let just_begun = opening.iter().find(|(_, since)| left.is_none_or(|left| *since > left));
        let just_begun = just_begun.map(|((tid, _), _)| *tid);
        self.opening = opening;
        if let Some(tid) = just_begun {
            let pid = process::thread_group(tid).unwrap_or(tid);
            return Err(NotIdle::Opening { pid });
        }
        let has_run = |pid: &i32| self.idle.has_process_run(*pid, cpu::process_cpu(*pid));
        let ran: HashSet<i32> = pids.into_iter().filter(has_run).collect();
        before.note_clocks(ran, Instant::now());
        Ok((seen, before))
    }

    /// Reads the limit of a call that writes back the time left when interrupted.
    fn note_constant(&mut self, tid: i32, number: i64, key: CallKey) {
        if !matches!(number, libc::SYS_select | libc::SYS_pselect6 | libc::SYS_ppoll) {
            return;
        }
        let wait = calls::wait_of(number, &key.args, &ThreadMemory::of(tid));
        let Ok(Deadline::Left(says)) = wait.map(|wait| wait.deadline) else {
            return;
        };
        let before = self.interrupted.made_anew(tid, number, &key);
        let left = before.and_then(|call| call.due.left(self.ran_from));
        self.constants.note(tid, key, says, left);
    }

    /// Recognizes a call that goes on as restart_syscall(2) because an outsider interrupted the
    /// call (SIGSTOP, a debugger). The kernel function in which the thread waits identifies the
    /// call. The time left is unknown.
    fn recognize(&mut self, pid: i32, tid: i32, key: CallKey) {
        if self
            .interrupted
            .get(tid, libc::SYS_restart_syscall, &key, UNSEEN_MARK)
            .is_some()
        {
            return;
        }
        let place = process::waits_at(pid, tid).unwrap_or_default();
        let number = match &*place {
            place if place.contains("poll") => libc::SYS_poll,
            place if place.contains("nanosleep") => libc::SYS_nanosleep,
            place if place.contains("futex") => libc::SYS_futex,
            _ => return,
        };
        let Ok(wait) = calls::wait_of(number, &key.args, &ThreadMemory::of(tid)) else {
            return;
        };
        let due = match wait.deadline {
            Deadline::Never => Due::Never,
            _ => Due::Unknown,
        };
        self.interrupted.remember(
            tid,
            Call {
                pid,
                key,
                number,
                wait,
                due,
                mark: 0,
            },
        );
    }

    /// Makes a plan from the calls of the threads, and remembers the calls that will go on.
    ///
    /// `before` holds the calls just before the hold. `all_frozen` is true if the freezer, if
    /// present, has frozen all threads.
    fn plan(
        &mut self,
        threads: &[StoppedThread],
        before: &Before,
        all_frozen: bool,
        ran_from: Instant,
        now: &Now,
    ) -> Plan {
        let began = |thread: &StoppedThread| {
            let (pid, tid) = (thread.pid, thread.tid);
            let looked = self.idle.began(pid, ran_from, now.instant);
            let held = match all_frozen && self.tree.freezes(pid) {
                true => Held::Frozen,
                false => Held::Stopped,
            };
            before.began(thread, looked, || process::waits(pid, tid), held, now.instant)
        };
        // A thread waits once more for each call made to hand descriptors over.
        let duplicates = self.tree.duplicates();
        let counted: HashMap<i32, Bounds> = match duplicates {
            Duplicates::Kernel => HashMap::new(),
            Duplicates::Threads(_) => threads.iter().map(|thread| (thread.tid, began(thread))).collect(),
        };
        let began = |thread: &StoppedThread| counted.get(&thread.tid).copied().unwrap_or_else(|| began(thread));
        let mut plan = plan::plan(
            threads,
            &self.interrupted,
            now,
            ThreadMemory::of,
            began,
            |pid, number, kind| what_descriptor_says(&duplicates, pid, number, kind),
            process::clock_ahead,
        );
        self.interrupted.set(std::mem::take(&mut plan.calls));
        self.unlimited = std::mem::take(&mut plan.unlimited);
        plan
    }

    /// Learns from the deadlines of a held host that has run since `ran_from`, for a tick or until
    /// the start of the sleep.
    pub(super) fn observe_deadlines(&mut self, pids: &[i32], ran_from: Instant, ticked: bool) {
        let now = Instant::now();
        let timers: Vec<_> = pids.iter().flat_map(|pid| few_timerfds(*pid)).collect();
        let of_timers = timers.iter().map(|timer| Seen::of_timer(timer, ran_from, now));
        let of_calls = self
            .interrupted
            .all()
            .filter_map(|(tid, call)| Seen::of_call(tid, call, self.constants.get(tid, call)));
        self.rhythms.observe(now, ticked, of_calls.chain(of_timers));
        self.constants.retain(|tid| self.interrupted.is_known(tid));
    }

    /// Takes over the waits of the threads. `rewrites` receives how the interrupted calls go on,
    /// even if the host is not idle.
    fn take_over(
        &mut self,
        host: &Host,
        threads: &[StoppedThread],
        before: &Before,
        ran_from: Instant,
        rewrites: &mut Vec<(i32, GoOn)>,
    ) -> Result<Frozen, NotNow> {
        let now = Now::read();
        let mut pids: Vec<i32> = threads.iter().map(|thread| thread.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut plan = self.plan(threads, before, true, ran_from, &now);
        *rewrites = std::mem::take(&mut plan.rewrites);
        if let Some(why) = plan.not_idle {
            return Err(why.into());
        }
        let duplicates = self.tree.duplicates();
        watch_sockets(&mut plan, &duplicates);
        let (signalfds, news): (Vec<_>, Vec<_>) = leave_taking(&mut plan, &duplicates)
            .into_iter()
            .partition(|taking| taking.signals.is_some());
        let once_a_slack = |taking: &Taking| (taking.pid, "a file that tells its news once", Due::Unknown);
        plan.dues.extend(news.iter().map(once_a_slack));
        let set = wait_set(&pids, &mut plan, &duplicates, &now).map_err(NotNow::Duplicate)?;
        // Later connections find the full backlog. Earlier connections are ready.
        self.backlogs.widen(&host.retained);
        let words = self.private_words.sort_out(&plan.futexes);
        if !set.ready().is_empty() || words.iter().any(SharedWord::has_changed) {
            return Err(NotNow::Ready);
        }
        for pid in &pids {
            plan.dues
                .extend(few_timerfds(*pid).iter().map(|timer| due_of(timer, &now)));
        }
        let posix_timers = pids.iter().any(|pid| timers::has_posix_timers(*pid));
        let signals: HashMap<i32, u64> = pids
            .iter()
            .map(|pid| (*pid, signals::waiting_for(*pid, posix_timers)))
            .collect();
        let has_come = |signalfd: &Taking| {
            let signals = signals[&signalfd.pid] & signalfd.signals.unwrap_or(0);
            !signalfd.told && signals != 0
        };
        // Checked after the pending signals were noted: later signals are new to the sleeping host.
        if signalfds.iter().any(has_come) || threads.iter().any(has_a_signal) {
            return Err(NotNow::Ready);
        }
        let slack = self.slack();
        let signals_every =
            match !signalfds.is_empty() || posix_timers || pids.iter().any(|pid| timers::may_have_interval_timer(*pid))
            {
                true => slack.max(SIGNALS_WITH_TIMERS),
                false => SIGNALS,
            };
        Ok(Frozen {
            since: now.instant,
            began: Stamp::now(),
            pids,
            set,
            dues: plan.dues,
            slack,
            posix_timers,
            signals,
            signals_every,
            words,
            bytes: None,
        })
    }
}

/// Adds sockets that no call names: all sockets of a process with a call outside the table, and
/// sockets that send signals if a thread waits for signals only.
fn watch_sockets(plan: &mut Plan, duplicates: &Duplicates<'_>) {
    for pid in plan.unknown.clone() {
        for (number, kind) in descriptors::descriptors(pid) {
            if kind == descriptors::Kind::Socket {
                plan.watch(pid, number, PollFlags::IN, "a call that imsup does not know");
            }
        }
    }
    for pid in plan.signalled.clone() {
        for number in asynchronous_sockets(duplicates, pid) {
            plan.watch(pid, number, PollFlags::IN, "O_ASYNC");
        }
    }
}

/// Duplicates the awaited descriptors. For descriptors that cannot be awaited, the host runs now
/// and then.
fn wait_set(pids: &[i32], plan: &mut Plan, duplicates: &Duplicates<'_>, now: &Now) -> Result<WaitSet, Errno> {
    let mut set = WaitSet::new(pids)?;
    for (pid, watches) in &plan.watches {
        if !set.watch(*pid, watches, duplicates)?.is_empty() {
            plan.dues
                .push((*pid, "a descriptor that cannot be waited for", Due::Unknown));
        }
    }
    let realtime = plan.dues.iter().filter_map(|(_, _, due)| match due {
        Due::From { realtime, .. } => *realtime,
        _ => None,
    });
    if let Some(first) = realtime.min() {
        // Deadlines are checked by imsup's own clock. This timer is for a change of CLOCK_REALTIME.
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

/// The properties of the socket or terminal behind a descriptor that affect a wait.
fn what_descriptor_says(duplicates: &Duplicates<'_>, pid: i32, number: i32, kind: LimitOf) -> Says {
    let Ok(fd) = duplicates.one(pid, number) else {
        return Says::default();
    };
    Says {
        limit: limit_of_descriptor(pid, number, fd.as_fd(), kind),
        nonblocking: socket::status_flags(fd.as_fd()).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)),
    }
}

/// The time limit of the socket or terminal behind a descriptor.
fn limit_of_descriptor(pid: i32, number: i32, fd: BorrowedFd<'_>, kind: LimitOf) -> Option<Limit> {
    let time = match kind {
        LimitOf::Receive => socket::receive_timeout(fd),
        LimitOf::Send => socket::send_timeout(fd),
    };
    match (time, kind) {
        (Ok(time), _) => time.map(|time| Limit { time, timed_out: None }),
        // A read from a terminal that ends by a time-out reads no bytes (termios(3)).
        (Err(_), LimitOf::Receive) if process::is_terminal(pid, number) => {
            let (fewest, time) = terminal::reads_raw(fd)?;
            (fewest == 0).then_some(time).flatten().map(|time| Limit {
                time,
                timed_out: Some(0),
            })
        }
        (Err(_), _) => None,
    }
}

/// True if a read from this descriptor collects several bytes before the return (VMIN of a
/// terminal). An interrupted read returns the bytes collected so far.
fn reads_many(pid: i32, number: u64) -> bool {
    let Ok(number) = i32::try_from(number) else {
        return false;
    };
    process::is_terminal(pid, number)
        && pidfd::open_process(pid)
            .and_then(|pidfd| pidfd::duplicate_from(&pidfd, number))
            .or_else(|_| descriptors::open_again(pid, number))
            .map_or(true, |fd| {
                terminal::reads_raw(fd.as_fd()).is_some_and(|(fewest, _)| fewest > 1)
            })
}

/// True if a splice(2) from this descriptor waits for room in the output: there is input to read.
/// The call may have moved a part already.
fn has_input(pid: i32, number: u64) -> bool {
    let Ok(number) = i32::try_from(number) else {
        return false;
    };
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match pidfd::open_process(pid).and_then(|pidfd| pidfd::duplicate_from(&pidfd, number)) {
        Ok(fd) => poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0),
        Err(Errno::EBADF | Errno::ESRCH) => false,
        // The descriptor cannot be examined without a stop of the process, which would cut the call
        // short.
        Err(_) => true,
    }
}

/// True if a thread will take a pending signal as soon as the thread runs. The signal came while
/// the host was being held, so no new signal comes during the sleep.
fn has_a_signal(thread: &StoppedThread) -> bool {
    let is_waited_for = match thread.at {
        At::Blocked { number, args, .. } => number == libc::SYS_rt_sigtimedwait && is_one_pending(thread.tid, args[0]),
        _ => false,
    };
    is_waited_for || signals::interrupts(thread.tid)
}

/// True if a pending signal of a thread is in a signal set in the thread's memory
/// (sigtimedwait(2)).
pub(super) fn is_one_pending(tid: i32, set: u64) -> bool {
    let set = ThreadMemory::of(tid).read_array(set);
    set.is_ok_and(|set| signals::pending_for(tid) & u64::from_ne_bytes(set) != 0)
}

/// The sockets of a process that send a signal when data comes (O_ASYNC).
fn asynchronous_sockets(duplicates: &Duplicates<'_>, pid: i32) -> Vec<i32> {
    let sockets = descriptors::descriptors(pid)
        .into_iter()
        .filter(|(_, kind)| *kind == descriptors::Kind::Socket);
    let sockets: Vec<i32> = sockets.map(|(number, _)| number).collect();
    let is_asynchronous = |socket: Result<OwnedFd, Errno>| {
        let flags = socket.and_then(|socket| socket::status_flags(socket.as_fd()));
        flags.is_ok_and(|flags| flags.contains(OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned())))
    };
    let found = duplicates.all(pid, &sockets).unwrap_or_default();
    let found = sockets.into_iter().zip(found);
    found
        .filter_map(|(number, socket)| is_asynchronous(socket).then_some(number))
        .collect()
}

/// The armed timerfds of a process; empty if the process has too many descriptors for a quick
/// search.
fn few_timerfds(pid: i32) -> Vec<timers::TimerFd> {
    match descriptors::count(pid) <= super::MANY_DESCRIPTORS {
        true => timers::timerfds(pid),
        false => Vec::new(),
    }
}
