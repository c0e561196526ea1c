//! Threads stopped by ptrace(2): reading their state, and staying unnoticed.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use imsup_linux::stopped::{At, GoOn, SeenThread, StopError, Stopped, StoppedThread, stop, stop_threads};
use imsup_linux::{notify::Answer, process};
use nix::libc;
use nix::sys::signal::Signal;

use crate::notification;
use crate::script::{LIMIT, Script, until};

/// A thread in each of the calls in which servers wait, besides the first thread, which reads the
/// standard input.
pub const BLOCKED: &str = "
spec = (ctypes.c_long * 2)(1000, 0)
futex = ctypes.c_int(0)
(r, w), (r2, w2), e = os.pipe(), os.pipe(), select.epoll()
polled = (ctypes.c_int * 2)(r2, select.POLLIN)
thread('sleep', 35, ctypes.byref(spec), 0)
thread('poll', 7, ctypes.byref(polled), 1, 100000)
thread('read', 0, r, ctypes.create_string_buffer(8), 1)
thread('futex', 202, ctypes.byref(futex), 0, 0, 0)
thread('epoll', 232, e.fileno(), ctypes.create_string_buffer(64), 4, -1)
";

/// The calls of [`BLOCKED`], including the first thread's.
pub const CALLS: [i64; 6] = [
    libc::SYS_read,
    libc::SYS_read,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_futex,
    libc::SYS_epoll_wait,
];

fn stop_one(script: &Script) -> Result<Stopped, StopError> {
    stop(&|| vec![script.pid()], LIMIT)
}

/// Call and arguments of every blocked thread, by thread.
pub fn blocked(threads: &[StoppedThread]) -> Vec<(i32, i64, [u64; 6], u64)> {
    let mut found: Vec<_> = threads
        .iter()
        .map(|thread| match thread.at {
            At::Blocked {
                number, args, stack, ..
            } => (thread.tid, number, args, stack),
            other => panic!("{} is not blocked: {other:?}", thread.tid),
        })
        .collect();
    found.sort_unstable();
    found
}

/// How often each of these threads has waited so far.
pub fn waits(threads: &[StoppedThread]) -> Vec<(i32, u64)> {
    let waits = |thread: &StoppedThread| (thread.tid, process::waits(thread.pid, thread.tid).unwrap());
    let mut found: Vec<_> = threads.iter().map(waits).collect();
    found.sort_unstable();
    found
}

/// How often each thread of a process has waited so far.
pub fn waits_of(pid: i32) -> Vec<(i32, u64)> {
    let waits = |tid| (tid, process::waits(pid, tid).unwrap());
    let mut found: Vec<_> = process::threads(pid).into_iter().map(waits).collect();
    found.sort_unstable();
    found
}

/// The same, after each has waited some times more.
pub fn more(waits: &[(i32, u64)], times: u64) -> Vec<(i32, u64)> {
    waits.iter().map(|(tid, count)| (*tid, count + times)).collect()
}

/// The calls of [`BLOCKED`] after being let go.
pub const RESTARTED: [i64; 5] = [
    libc::SYS_read,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_restart_syscall,
    libc::SYS_futex,
];

/// Compares a second look with the first. The calls and arguments are the same, except for
/// restart_syscall(2) for calls whose time must count from the start; and epoll_wait is over
/// (signal(7), "Interruption of system calls").
pub fn assert_restarted(first: &[(i32, i64, [u64; 6], u64)], second: &[(i32, i64, [u64; 6], u64)]) {
    let expected: Vec<_> = first
        .iter()
        .filter(|(_, number, ..)| *number != libc::SYS_epoll_wait)
        .map(|&(tid, number, args, stack)| match number {
            libc::SYS_nanosleep | libc::SYS_poll => (tid, libc::SYS_restart_syscall, args, stack),
            _ => (tid, number, args, stack),
        })
        .collect();
    assert_eq!(second, expected);
}

