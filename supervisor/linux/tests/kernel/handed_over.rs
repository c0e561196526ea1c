//! Descriptors that a stopped thread hands over, by a call that the tracer makes the thread carry
//! out: ptrace(2), unix(7).

use std::os::fd::{AsFd, OwnedFd};

use imsup_bpf_filters::{Confined, confine};
use imsup_linux::duplicates;
use imsup_linux::stopped::{Stopped, stop};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::script::{LIMIT, Script, until};
use crate::stopped::{BLOCKED, CALLS, RESTARTED, assert_restarted, blocked};

fn stop_one(script: &Script) -> Stopped {
    stop(&|| vec![script.pid()], LIMIT).unwrap()
}

fn inode(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd.as_fd()).unwrap().st_ino
}

/// The descriptors and mappings of a process.
fn belongings(script: &Script) -> (Vec<String>, String) {
    let directory = std::fs::read_dir(format!("/proc/{}/fd", script.pid())).unwrap();
    let mut links: Vec<String> = directory
        .flatten()
        .map(|entry| format!("{:?} {:?}", entry.file_name(), std::fs::read_link(entry.path())))
        .collect();
    links.sort_unstable();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", script.pid())).unwrap();
    (links, maps)
}

/// arch/x86/kernel/signal.c, arch_do_signal_or_restart: whether an interrupted call is made again
/// is decided by the registers that the thread has when it is let go, and restart_syscall(2)
/// continues what was kept before the thread made other calls (kernel/sys_ni.c; `restart_block` is
/// written by calls that sleep).
#[test]
fn blocked_calls_go_on_after_their_thread_handed_descriptors_over() {
    let mut script = Script::start(BLOCKED);
    script.await_calls(&CALLS);
    let before = belongings(&script);
    let stopped = stop_one(&script);
    let first = blocked(stopped.threads());
    for _ in 0..3 {
        assert_eq!(stopped.hand_over(script.pid(), vec![0, 1]).unwrap().len(), 2);
    }
    assert_eq!(belongings(&script), before);
    stopped.release();
    assert_eq!(script.line(), format!("epoll -1 {}", libc::EINTR));
    script.await_calls(&RESTARTED);
    let stopped = stop_one(&script);
    assert_restarted(&first, &blocked(stopped.threads()));
    // Once more, with calls that are to go on as restart_syscall(2).
    stopped.hand_over(script.pid(), vec![0]).unwrap();
    stopped.release();
    script.await_calls(&RESTARTED);
    script.tell("os.write(w, b'x')");
    assert_eq!(script.line(), "read 1 0");
}

/// The thread that hands over is in a call with a time limit: the call ends at this limit, and no
/// earlier.
#[test]
fn a_limit_that_restart_syscall_keeps_is_kept() {
    let mut script = Script::start("room = (ctypes.c_int * 2)(0, 0)");
    let before = std::time::Instant::now();
    script.tell("say('polled', *call(7, None, 0, 700))");
    script.await_calls(&[libc::SYS_poll]);
    let stopped = stop_one(&script);
    stopped.hand_over(script.pid(), vec![0]).unwrap();
    stopped.release();
    script.await_calls(&[libc::SYS_restart_syscall]);
    assert_eq!(script.line(), "polled 0 0");
    assert!(before.elapsed() >= std::time::Duration::from_millis(700));
}

/// unix(7), SCM_RIGHTS: the descriptors are duplicates of the same open files, in their order; at
/// most SCM_MAX_FD with a message.
#[test]
fn any_number_is_handed_over_in_its_order() {
    let mut script = Script::start(
        "
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
pipes = [end for _ in range(300) for end in os.pipe()]",
    );
    let said = script.ask("*[f'{end}:{os.fstat(end).st_ino}' for end in pipes]");
    let (numbers, inodes): (Vec<i32>, Vec<u64>) = said
        .split(' ')
        .map(|one| one.split_once(':').unwrap())
        .map(|(number, inode)| (number.parse::<i32>().unwrap(), inode.parse::<u64>().unwrap()))
        .unzip();
    script.await_calls(&[libc::SYS_read]);
    let stopped = stop_one(&script);
    let found = stopped.hand_over(script.pid(), numbers).unwrap();
    assert_eq!(found.iter().map(inode).collect::<Vec<_>>(), inodes);
    stopped.release();
    assert_eq!(script.ask("'alive'"), "alive");
}

/// ppoll(2) waits with another signal mask, which PTRACE_SETSIGMASK makes the thread's own
/// (kernel/ptrace.c, clear_tsk_restore_sigmask). After being let go, the thread has the mask from
/// before the call again. A signal that only the call lets through ends the call, as natively.
#[test]
fn a_call_with_a_signal_mask_of_its_own_goes_on_with_it() {
    const SIGUSR1: u64 = 1 << (libc::SIGUSR1 - 1);
    let mut script = Script::start(
        "
signal.signal(signal.SIGUSR1, lambda *_: say('handled'))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
mask = ctypes.c_ulong(0)
(r, w) = os.pipe()
polled = (ctypes.c_int * 2)(r, select.POLLIN)
def wait(): say('ppoll', *call(271, ctypes.byref(polled), 1, None, ctypes.byref(mask), 8))",
    );
    let blocks = |script: &Script| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", script.pid())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & SIGUSR1 != 0
    };
    for signalled in [false, true] {
        script.tell("wait()");
        script.await_calls(&[libc::SYS_ppoll]);
        assert!(!blocks(&script));
        let stopped = stop_one(&script);
        for _ in 0..2 {
            stopped.hand_over(script.pid(), vec![0]).unwrap();
            assert!(!blocks(&script), "it waits with the mask of its call");
        }
        if signalled {
            script.signal(Signal::SIGUSR1);
        }
        stopped.release();
        if signalled {
            let said = [script.line(), script.line()];
            assert!(said.contains(&format!("ppoll -1 {}", libc::EINTR)), "{said:?}");
            assert!(said.contains(&"handled".to_owned()), "{said:?}");
        } else {
            script.await_calls(&[libc::SYS_ppoll]);
            rustix::io::write(descriptor(&script, "w").as_fd(), b"x").unwrap();
            assert_eq!(script.line(), "ppoll 1 0");
            script.tell("os.read(r, 1)");
        }
        assert_eq!(
            script.ask("signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])"),
            "True"
        );
    }
}

