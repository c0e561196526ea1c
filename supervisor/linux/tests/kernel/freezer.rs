//! The cgroup v2 freezer: Documentation/admin-guide/cgroup-v2.rst, kernel/cgroup/freezer.c.

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use imsup_linux::cgroup::{Cgroup, CgroupError, FreezeError};
use imsup_linux::stopped::stop;
use imsup_linux::{cpu, notify::Answer, process};
use nix::libc;
use nix::sys::signal::Signal;

use crate::notification;
use crate::script::{LIMIT, Script, until};
use crate::stopped::{BLOCKED, CALLS, RESTARTED, assert_restarted, blocked, more, waits, waits_of};

/// A cgroup for a test. `None` if no cgroup can be made, which must be due to a missing permission
/// or writable mount. Never `None` as root on a machine whose cgroup v2 is writable.
fn cgroup(test: &str) -> Option<Cgroup> {
    match Cgroup::make(&name(test)) {
        Ok(cgroup) => Some(cgroup),
        Err(CgroupError::NotMounted) => None,
        Err(CgroupError::Make { path, source }) => {
            let refused = matches!(
                source.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            );
            assert!(refused, "{}: {source}", path.display());
            let writable = rustix::fs::access(path.parent().unwrap(), rustix::fs::Access::WRITE_OK);
            assert!(writable.is_err(), "{} is writable", path.display());
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn name(test: &str) -> String {
    format!("imsup.kernel-suite-{}.{test}", std::process::id())
}

/// A script in a cgroup; killed and removed at the end, even if a test fails.
struct Frozen {
    script: Option<Script>,
    cgroup: Option<Cgroup>,
}

impl Frozen {
    fn start(test: &str, source: &str) -> Option<Self> {
        let cgroup = cgroup(test)?;
        let script = Script::start(source);
        cgroup.add(script.pid()).unwrap();
        Some(Self {
            script: Some(script),
            cgroup: Some(cgroup),
        })
    }

    fn script(&mut self) -> &mut Script {
        self.script.as_mut().unwrap()
    }

    fn cgroup(&self) -> &Cgroup {
        self.cgroup.as_ref().unwrap()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            for pid in cgroup.processes() {
                let _ = process::send(pid, Signal::SIGKILL);
            }
            self.script = None;
            cgroup.remove();
        }
    }
}

/// The threads of a frozen cgroup can be stopped and read, and are frozen again afterwards without
/// having run: no thread has returned from its call. After thawing, the calls go on, except for
/// EINTR from epoll_wait, once.
#[test]
fn frozen_threads_are_read_and_stay_frozen() {
    let Some(mut frozen) = Frozen::start("read", BLOCKED) else {
        return;
    };
    frozen.script().await_calls(&CALLS);
    let read = |frozen: &Frozen| {
        let stopped = stop(&|| frozen.cgroup().processes(), LIMIT).unwrap();
        let threads = blocked(stopped.threads());
        stopped.release();
        assert!(frozen.cgroup().wait_frozen(LIMIT));
        threads
    };
    frozen.cgroup().freeze(LIMIT).unwrap();
    let first = read(&frozen);
    assert_eq!(first.len(), CALLS.len());
    assert_eq!(first, read(&frozen), "nothing ran in between");
    assert!(!frozen.script().has_spoken(Duration::ZERO));
    frozen.cgroup().thaw().unwrap();
    assert_eq!(frozen.script().line(), format!("epoll -1 {}", libc::EINTR));
    // A thread that is frozen again before running has not even begun its call again.
    frozen.script().await_calls(&RESTARTED);

    frozen.cgroup().freeze(LIMIT).unwrap();
    assert_restarted(&first, &read(&frozen));
    assert!(!frozen.script().has_spoken(Duration::ZERO));
    frozen.cgroup().thaw().unwrap();
    frozen.script().tell("os.write(w, b'x')");
    assert_eq!(frozen.script().line(), "read 1 0");
}

/// kernel/signal.c, do_freezer_trap: a frozen thread schedules once. A thread counts as frozen
/// before that, and may be preempted there; the blocking call is shown after that (lib/syscall.c,
/// collect_syscall).
#[test]
fn to_be_frozen_is_one_more_wait_and_to_be_stopped_then_another() {
    let Some(mut frozen) = Frozen::start("waits", BLOCKED) else {
        return;
    };
    frozen.script().await_calls(&CALLS);
    let before = waits_of(frozen.script().pid());
    frozen.cgroup().freeze(LIMIT).unwrap();
    for (tid, _) in &before {
        process::blocked_in(*tid, *tid).unwrap();
    }
    assert_eq!(waits_of(frozen.script().pid()), more(&before, 1));
    let stopped = stop(&|| frozen.cgroup().processes(), LIMIT).unwrap();
    assert_eq!(waits(stopped.threads()), more(&before, 2));
}

/// A frozen process can be killed, and the cgroup removed.
#[test]
fn a_frozen_tree_can_be_killed() {
    let Some(mut frozen) = Frozen::start("kill", "child = os.fork()\nif child == 0:\n    signal.pause()") else {
        return;
    };
    // Started before the script was moved, so the child is still in the earlier cgroup.
    let child: i32 = frozen.script().ask("child").parse().unwrap();
    frozen.cgroup().add(child).unwrap();
    frozen.cgroup().freeze(LIMIT).unwrap();
    assert_eq!(frozen.cgroup().processes().len(), 2);
    let path = frozen.cgroup().path().to_owned();
    for pid in frozen.cgroup().processes() {
        process::send(pid, Signal::SIGKILL).unwrap();
    }
    assert_eq!(frozen.script().wait().signal(), Some(libc::SIGKILL));
    until("the end of both", || {
        let events = std::fs::read_to_string(path.join("cgroup.events")).unwrap();
        events.contains("populated 0")
    });
    drop(frozen);
    assert!(!path.exists());
}

/// A process forked while the cgroup is being frozen is frozen, too (kernel/cgroup/cgroup.c,
/// cgroup_post_fork).
#[test]
fn a_fork_does_not_escape() {
    let source = "
def forks():
    while True:
        if os.fork() == 0: os._exit(0)
        os.wait()
thread_of_forks = threading.Thread(target=forks, daemon=True)
";
    let Some(mut frozen) = Frozen::start("fork", source) else {
        return;
    };
    frozen.script().tell("thread_of_forks.start()");
    for _ in 0..50 {
        frozen.cgroup().freeze(LIMIT).unwrap();
        let before = frozen.cgroup().processes();
        stop(&|| frozen.cgroup().processes(), LIMIT).unwrap().release();
        assert!(frozen.cgroup().wait_frozen(LIMIT));
        assert_eq!(frozen.cgroup().processes(), before);
        frozen.cgroup().thaw().unwrap();
    }
}

/// A cgroup that a dead supervisor left frozen is taken over: its processes are killed, and the
/// cgroup is thawed. A cgroup in use is left alone.
#[test]
fn what_a_dead_supervisor_left_is_cleared_away() {
    let Some(mut frozen) = Frozen::start("left", "") else {
        return;
    };
    frozen.cgroup().freeze(LIMIT).unwrap();
    assert!(matches!(Cgroup::make(&name("left")), Err(CgroupError::InUse { .. })));
    frozen.cgroup = None;
    until("the lock", || {
        frozen.cgroup = match Cgroup::make(&name("left")) {
            Err(CgroupError::InUse { .. }) => None,
            made => Some(made.unwrap()),
        };
        frozen.cgroup.is_some()
    });
    assert_eq!(frozen.script().wait().signal(), Some(libc::SIGKILL));
    assert!(frozen.cgroup().processes().is_empty());
    assert!(!frozen.cgroup().wait_frozen(Duration::ZERO));
}

/// A thread that waits for the reply to a trapped call does not freeze (state D): freezing times
/// out, and the thread goes on after its cgroup is thawed.
#[test]
fn a_freezer_that_does_not_answer_is_given_up() {
    let Some(cgroup) = cgroup("busy") else { return };
    let (child, listener) = notification::child_that_asks_its_name();
    let call = notification::first_call(&listener);
    cgroup.add(child.as_raw()).unwrap();
    assert_eq!(cgroup.freeze(Duration::from_millis(20)), Err(FreezeError::TimedOut));
    cgroup.thaw().unwrap();
    listener.answer(call, Answer::Continue).unwrap();
    notification::let_all_through(&listener);
    let ended = nix::sys::wait::waitpid(child, None);
    cgroup.remove();
    assert_eq!(ended, Ok(nix::sys::wait::WaitStatus::Exited(child, 0)));
}

/// How to see a signal to a sleeper, which no descriptor reports: the signal wakes a frozen thread,
/// which needs some microseconds to find that the cgroup is still frozen (do_freezer_trap). An
/// ignored signal does not wake the thread (kernel/signal.c, prepare_signal), and is not left
/// pending.
#[test]
fn a_signal_moves_a_frozen_process_cpu_clock() {
    let source = "signal.signal(signal.SIGUSR1, lambda *_: say('USR1'))\nsignal.signal(signal.SIGUSR2, signal.SIG_IGN)";
    let Some(mut frozen) = Frozen::start("signal", source) else {
        return;
    };
    frozen.script().await_calls(&[libc::SYS_read]);
    let pid = frozen.script().pid();
    frozen.cgroup().freeze(LIMIT).unwrap();
    // The process counts as frozen a little before leaving the processor, for which
    // /proc/PID/syscall waits (lib/syscall.c).
    frozen.script().await_calls(&[libc::SYS_read]);
    let before = cpu::process_cpu(pid).unwrap();
    frozen.script().signal(Signal::SIGUSR2);
    // SIGCHLD is ignored by default.
    frozen.script().signal(Signal::SIGCHLD);
    for _ in 0..100 {
        std::thread::yield_now();
        assert_eq!(cpu::process_cpu(pid), Some(before), "an ignored signal");
    }
    frozen.script().signal(Signal::SIGUSR1);
    until("the clock to move", || cpu::process_cpu(pid).unwrap() > before);
    assert!(!frozen.script().has_spoken(Duration::ZERO));
    frozen.cgroup().thaw().unwrap();
    assert_eq!(frozen.script().line(), "USR1");
}