/// arch/x86/kernel/signal.c, arch_do_signal_or_restart: a call that was interrupted keeps its
/// number and arguments, and goes on when the thread is let go; only epoll_wait says EINTR.
#[test]
fn blocked_calls_are_read_and_go_on() {
    let mut script = Script::start(BLOCKED);
    script.await_calls(&CALLS);
    let stopped = stop_one(&script).unwrap();
    let first = blocked(stopped.threads());
    let mut numbers: Vec<_> = first.iter().map(|(_, number, ..)| *number).collect();
    let mut expected = CALLS.to_vec();
    numbers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
    let timeout = first
        .iter()
        .find(|(_, number, ..)| *number == libc::SYS_poll)
        .unwrap()
        .2[2];
    assert_eq!(timeout, 100_000);
    stopped.release();
    assert_eq!(script.line(), format!("epoll -1 {}", libc::EINTR));
    // A thread that is stopped again before running has not even begun its call again.
    script.await_calls(&RESTARTED);

    let stopped = stop_one(&script).unwrap();
    assert_restarted(&first, &blocked(stopped.threads()));
    stopped.release();
    // The threads are alive: the pipe's reader gets a byte, and no other call has returned.
    script.tell("os.write(w, b'x')");
    assert_eq!(script.line(), "read 1 0");
}

/// kernel/signal.c, ptrace_stop: a stop schedules once. So a thread that has waited more often has
/// made another call, or the call has waited again.
#[test]
fn to_be_stopped_is_one_more_wait() {
    let script = Script::start(BLOCKED);
    script.await_calls(&CALLS);
    let before = waits_of(script.pid());
    let stopped = stop_one(&script).unwrap();
    assert_eq!(waits(stopped.threads()), more(&before, 1));
    stopped.release();
}

/// After `release_soon`, threads go on although the tracer still exists. After the wait for the
/// tracer, another tracer may attach.
#[test]
fn threads_go_on_before_their_tracer_ends() {
    let mut script = Script::start(BLOCKED);
    script.await_calls(&CALLS);
    let releasing = stop_one(&script).unwrap().release_soon();
    assert_eq!(script.line(), format!("epoll -1 {}", libc::EINTR));
    script.tell("os.write(w, b'x')");
    assert_eq!(script.line(), "read 1 0");
    drop(releasing);
    stop_one(&script).unwrap().release();
}

/// A tracer may have an interrupted epoll_wait begun anew, by the result for which the kernel
/// restarts calls (-ERESTARTNOHAND): the program does not see EINTR. A tracer may also make the
/// call return any value. A pending handler runs first, and the result is then EINTR, as natively.
#[test]
fn an_interrupted_epoll_wait_can_be_begun_anew() {
    let mut script = Script::start(
        "
(r, w), e = os.pipe(), select.epoll()
e.register(r)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
room = ctypes.create_string_buffer(64)
def wait(timeout):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    say('epoll', *call(232, e.fileno(), room, 4, timeout))
wait_for = lambda timeout: threading.Thread(target=wait, args=(timeout,), daemon=True).start()
",
    );
    let calls = [libc::SYS_read, libc::SYS_epoll_wait];
    let go_on = |script: &Script, go_on: GoOn, signal: Option<Signal>| {
        script.await_calls(&calls);
        let stopped = stop_one(script).unwrap();
        let waits = |thread: &&StoppedThread| matches!(thread.at, At::Blocked { eintr: true, .. });
        let waiting = stopped.threads().iter().find(waits).unwrap();
        stopped.rewrite(vec![(waiting.tid, go_on)]);
        if let Some(signal) = signal {
            script.signal(signal);
        }
        stopped.release();
    };
    let anew = GoOn::Anew { mark: 0 };
    script.tell("wait_for(-1)");
    for _ in 0..3 {
        go_on(&script, anew, None);
    }
    script.await_calls(&calls);
    script.tell("os.write(w, b'x')");
    assert_eq!(script.line(), "epoll 1 0");
    assert_eq!(script.ask("os.read(r, 1)"), "b'x'");

    script.tell("wait_for(-1)");
    go_on(&script, GoOn::Return(0), None);
    assert_eq!(script.line(), "epoll 0 0");
    script.tell("wait_for(-1)");
    go_on(&script, anew, Some(Signal::SIGUSR1));
    assert_eq!(script.line(), format!("epoll -1 {}", libc::EINTR));
}

