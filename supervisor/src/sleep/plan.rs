//! Decides from stopped threads if the host is idle, and which waits imsup takes over. Pure except
//! for reading the threads' memory.

use std::collections::HashMap;
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::PollFlags;

use super::calls;
use super::deadlines::{self, Bounds, Call, CallKey, Due, Interrupted, Now, UNSEEN_MARK};
use super::wait::{Clock, Deadline, Futex, LimitOf, Wait};
use imsup_linux::memory::TargetMemory;
use imsup_linux::stopped::{At, GoOn, StoppedThread};

/// Why a host that stands still is not idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotIdle {
    /// A thread was running.
    #[error("thread {tid} of process {pid} was running")]
    Running { pid: i32, tid: i32 },
    /// A thread is in a call that would end early.
    #[error("process {pid} is in the middle of a transfer, which stopping it would cut short")]
    Transfer { pid: i32 },
    /// A thread has just begun to wait in open(2). Both ends of a FIFO must be in that call at
    /// once: a sleeper at the other end is let run once per slack.
    #[error("process {pid} has just begun to wait for the other end of a FIFO")]
    Opening { pid: i32 },
    /// A process is stopped by a signal, and imsup cannot see the signal that would let the process
    /// go on.
    #[error("process {pid} is stopped (SIGSTOP), and what would continue it cannot be seen")]
    Stopped { pid: i32 },
    /// The memory of a thread could not be read.
    #[error("the memory of process {pid} cannot be read: {errno}")]
    Unreadable { pid: i32, errno: Errno },
}

/// Trapped calls that do not wait.
const TRAPPED: [i64; 6] = [
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_uname,
    libc::SYS_open,
];

/// The flags of a trapped open(2): the flags of musl's resolver (O_LARGEFILE with the kernel's
/// value). An open(2) with other flags waits for the other end of a FIFO.
const TRAPPED_OPEN: u64 = (libc::O_RDONLY | libc::O_CLOEXEC | 0o100_000) as u64;

fn is_trapped(number: i64, args: &[u64; 6]) -> bool {
    TRAPPED.contains(&number) && (number != libc::SYS_open || args[1] == TRAPPED_OPEN)
}

/// Trapped calls that wait, unless the descriptor or a flag forbids a wait.
const TRAPPED_WAITS: [i64; 6] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
];

/// True if a call that may be trapped waits only for the reply to the notification.
fn answers_at_once(number: i64, args: &[u64; 6], nonblocking: bool) -> bool {
    let flags = match number {
        libc::SYS_sendto | libc::SYS_sendmmsg => args[3],
        libc::SYS_sendmsg => args[2],
        _ => 0,
    };
    TRAPPED_WAITS.contains(&number) && (nonblocking || flags & libc::MSG_DONTWAIT as u64 != 0)
}

/// The properties of a descriptor that affect a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// The time limit of the descriptor.
    pub limit: Option<Limit>,
    /// True if calls on the descriptor do not wait (O_NONBLOCK).
    pub nonblocking: bool,
}

/// A time limit of a descriptor, and the result of a call that ends by this limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How long.
    pub time: Duration,
    /// The result, if different from the table of calls.
    pub timed_out: Option<i64>,
}