/// An end of a pipe of the script's, which waits elsewhere: opened once more (proc_pid_fd(5)).
fn descriptor(script: &Script, _name: &str) -> OwnedFd {
    let directory = std::fs::read_dir(format!("/proc/{}/fd", script.pid())).unwrap();
    let mut pipes: Vec<i32> = directory
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("pipe:")))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    pipes.sort_unstable();
    let path = format!("/proc/{}/fd/{}", script.pid(), pipes[1]);
    rustix::fs::open(path, rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty()).unwrap()
}

/// Signals that come during the stop are delivered after the thread is let go, once each, and none
/// during the handover (all are blocked: PTRACE_SETSIGMASK, ptrace(2)).
#[test]
fn no_signal_is_delivered_or_lost() {
    let mut script = Script::start("signal.signal(signal.SIGUSR1, lambda *_: say('handled'))");
    script.await_calls(&[libc::SYS_read]);
    let stopped = stop_one(&script);
    script.signal(Signal::SIGUSR1);
    stopped.hand_over(script.pid(), vec![0]).unwrap();
    assert!(!script.has_spoken(std::time::Duration::ZERO));
    stopped.release();
    assert_eq!(script.line(), "handled");
    assert_eq!(script.ask("'alive'"), "alive");
}

/// SIGSTOP cannot be blocked: the tracer takes the signal from the thread during the handover, and
/// sends the signal again.
#[test]
fn one_that_is_stopped_by_somebody_meanwhile_stops_when_it_is_let_go() {
    let mut script = Script::start("");
    script.await_calls(&[libc::SYS_read]);
    let stopped = stop_one(&script);
    script.signal(Signal::SIGSTOP);
    assert_eq!(stopped.hand_over(script.pid(), vec![0]).err(), Some(Errno::EINTR));
    stopped.release();
    until("it to stop", || script.state() == 'T');
    script.signal(Signal::SIGCONT);
    assert_eq!(script.ask("'alive'"), "alive");
}

/// `own` installs a filter that allows all. One of two filters counts as the notify filter, which a
/// script does not have.
const OWN_FILTERS: &str = "
allow = ctypes.create_string_buffer(b'\\x06\\0\\0\\0\\0\\0\\xff\\x7f', 8)
program = (ctypes.c_ulong * 2)(1, ctypes.addressof(allow))
def own(): assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0";

/// seccomp(2): a program's own filter may kill the program for a call that the program itself never
/// makes, so the tracer injects no call.
#[test]
fn a_thread_with_filters_of_its_own_makes_no_call() {
    let mut script = Script::start(&format!(
        "{OWN_FILTERS}\nlibc.prctl(38, 1, 0, 0, 0)\nfor _ in range(2): own()"
    ));
    script.await_calls(&[libc::SYS_read]);
    let stopped = stop_one(&script);
    assert_eq!(stopped.hand_over(script.pid(), vec![0]).err(), Some(Errno::EOPNOTSUPP));
    stopped.release();
    assert_eq!(script.ask("'alive'"), "alive");
}

/// proc_pid_status(5), Seccomp_filters: a confined supervisor has one filter more than the program,
/// so the filters are counted before confinement.
#[test]
fn a_confined_tracer_knows_filters_of_a_programs_own() {
    let mut script = Script::start(&format!(
        "{OWN_FILTERS}\nlibc.prctl(38, 1, 0, 0, 0)\nfor _ in range(2): own()"
    ));
    script.await_calls(&[libc::SYS_read]);
    let tracer = std::thread::spawn(move || {
        duplicates::note_filters();
        confine(Confined::Supervisor).unwrap();
        let stopped = stop_one(&script);
        assert_eq!(stopped.hand_over(script.pid(), vec![0]).err(), Some(Errno::EOPNOTSUPP));
        stopped.release();
        script
    });
    script = tracer.join().unwrap();
    assert_eq!(script.ask("'alive'"), "alive");
}

/// The error of a failed call (getrlimit(2), RLIMIT_NOFILE) is returned, and the thread still goes
/// on.
#[test]
fn one_without_room_for_a_socket_goes_on() {
    let mut script = Script::start(
        "
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir('/proc/self/fd'))), 1024))
full = []
try:
    while True: full.append(os.dup(0))
except OSError: pass",
    );
    script.await_calls(&[libc::SYS_read]);
    let before = belongings(&script);
    let stopped = stop_one(&script);
    assert_eq!(stopped.hand_over(script.pid(), vec![0]).err(), Some(Errno::EMFILE));
    assert_eq!(belongings(&script), before);
    stopped.release();
    assert_eq!(script.ask("'alive'"), "alive");
}

#[test]
fn one_that_is_killed_hands_nothing_over() {
    let mut script = Script::start(BLOCKED);
    script.await_calls(&CALLS);
    let stopped = stop_one(&script);
    script.signal(Signal::SIGKILL);
    assert!(stopped.hand_over(script.pid(), vec![0]).is_err());
    stopped.release();
    assert!(!script.wait().success());
}
