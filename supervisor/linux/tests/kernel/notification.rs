//! The listener of trapped calls: seccomp(2), seccomp_unotify(2).

use std::ffi::CString;
use std::time::{Duration, Instant};

use imsup_bpf_filters::{Families, Sockets};
use imsup_linux::notify::{Answer, Listener, NotificationId};
use imsup_linux::root::Place;
use imsup_linux::single_thread::SingleThread;
use imsup_linux::spawn;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

/// seccomp_unotify(2): the kernel knows the flags with which imsup installs the filter (5.19).
#[test]
fn a_filter_with_a_listener_can_be_installed() {
    assert!(spawn::knows_wait_killable(), "Linux 5.19 or newer is needed");
    let (child, listener) = child_that_asks_its_name();
    drop(listener);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(child.as_raw()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    nix::sys::wait::waitpid(child, None).unwrap();
}

/// A child that runs `uname -n` under the filter, and the listener of the child's calls.
pub fn child_that_asks_its_name() -> (Pid, Listener) {
    child(&[c"uname".to_owned(), c"-n".to_owned()])
}

fn child(command: &[CString]) -> (Pid, Listener) {
    let program = spawn::Program {
        environment: None,
        command,
        credentials: None,
        new_session: false,
        descriptor_limit: None,
        signals: SigSet::empty(),
        cgroup: None,
        no_new_privs: true,
        place: Place::Machine,
    };
    let filter = imsup_bpf_filters::notify_filter(Sockets::Duplicated, Families::Known);
    // SAFETY: the child does only what is async-signal-safe (`spawn::child`), whatever other
    // threads there are.
    let thread = unsafe { SingleThread::unproven() };
    let prepared = spawn::prepare(&program, filter, &thread).unwrap();
    let child = prepared.pid();
    (child, prepared.execute().unwrap())
}

/// Waits for the listener with poll(2), and returns the events.
fn events(listener: &Listener) -> PollFlags {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    rustix::event::poll(&mut polled, None).unwrap();
    polled[0].revents()
}

/// The first call, which is received and not answered.
pub fn first_call(listener: &Listener) -> NotificationId {
    assert!(events(listener).contains(PollFlags::IN));
    listener.receive().unwrap().unwrap().id
}

/// Lets every call through until no process is left under the filter.
pub fn let_all_through(listener: &Listener) {
    while events(listener).contains(PollFlags::IN) {
        if let Some(call) = listener.receive().unwrap() {
            listener.answer(call.id, Answer::Continue).unwrap();
        }
    }
}

/// seccomp_unotify(2): the listener polls readable for each call, RECV names the caller, and SEND
/// lets the call return. Once no process is left under the filter, the listener polls POLLHUP,
/// which is the end.
#[test]
fn a_trapped_call_is_received_answered_and_the_end_is_told() {
    let (child, listener) = child_that_asks_its_name();
    while events(&listener).contains(PollFlags::IN) {
        let Some(call) = listener.receive().unwrap() else {
            continue;
        };
        assert_eq!(call.tid, child.as_raw());
        assert!(listener.is_valid(call.id));
        listener.answer(call.id, Answer::errno(Errno::EPERM)).unwrap();
        assert!(!listener.is_valid(call.id), "it has been answered");
    }
    assert!(events(&listener).contains(PollFlags::HUP));
    // uname(1) reports that the call failed, which shows that the errno arrived.
    assert_eq!(nix::sys::wait::waitpid(child, None), Ok(WaitStatus::Exited(child, 1)));
}

/// A caller that is killed during the call, which WAIT_KILLABLE_RECV allows: the notification is no
/// longer valid. A late reply fails with ENOENT, which imsup does not treat as an error.
#[test]
fn a_killed_callers_notification_becomes_invalid() {
    let (child, listener) = child_that_asks_its_name();
    assert!(events(&listener).contains(PollFlags::IN));
    let call = listener.receive().unwrap().unwrap();
    nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
    let killed = WaitStatus::Signaled(child, Signal::SIGKILL, false);
    assert_eq!(nix::sys::wait::waitpid(child, None), Ok(killed));
    assert!(!listener.is_valid(call.id));
    assert_eq!(listener.answer(call.id, Answer::Continue), Ok(()));
}

/// WAIT_KILLABLE_RECV (seccomp(2), 5.19): a received call is not interrupted by a signal whose
/// handler would otherwise interrupt the call; the signal waits for the reply.
#[test]
fn a_received_call_is_not_torn_by_a_signal() {
    // Perl installs signal handlers without SA_RESTART.
    let script = c"use POSIX; $SIG{USR1} = sub {}; (POSIX::uname())[1] or die".to_owned();
    let (child, listener) = child(&[c"perl".to_owned(), c"-e".to_owned(), script]);
    let mut signalled = false;
    while events(&listener).contains(PollFlags::IN) {
        let Some(call) = listener.receive().unwrap() else {
            continue;
        };
        if i64::from(call.number) == nix::libc::SYS_uname {
            nix::sys::signal::kill(child, Signal::SIGUSR1).unwrap();
            // Long enough for a wake-up of the caller, after which the call would be invalid. Each
            // yield lets other threads run first.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(50) {
                assert!(listener.is_valid(call.id), "the call was torn");
                std::thread::yield_now();
            }
            signalled = true;
        }
        listener.answer(call.id, Answer::Continue).unwrap();
    }
    assert!(signalled, "perl must have asked");
    assert_eq!(nix::sys::wait::waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}