/// The kernel looks at the low half of a call's number only (arch/x86/entry/entry_64.S), and
/// restarts the call with all of it: a mark in the high half stays for as long as the call goes on,
/// and the program, /proc and the next call have none.
#[test]
fn a_mark_stays_with_a_call_that_goes_on_and_with_no_other() {
    let mut script = Script::start(
        "
(r, w), e = os.pipe(), select.epoll()
e.register(r)
room = ctypes.create_string_buffer(64)
def wait():
    while True: say('epoll', *call(232, e.fileno(), room, 4, -1), os.read(r, 1))
threading.Thread(target=wait, daemon=True).start()
",
    );
    let calls = [libc::SYS_read, libc::SYS_epoll_wait];
    let mark_of = |script: &Script, go_on: u32| {
        script.await_calls(&calls);
        let stopped = stop_one(script).unwrap();
        let mark = stopped.threads().iter().find_map(|thread| match thread.at {
            At::Blocked { number, mark, .. } if number == libc::SYS_epoll_wait => Some((thread.tid, mark)),
            _ => None,
        });
        let (tid, mark) = mark.expect("a thread that waits");
        stopped.rewrite(vec![(tid, GoOn::Anew { mark: go_on })]);
        stopped.release();
        mark
    };
    assert_eq!(mark_of(&script, 0x7fff_1234), 0);
    assert_eq!(mark_of(&script, 0), 0x7fff_1234);
    assert_eq!(mark_of(&script, 0x7fff_1234), 0x7fff_1234);
    script.await_calls(&calls);
    script.tell("os.write(w, b'x')");
    assert_eq!(script.line(), "epoll 1 0 b'x'");
    assert_eq!(mark_of(&script, 0), 0, "the next call");
}

/// A running thread is in user mode, or its call is over at the stop: read(2) of /dev/zero returns
/// the bytes read so far.
#[test]
fn running_threads_are_told_from_blocked_ones() {
    let zeros = "
def fill():
    zero, room = os.open('/dev/zero', 0), bytearray(1 << 22)
    say('filling')
    while True: os.readv(zero, [room])
";
    let mut script = Script::start(zeros);
    script.tell("threading.Thread(target=fill, daemon=True).start()");
    assert_eq!(script.line(), "filling");
    let mut completed = 0;
    for _ in 0..50 {
        let stopped = stop_one(&script).unwrap();
        let running = stopped
            .threads()
            .iter()
            .find(|thread| thread.tid != script.pid())
            .unwrap();
        match running.at {
            At::UserMode => {}
            At::Completed { number, result, .. } if number == libc::SYS_readv => {
                assert!(result > 0, "{result}");
                completed += 1;
            }
            // Python reports the start, and takes the interpreter lock between two reads.
            At::Completed { .. } => {}
            At::Blocked { number, .. } => assert_eq!(number, libc::SYS_futex),
            At::GroupStop => panic!("nobody stopped it"),
        }
    }
    assert!(completed > 0, "a thread that reads all the time was never seen to");
}

/// A stop by PTRACE_INTERRUPT is the tracer's alone (kernel/signal.c, do_notify_parent_cldstop): no
/// SIGCHLD and no wait status for the parent, nor when the thread goes on.
#[test]
fn a_parent_sees_nothing_of_a_stop() {
    let mut script = Script::start(
        "
seen = []
signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
child = os.fork()
if child == 0:
    while True: signal.pause()
wait = lambda: os.waitpid(child, os.WUNTRACED | os.WCONTINUED | os.WNOHANG)
",
    );
    let child: i32 = script.ask("child").parse().unwrap();
    let stopped = stop(&|| vec![child], LIMIT).unwrap();
    assert_eq!(stopped.threads().len(), 1);
    assert_eq!(script.ask("seen, wait()"), "[] (0, 0)");
    stopped.release();
    assert_eq!(script.ask("seen, wait()"), "[] (0, 0)");
    // The parent would see a stop that job control knows.
    process::send(child, Signal::SIGSTOP).unwrap();
    until("a stop that the parent sees", || script.ask("seen") == "[1]");
    process::send(child, Signal::SIGKILL).unwrap();
}