/// The waits that imsup takes over.
#[derive(Debug, Default)]
pub struct Plan {
    /// The reason why the host is not idle; `None` if the host is idle.
    pub not_idle: Option<NotIdle>,
    /// The awaited descriptors of each process, by number: the awaited events, and the call that
    /// waits.
    pub watches: HashMap<i32, HashMap<i32, (PollFlags, &'static str)>>,
    /// The times at which the threads' calls give up, if at all: process, call, time.
    pub dues: Vec<(i32, &'static str, Due)>,
    /// Processes with a thread in a call that is not in the table.
    pub unknown: Vec<i32>,
    /// Processes with a thread that waits for signals, which a socket may send (O_ASYNC, fcntl(2)).
    pub signalled: Vec<i32>,
    /// The calls that go on when the host runs again, by thread.
    pub calls: HashMap<i32, Call>,
    /// Calls without a time limit, of a kind that may have a limit enforced by imsup, by thread.
    pub unlimited: HashMap<i32, CallKey>,
    /// How calls go on that would say EINTR, or that have a limit which the kernel would count
    /// anew, by thread.
    pub rewrites: Vec<(i32, GoOn)>,
    /// Futexes that are not private, with the thread that waits.
    pub futexes: Vec<(StoppedThread, Futex)>,
}

/// Decides from stopped threads. `memory` is of a thread, `began` the bounds of a thread's call,
/// `says` asks the descriptor that a thread waits for, `ahead` is by how many nanoseconds a
/// process's CLOCK_MONOTONIC (or CLOCK_BOOTTIME) is ahead of ours.
///
/// The plan says how interrupted calls go on, even if the host is not idle.
pub fn plan<M: TargetMemory>(
    threads: &[StoppedThread],
    before: &Interrupted,
    now: &Now,
    memory: impl Fn(i32) -> M,
    began: impl Fn(&StoppedThread) -> Bounds,
    says: impl Fn(i32, i32, LimitOf) -> Says,
    ahead: impl Fn(i32, bool) -> i128,
) -> Plan {
    let mut plan = Plan::default();
    for thread in threads {
        let (pid, tid) = (thread.pid, thread.tid);
        let (number, args, stack, eintr, mark) = match thread.at {
            At::Blocked {
                number,
                args,
                stack,
                eintr,
                mark,
            } => (number, args, stack, eintr, mark),
            At::UserMode | At::Completed { .. } => {
                plan.not_idle.get_or_insert(NotIdle::Running { pid, tid });
                continue;
            }
            At::GroupStop => {
                plan.not_idle.get_or_insert(NotIdle::Stopped { pid });
                continue;
            }
        };
        if is_trapped(number, &args) {
            // Interrupted before the supervisor received the notification: the call is made again.
            plan.not_idle.get_or_insert(NotIdle::Running { pid, tid });
            continue;
        }
        let key = CallKey { args, stack };
        let mut call = match before.get(tid, number, &key, mark) {
            Some(call) => call.clone(),
            None => {
                let mut wait = match calls::wait_of(number, &args, &memory(tid)) {
                    Ok(wait) => wait,
                    Err(errno) => {
                        plan.not_idle.get_or_insert(NotIdle::Unreadable { pid, errno });
                        Wait::unknown()
                    }
                };
                let said = wait.limited_by.map(|(number, kind)| says(pid, number, kind));
                let said = said.unwrap_or_default();
                if answers_at_once(number, &args, said.nonblocking) {
                    // As above: the result of the call, and the next step of the program, are
                    // unknown.
                    plan.not_idle.get_or_insert(NotIdle::Running { pid, tid });
                    continue;
                }
                if let Some(limit) = said.limit {
                    wait.deadline = Deadline::After(limit.time);
                    wait.timed_out = limit.timed_out.or(wait.timed_out);
                }
                if eintr && wait.left_at.take().is_some() {
                    // The time left could not be written back: the memory is read-only
                    // (fs/select.c, poll_select_finish).
                    if let Deadline::Left(time) = wait.deadline {
                        wait.deadline = Deadline::After(time);
                    }
                    wait.timed_out = (number == libc::SYS_ppoll).then_some(0);
                }
                if let Deadline::At(clock @ (Clock::Monotonic | Clock::Boottime), time) = &mut wait.deadline {
                    *time = set_back(*time, ahead(pid, *clock == Clock::Boottime));
                }
                let mut due = match wait.deadline {
                    Deadline::Never => Due::Never,
                    deadline => deadlines::due(deadline, began(thread), now),
                };
                if let Some(call) = before.made_anew(tid, number, &key) {
                    due.keep_span(&call.due);
                }
                Call {
                    pid,
                    key,
                    number,
                    wait,
                    due,
                    mark: 0,
                }
            }
        };
        let counts_anew = matches!(call.due, Due::From { .. }) && call.wait.timed_out.is_some();
        if call.mark == 0 && counts_anew && mark != UNSEEN_MARK {
            call.mark = before.fresh_mark();
        }
        if let Some(over) = call.timed_out(now.instant)
            && mark != UNSEEN_MARK
        {
            // The time limit ended while the host ran, which the kernel did not know.
            plan.rewrites.push((tid, over));
            plan.not_idle.get_or_insert(NotIdle::Running { pid, tid });
            continue;
        }
        if call.mark != 0 || (eintr && calls::goes_on(number, &args)) {
            plan.rewrites.push((tid, GoOn::Anew { mark: call.mark }));
        }
        let due = if call.mark == 0 { call.due } else { call.due.at_latest() };
        plan.add(pid, &call.wait, due);
        let futexes = call.wait.futexes.iter();
        plan.futexes.extend(futexes.map(|futex| (*thread, *futex)));
        if call.due != Due::Never {
            plan.calls.insert(tid, call);
        } else if calls::may_be_told(number, &args) {
            plan.unlimited.insert(tid, key);
        }
    }
    plan
}

/// A time of a clock that is ahead of ours.
fn set_back(time: Duration, ahead_ns: i128) -> Duration {
    let nanos = i128::try_from(time.as_nanos())
        .unwrap_or(i128::MAX)
        .saturating_sub(ahead_ns);
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

impl Plan {
    fn add(&mut self, pid: i32, wait: &Wait, due: Due) {
        let watches = self.watches.entry(pid).or_default();
        for watch in &wait.watches {
            watches.entry(watch.number).or_insert((PollFlags::empty(), wait.call)).0 |= watch.events;
        }
        if due != Due::Never {
            self.dues.push((pid, wait.call, due));
        }
        if wait.unseen {
            self.dues.push((pid, wait.call, Due::Unknown));
        }
        if !wait.known && !self.unknown.contains(&pid) {
            self.unknown.push(pid);
        }
        if calls::WAITS_FOR_SIGNALS.contains(&wait.call) && !self.signalled.contains(&pid) {
            self.signalled.push(pid);
        }
    }

    /// Adds a wait for one more descriptor.
    pub fn watch(&mut self, pid: i32, number: i32, events: PollFlags, call: &'static str) {
        let watches = self.watches.entry(pid).or_default();
        watches.entry(number).or_insert((PollFlags::empty(), call)).0 |= events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imsup_linux::memory::array::Array;

    fn thread(tid: i32, at: At) -> StoppedThread {
        StoppedThread { pid: 10, tid, at }
    }

    fn blocked(number: i64, args: [u64; 6]) -> At {
        At::Blocked {
            number,
            args,
            stack: 99,
            eintr: false,
            mark: 0,
        }
    }

    fn planned(threads: &[StoppedThread], before: &Interrupted, now: &Now) -> Result<Plan, NotIdle> {
        let plan = planned_anyway(threads, before, now);
        match plan.not_idle {
            Some(why) => Err(why),
            None => Ok(plan),
        }
    }

    fn planned_anyway(threads: &[StoppedThread], before: &Interrupted, now: &Now) -> Plan {
        let began = Bounds {
            earliest: now.instant,
            latest: now.instant,
        };
        plan(
            threads,
            before,
            now,
            |_| Array::new(Vec::new()),
            |_| began,
            |_, _, _| Says::default(),
            |_, _| 0,
        )
    }

    #[test]
    fn threads_that_wait_for_the_same_descriptor_are_one_watch() {
        let epoll = blocked(libc::SYS_epoll_wait, [5, 0, 8, u64::MAX, 0, 0]);
        let plan = planned(
            &[thread(10, epoll), thread(11, epoll)],
            &Interrupted::default(),
            &Now::read(),
        )
        .unwrap();
        let expected = HashMap::from([(5, (PollFlags::IN, "epoll_wait"))]);
        assert_eq!(plan.watches, HashMap::from([(10, expected)]));
        assert!(plan.dues.is_empty() && plan.unknown.is_empty());
    }

    /// Stopped before the notification was received: the call returns at once, and the thread may
    /// find data elsewhere.
    #[test]
    fn a_nonblocking_call_that_may_be_trapped_is_no_wait() {
        let now = Now::read();
        let began = Bounds {
            earliest: now.instant,
            latest: now.instant,
        };
        let at_once = libc::MSG_DONTWAIT as u64;
        for (number, args, nonblocking, waits) in [
            (libc::SYS_accept4, [3, 0, 0, 0, 0, 0], true, false),
            (libc::SYS_accept4, [3, 0, 0, 0, 0, 0], false, true),
            (libc::SYS_sendmsg, [3, 0, 0, 0, 0, 0], true, false),
            (libc::SYS_sendmsg, [3, 0, at_once, 0, 0, 0], false, false),
            (libc::SYS_sendto, [3, 0, 9, at_once, 0, 0], false, false),
            // Another process may have made the descriptor non-blocking since: this call waits.
            (libc::SYS_read, [3, 0, 9, 0, 0, 0], true, true),
        ] {
            let says = |_, _, _| Says {
                limit: None,
                nonblocking,
            };
            let threads = [thread(10, blocked(number, args))];
            let plan = plan(
                &threads,
                &Interrupted::default(),
                &now,
                |_| Array::new(Vec::new()),
                |_| began,
                says,
                |_, _| 0,
            );
            assert_eq!(plan.not_idle.is_none(), waits, "{number}");
        }
    }

    #[test]
    fn one_running_thread_is_enough_not_to_be_idle() {
        let pause = thread(10, blocked(libc::SYS_pause, [0; 6]));
        let done = At::Completed {
            number: libc::SYS_epoll_wait,
            args: [0; 6],
            result: 1,
        };
        for at in [At::UserMode, done] {
            let error = planned(&[pause, thread(12, at)], &Interrupted::default(), &Now::read()).unwrap_err();
            assert_eq!(error, NotIdle::Running { pid: 10, tid: 12 });
        }
        let error = planned(&[thread(10, At::GroupStop)], &Interrupted::default(), &Now::read()).unwrap_err();
        assert_eq!(error, NotIdle::Stopped { pid: 10 });
    }

    #[test]
    fn a_call_says_no_eintr_because_another_thread_was_running() {
        let epoll = At::Blocked {
            number: libc::SYS_epoll_wait,
            args: [5, 0, 8, u64::MAX, 0, 0],
            stack: 99,
            eintr: true,
            mark: 0,
        };
        let threads = [thread(12, At::UserMode), thread(10, epoll)];
        let plan = planned_anyway(&threads, &Interrupted::default(), &Now::read());
        assert_eq!(plan.not_idle, Some(NotIdle::Running { pid: 10, tid: 12 }));
        assert_eq!(plan.rewrites, [(10, GoOn::Anew { mark: 0 })]);
    }

    #[test]
    fn a_restarted_call_keeps_its_deadline() {
        let now = Now::read();
        let args = [7, 1, 3000, 0, 0, 0];
        let key = CallKey { args, stack: 99 };
        let due = Due::From {
            earliest: now.instant + Duration::from_secs(2),
            latest: now.instant + Duration::from_secs(2),
            span: Duration::from_secs(3),
            realtime: None,
        };
        let call = Call {
            pid: 10,
            key,
            number: libc::SYS_poll,
            wait: Wait::unknown(),
            due,
            mark: 0,
        };
        let mut before = Interrupted::default();
        before.set(HashMap::from([(10, call)]));
        let restarted = thread(10, blocked(libc::SYS_restart_syscall, args));
        let plan = planned(&[restarted], &before, &now).unwrap();
        assert_eq!(plan.dues.iter().map(|(_, _, due)| *due).collect::<Vec<_>>(), [due]);
        assert!(plan.calls.contains_key(&10), "it may be interrupted again");
    }

    #[test]
    fn a_call_that_is_made_anew_by_itself_was_to_wait_for_as_long_as_before() {
        let mut now = Now::read();
        let select = [0, 0, 0, 0, 4096, 0];
        let left = |seconds: u64| Left(Duration::from_secs(seconds));
        let plan_at = |now: &Now, before: &Interrupted, seconds| {
            let began = Bounds {
                earliest: now.instant,
                latest: now.instant,
            };
            let threads = [thread(10, blocked(libc::SYS_select, select))];
            plan(
                &threads,
                before,
                now,
                |_| left(seconds),
                |_| began,
                |_, _, _| Says::default(),
                |_, _| 0,
            )
        };
        let mut before = Interrupted::default();
        before.set(plan_at(&now, &before, 600).calls);
        now.instant += Duration::from_secs(599);
        let span = |plan: &Plan| match plan.dues[0].2 {
            Due::From { span, .. } => span,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            span(&plan_at(&now, &before, 1)),
            Duration::from_secs(600),
            "the same wait"
        );
        assert_eq!(span(&plan_at(&now, &before, 2)), Duration::from_secs(2), "another");
    }

    /// The memory of a call with a `timeval` of this time.
    struct Left(Duration);

    impl TargetMemory for Left {
        fn read(&self, _: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
            buffer.fill(0);
            buffer[..8].copy_from_slice(&self.0.as_secs().to_ne_bytes());
            Ok(buffer.len())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
            Err(Errno::EFAULT)
        }
    }

    #[test]
    fn a_call_that_would_say_eintr_goes_on_and_its_time_too() {
        let now = Now::read();
        let epoll = |limit: u64, mark| At::Blocked {
            number: libc::SYS_epoll_wait,
            args: [5, 0, 8, limit, 0, 0],
            stack: 99,
            eintr: true,
            mark,
        };
        let forever = planned(&[thread(10, epoll(u64::MAX, 0))], &Interrupted::default(), &now).unwrap();
        assert_eq!(forever.rewrites, [(10, GoOn::Anew { mark: 0 })]);
        assert!(forever.calls.is_empty(), "there is nothing to remember of it");

        let mut before = Interrupted::default();
        let limited = planned(&[thread(10, epoll(3000, 0))], &before, &now).unwrap();
        let call = limited.calls[&10].clone();
        assert_ne!(call.mark, 0);
        assert_eq!(limited.rewrites, [(10, GoOn::Anew { mark: call.mark })]);

        // The call was released and went on. A second later the host is held again.
        before.set(limited.calls);
        let after = |seconds| Now {
            instant: now.instant + Duration::from_secs(seconds),
            ..now
        };
        let again = planned(&[thread(10, epoll(3000, call.mark))], &before, &after(1)).unwrap();
        assert_eq!(again.calls[&10].due, call.due, "its deadline is what it was");
        assert_eq!(again.calls[&10].mark, call.mark);
        // The time limit ends while the host runs, and no time-out is reported before the next
        // hold.
        let over = planned_anyway(&[thread(10, epoll(3000, call.mark))], &before, &after(3));
        assert_eq!(over.rewrites, [(10, GoOn::Return(0))]);
        assert_eq!(over.not_idle, Some(NotIdle::Running { pid: 10, tid: 10 }));
        // A call that looks the same and has no mark was made since.
        let another = planned(&[thread(10, epoll(3000, 0))], &before, &after(3)).unwrap();
        assert_ne!(another.calls[&10].due, call.due);
    }

    #[test]
    fn a_restarted_call_that_nobody_remembers_is_let_run_now_and_then() {
        let restarted = thread(10, blocked(libc::SYS_restart_syscall, [0; 6]));
        let plan = planned(&[restarted], &Interrupted::default(), &Now::read()).unwrap();
        assert_eq!(plan.unknown, [10]);
        assert_eq!(plan.dues, [(10, Wait::unknown().call, Due::Unknown)]);
    }

    #[test]
    fn memory_that_cannot_be_read_leaves_the_host_alone() {
        let poll = thread(10, blocked(libc::SYS_poll, [4096, 1, 0, 0, 0, 0]));
        let error = planned(&[poll], &Interrupted::default(), &Now::read()).unwrap_err();
        assert_eq!(
            error,
            NotIdle::Unreadable {
                pid: 10,
                errno: Errno::EFAULT
            }
        );
    }
}
