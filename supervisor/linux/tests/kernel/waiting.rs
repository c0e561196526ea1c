//! Waiting on behalf of a process, on duplicates of the files that the process waits on: epoll(7),
//! timerfd_create(2), signalfd(2), clocks.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_linux::descriptors::{self, Kind};
use imsup_linux::{cpu, pageout, pidfd, timers};
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::script::{LIMIT, Script, until};

fn is_ready(descriptor: impl AsFd, within: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::try_from(within).unwrap())).unwrap() > 0
}

fn epoll() -> Epoll {
    Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap()
}

fn duplicate(pid: i32, number: i32) -> OwnedFd {
    pidfd::duplicate_from(&pidfd::open_process(pid).unwrap(), number).unwrap()
}

/// fs/eventpoll.c, __ep_eventpoll_poll: polling an epoll instance looks at the ready list and takes
/// no event. An edge-triggered event that we see is therefore still there for the program. We do
/// not see an event that the program has taken, even if bytes remain, and we see the next event.
#[test]
fn polling_a_duplicate_takes_no_edge_triggered_event_and_misses_none() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let inner = epoll();
    inner
        .add(&reader, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 7))
        .unwrap();
    let taken = |inner: &Epoll| {
        let mut events = [EpollEvent::empty(); 4];
        inner.wait(&mut events, EpollTimeout::ZERO).unwrap()
    };
    let copy = duplicate(std::process::id().cast_signed(), inner.0.as_raw_fd());
    let outer = epoll();
    outer.add(&copy, EpollEvent::new(EpollFlags::EPOLLIN, 1)).unwrap();
    let seen = |within: u16| {
        let mut events = [EpollEvent::empty(); 4];
        outer.wait(&mut events, EpollTimeout::from(within)).unwrap() == 1
    };
    assert!(!seen(0));
    writer.write_all(b"1").unwrap();
    for _ in 0..3 {
        assert!(seen(1000) && is_ready(&copy, Duration::ZERO));
    }
    assert_eq!(taken(&inner), 1, "it is still the program's");
    assert_eq!(taken(&inner), 0);
    assert!(!seen(0), "it was taken, and the byte in the pipe is no new event");
    writer.write_all(b"2").unwrap();
    assert!(seen(1000));
    // An event from before the look is seen as well.
    drop(outer);
    let late = epoll();
    late.add(&copy, EpollEvent::new(EpollFlags::EPOLLIN, 1)).unwrap();
    let mut events = [EpollEvent::empty(); 4];
    assert_eq!(late.wait(&mut events, EpollTimeout::ZERO).unwrap(), 1);
    assert_eq!(taken(&inner), 1);
}

/// A duplicate holds none of the application's registrations: closing the duplicate leaves the
/// registrations (epoll(7), questions 6 and 7).
#[test]
fn closing_a_duplicate_leaves_the_registrations() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let inner = epoll();
    inner.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 7)).unwrap();
    let own = std::process::id().cast_signed();
    drop(duplicate(own, inner.0.as_raw_fd()));
    drop(duplicate(own, reader.as_raw_fd()));
    writer.write_all(b"1").unwrap();
    let mut events = [EpollEvent::empty(); 4];
    assert_eq!(inner.wait(&mut events, EpollTimeout::from(1000_u16)).unwrap(), 1);
}

/// timerfd_create(2): fdinfo shows an armed timer with the remaining time. A duplicate of the epoll
/// instance that watches the timer becomes readable at the expiry.
#[test]
fn a_timerfd_is_seen_through_the_epoll_instance_that_watches_it() {
    let (began, expires_in) = (Instant::now(), Duration::from_secs(1000));
    let mut script = Script::start(
        "
t, unarmed, e = call(283, 1, 0)[0], call(283, 1, 0)[0], select.epoll()
e.register(t)
set = lambda value, nanos, interval: call(286, t, 0, ctypes.byref((ctypes.c_long * 4)(interval, 0, value, nanos)), 0)
set(1000, 0, 5)
",
    );
    let pid = script.pid();
    let epoll: i32 = script.ask("e.fileno()").parse().unwrap();
    let number: i32 = script.ask("t").parse().unwrap();
    let copy = duplicate(pid, epoll);
    let [timer] = timers::timerfds(pid)[..] else {
        panic!("{:?}", timers::timerfds(pid))
    };
    assert_eq!((timer.pid, timer.number), (pid, number));
    assert_eq!(timer.interval, Duration::from_secs(5));
    assert!(timer.expires_in <= expires_in && timer.expires_in + began.elapsed() >= expires_in);
    assert!(!is_ready(&copy, Duration::ZERO));
    script.tell("set(0, 1000, 0)");
    assert!(is_ready(&copy, LIMIT));
    assert_eq!(timers::timerfds(pid), [], "it has expired");
    assert!(descriptors::descriptors(pid).contains(&(epoll, Kind::Epoll)));
    assert!(descriptors::descriptors(pid).contains(&(number, Kind::TimerFd)));
    assert!(descriptors::descriptors(pid).contains(&(0, Kind::Pipe)));
    assert_eq!(
        descriptors::count(pid),
        u64::try_from(descriptors::descriptors(pid).len()).unwrap(),
        "the size of /proc/PID/fd is its count (6.2)"
    );
}