/// proc_pid_stat(5), starttime: only the thread that was seen before is stopped. A later thread
/// with the same id, of the same process or of another, is not even interrupted.
#[test]
fn a_thread_that_has_anothers_number_is_left_alone() {
    let script = Script::start("thread('pause', 34)");
    script.await_calls(&[libc::SYS_read, libc::SYS_pause]);
    let pid = script.pid();
    let before = waits_of(pid);
    let seen = SeenThread::remember(pid, pid).unwrap();
    let earlier = SeenThread {
        started: seen.started.map(|started| started - 1),
        ..seen
    };
    let of_another = SeenThread {
        pid: std::process::id().cast_signed(),
        ..seen
    };
    let (stopped, trouble) = stop_threads(vec![earlier, of_another], LIMIT).unwrap();
    assert_eq!((stopped.threads(), trouble), (&[][..], None));
    stopped.release_wholly();
    assert_eq!(waits_of(pid), before);
    let (stopped, trouble) = stop_threads(vec![seen], LIMIT).unwrap();
    let tids: Vec<i32> = stopped.threads().iter().map(|thread| thread.tid).collect();
    assert_eq!((tids, trouble), (vec![pid], None));
}

/// A thread in a group-stop is traced in this state, and returns to the group-stop after being let
/// go (kernel/ptrace.c, __ptrace_unlink).
#[test]
fn a_process_that_stopped_itself_stays_stopped() {
    let mut script = Script::start("thread('pause', 34)");
    script.await_calls(&[libc::SYS_read, libc::SYS_pause]);
    script.signal(Signal::SIGSTOP);
    until("the group-stop", || script.state() == 'T');
    for _ in 0..3 {
        let stopped = stop_one(&script).unwrap();
        assert_eq!(stopped.threads().len(), 2);
        assert!(stopped.threads().iter().all(|thread| thread.at == At::GroupStop));
        stopped.release();
        until("the group-stop again", || script.state() == 'T');
    }
    script.signal(Signal::SIGCONT);
    assert_eq!(script.ask("'on'"), "on");
}

/// ptrace(2): a thread has a single tracer.
#[test]
fn somebody_elses_tracee_is_named() {
    let script = Script::start("");
    let held = stop_one(&script).unwrap();
    let pid = script.pid();
    assert_eq!(stop_one(&script).map(drop), Err(StopError::Traced { pid }));
    held.release();
    stop_one(&script).unwrap();
}

/// Signals wait while a thread is stopped. A signal that the thread was about to take when seized
/// is not lost: every signal in a queue of real-time signals is delivered.
#[test]
fn no_signal_is_lost() {
    let mut script = Script::start(
        "
r, w = os.pipe()
os.set_blocking(w, False)
signal.signal(signal.SIGRTMIN + 1, lambda *_: None)
signal.set_wakeup_fd(w, warn_on_full_buffer=False)
def pauses():
    while True: call(34)
threading.Thread(target=pauses, daemon=True).start()
",
    );
    let stopped = stop_one(&script).unwrap();
    // SIGRTMIN of glibc.
    let (own, signal) = (script.pid(), (34 + 1).to_string());
    let send = || {
        let sent = std::process::Command::new("kill")
            .args(["-s", &signal, &own.to_string()])
            .status();
        assert!(sent.unwrap().success());
    };
    send();
    stopped.release();
    let sender = std::thread::scope(|scope| {
        let sending = scope.spawn(|| (0..100).for_each(|_| send()));
        while !sending.is_finished() {
            stop_one(&script).unwrap().release();
        }
        sending.join()
    });
    sender.unwrap();
    assert_eq!(script.ask("sum(len(os.read(r, 1)) for _ in range(101))"), "101");
}

