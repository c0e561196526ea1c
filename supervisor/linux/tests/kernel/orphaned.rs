//! The listener of trapped calls after the death of its supervisor: kernel/seccomp.c,
//! kernel/exit.c.

use imsup_linux::notify::{Answer, Listener};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

use super::notification::{child_that_asks_its_name, first_call, let_all_through};

/// The listener as held by another process.
fn second_holder(listener: &Listener) -> Listener {
    let copy = rustix::io::fcntl_dupfd_cloexec(listener, 0).unwrap();
    Listener::new(copy)
}

fn kill(child: Pid) {
    nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
    let killed = WaitStatus::Signaled(child, Signal::SIGKILL, false);
    assert_eq!(waitpid(child, None), Ok(killed));
}

/// seccomp_notify_release: with the last descriptor of the listener every call that waits fails
/// with ENOSYS, received or not, and so does every later one (seccomp_do_user_notification,
/// `match->notif`).
#[test]
fn without_a_holder_calls_fail() {
    for is_received in [false, true] {
        let (child, listener) = child_that_asks_its_name();
        if is_received {
            first_call(&listener);
        }
        drop(listener);
        // uname(1) reports that the call failed. (The dynamic linker makes no trapped call before
        // that.)
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 1)), "{is_received}");
    }
}

/// The release is that of the open file description: with a second descriptor, received and other
/// calls continue to wait, and the second holder could reply.
#[test]
fn with_a_second_holder_calls_wait() {
    for is_received in [false, true] {
        let (child, listener) = child_that_asks_its_name();
        let second = second_holder(&listener);
        let received = is_received.then(|| first_call(&listener));
        drop(listener);
        if let Some(call) = received {
            assert!(second.is_valid(call));
            second.answer(call, Answer::Continue).unwrap();
        }
        let_all_through(&second);
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "{is_received}");
    }
}

/// A call that never gets a reply ends with SIGKILL (seccomp_do_user_notification waits killable,
/// or interruptible), and the listener polls POLLHUP.
#[test]
fn a_call_that_waits_for_nobody_is_ended_by_a_kill() {
    for is_received in [false, true] {
        let (child, listener) = child_that_asks_its_name();
        let second = second_holder(&listener);
        match is_received {
            true => drop(first_call(&listener)),
            false => {
                let mut polled = [PollFd::new(&listener, PollFlags::IN)];
                rustix::event::poll(&mut polled, None).unwrap();
            }
        }
        drop(listener);
        kill(child);
        let mut polled = [PollFd::new(&second, PollFlags::IN)];
        rustix::event::poll(&mut polled, None).unwrap();
        assert!(polled[0].revents().contains(PollFlags::HUP));
    }
}