/// fs/signalfd.c, signalfd_poll: a poll looks at the signals of the polling process, so a duplicate
/// of another process's signalfd reports our signals, and none of that process.
#[test]
fn another_process_signalfd_looks_at_our_own_signals() {
    let mut script = Script::start(
        "
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
mask = ctypes.c_ulong(1 << (signal.SIGUSR2 - 1))
fd = call(289, -1, ctypes.byref(mask), 8, 0)[0]
",
    );
    let copy = duplicate(script.pid(), script.ask("fd").parse().unwrap());
    script.signal(Signal::SIGUSR2);
    assert_eq!(script.ask("select.select([fd], [], [])[0] == [fd]"), "True");
    assert!(!is_ready(&copy, Duration::ZERO));
    let own: SigSet = [Signal::SIGUSR2].into_iter().collect();
    own.thread_block().unwrap();
    raise(Signal::SIGUSR2).unwrap();
    assert!(is_ready(&copy, Duration::ZERO));
    assert_eq!(own.wait().unwrap(), Signal::SIGUSR2);
    assert!(!is_ready(&copy, Duration::ZERO));
}

/// fs/proc_namespace.c, mounts_poll: the reported state is recorded in the open file description,
/// so only the first poll reports a mount.
#[test]
fn a_mount_is_told_to_the_first_who_polls() {
    let mut script = Script::start(
        "
import select
call(272, 0x10020000)
call(165, b'none', b'/', None, 0x44000, None)
file = os.open('/proc/self/mountinfo', os.O_RDONLY)
copy = os.dup(file)
def told(fd):
    polled = select.poll()
    polled.register(fd, select.POLLPRI)
    return len(polled.poll(0))
",
    );
    assert_eq!(script.ask("told(copy), told(file)"), "0 0");
    assert_eq!(script.ask("call(165, b'news', b'/mnt', b'tmpfs', 0, None)[0]"), "0");
    assert_eq!(script.ask("told(copy), told(file)"), "1 0");
}

/// clock_getcpuclockid(3): the CPU time of another process, to the nanosecond, which stands still
/// while the threads are blocked.
#[test]
fn the_cpu_clock_of_a_blocked_process_stands_still() {
    let mut script = Script::start("");
    script.await_calls(&[libc::SYS_read]);
    let pid = script.pid();
    let mut before = cpu::process_cpu(pid).unwrap();
    // The process is shown as blocked a little before leaving the processor.
    until("its processor", || {
        std::mem::replace(&mut before, cpu::process_cpu(pid).unwrap()) == before
    });
    for _ in 0..100 {
        std::thread::yield_now();
        assert_eq!(cpu::process_cpu(pid), Some(before));
    }
    assert_eq!(script.ask("sum(range(100000))"), "4999950000");
    assert!(cpu::process_cpu(pid).unwrap() > before);
    script.signal(Signal::SIGKILL);
    script.wait();
    assert_eq!(cpu::process_cpu(pid), None);
}

/// proc_pid_timers(5) shows POSIX timers and no interval timers, which are guessed by SIGALRM.
#[test]
fn posix_timers_are_shown_and_interval_timers_are_not() {
    let mut script = Script::start("");
    let pid = script.pid();
    assert!(!timers::has_posix_timers(pid) && !timers::may_have_interval_timer(pid));
    // timer_create(CLOCK_PROCESS_CPUTIME_ID), then of CLOCK_MONOTONIC.
    for (clock, shown) in [(2, false), (1, true)] {
        let made = script.ask(&format!("call(222, {clock}, 0, ctypes.byref(ctypes.c_int()))[0]"));
        assert_eq!(made, "0");
        assert_eq!(timers::has_posix_timers(pid), shown);
    }
    // The signal is shown before the clock (fs/proc/base.c, show_timer); SIGALRM if none was named
    // (timer_create(2)).
    assert!(!timers::has_posix_timers_but(pid, &[Signal::SIGALRM as i32]));
    assert!(timers::has_posix_timers_but(pid, &[Signal::SIGVTALRM as i32]));
    let armed = script.ask("signal.signal(signal.SIGALRM, lambda *_: 0) or signal.setitimer(signal.ITIMER_REAL, 1000)");
    assert_eq!(armed, "(0.0, 0.0)");
    assert!(timers::may_have_interval_timer(pid));
}

/// process_madvise(2), MADV_PAGEOUT: pages of a file are paged out in any case, anonymous pages if
/// there is swap; without CAP_SYS_NICE the call is refused.
#[test]
fn memory_is_paged_out_with_the_privilege() {
    const CAP_SYS_NICE: u64 = 1 << 23;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(&vec![1; 16 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    let mut script = Script::start(&format!(
        "
import mmap
file = open({:?}, 'r+b')
pages = mmap.mmap(file.fileno(), 0)
sum_of_pages = lambda: sum(pages[i] for i in range(0, len(pages), 4096))
sum_of_pages()
",
        file.path()
    ));
    let pid = script.pid();
    let before = pageout::resident(pid);
    assert!(before > 16 << 20);
    let privileged = imsup_linux::capabilities::has_capability(CAP_SYS_NICE);
    let result = pageout::page_out(pid);
    if !privileged {
        assert_eq!(result, Err(Errno::EPERM));
        return;
    }
    result.unwrap();
    let freed = before - pageout::resident(pid);
    assert!(freed > 8 << 20, "{freed} of {before} bytes");
    assert_eq!(script.ask("sum_of_pages()"), "4096");
    let swap = std::fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1;
    assert_eq!(pageout::has_swap(), swap);
}