/// A thread that waits for a processor is waited for although the time is over, also if the thread
/// stops between the look for the stop and the look at the thread's state.
#[test]
fn a_thread_that_stops_late_is_not_given_up() {
    const SAME_PROCESSOR: &str = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})";
    let mut busy = [(); 3].map(|()| Script::start(SAME_PROCESSOR));
    for script in &mut busy {
        script.tell("while True: pass");
    }
    let script = &busy[0];
    for round in 0..200 {
        let stopped = stop(&|| vec![script.pid()], Duration::ZERO);
        assert_eq!(stopped.map(Stopped::release_wholly), Ok(()), "round {round}");
    }
}

/// A thread that waits for the reply to a trapped call can only be killed (WAIT_KILLABLE_RECV). The
/// tracer gives up on the thread, and no thread stays traced, though PTRACE_DETACH is not possible
/// (kernel/ptrace.c, exit_ptrace).
#[test]
fn a_thread_that_does_not_stop_is_given_up_and_let_go() {
    let (child, listener) = notification::child_that_asks_its_name();
    let call = notification::first_call(&listener);
    let pid = child.as_raw();
    let timeout = Duration::from_millis(20);
    assert_eq!(
        stop(&|| vec![pid], timeout).map(drop),
        Err(StopError::Busy { pid, tid: pid })
    );
    assert_eq!(process::status_field(pid, "TracerPid:").unwrap(), "0");
    listener.answer(call, Answer::Continue).unwrap();
    notification::let_all_through(&listener);
    assert_eq!(
        nix::sys::wait::waitpid(child, None),
        Ok(nix::sys::wait::WaitStatus::Exited(child, 0))
    );
}

/// A stopped process can be killed with all its threads, and the parent takes the exit status, as
/// natively.
#[test]
fn a_stopped_process_can_be_killed() {
    let mut script = Script::start(BLOCKED);
    let stopped = stop_one(&script).unwrap();
    script.signal(Signal::SIGKILL);
    until("its end", || matches!(script.state(), 'Z' | 'X'));
    stopped.release();
    assert_eq!(script.wait().signal(), Some(libc::SIGKILL));
    // Zombies and vanished processes are left out.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let pid = ended.id().cast_signed();
    until("the zombie", || {
        process::status_field(pid, "State:").unwrap().starts_with('Z')
    });
    assert_eq!(stop(&|| vec![pid, script.pid()], LIMIT).unwrap().threads(), []);
    assert!(ended.wait().unwrap().success());
}

/// Processes and threads started during the stop of others are stopped as well.
#[test]
fn what_starts_meanwhile_is_stopped_too() {
    let script = Script::start(
        "
def forks():
    while True:
        if os.fork() == 0: os._exit(0)
        os.wait()
def threads():
    while True:
        new = threading.Thread(target=lambda: None)
        new.start()
        new.join()
threading.Thread(target=forks, daemon=True).start()
threading.Thread(target=threads, daemon=True).start()
",
    );
    let tree = || {
        let mut found = vec![script.pid()];
        for tid in process::threads(script.pid()) {
            let list = std::fs::read_to_string(format!("/proc/{}/task/{tid}/children", script.pid()));
            found.extend(
                list.unwrap_or_default()
                    .split_whitespace()
                    .map(|pid| pid.parse::<i32>().unwrap()),
            );
        }
        found
    };
    for _ in 0..100 {
        let stopped = stop(&tree, LIMIT).unwrap();
        let ended = |tid: i32| process::status_field(tid, "State:").is_none_or(|state| state.starts_with(['Z', 'X']));
        for pid in tree() {
            for tid in process::threads(pid) {
                let is_stopped = stopped.threads().iter().any(|thread| thread.tid == tid);
                assert!(is_stopped || ended(tid), "{tid} of {pid} runs");
            }
        }
    }
}
