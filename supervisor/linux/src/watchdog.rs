//! An end to every wait that a program's descriptor may cause: timer_create(2), sigaction(2).
//!
//! Calls are carried out on duplicates of the program's descriptors, without waiting. But the
//! program may change the socket at any time. A thread may make a socket blocking again between our
//! fcntl(2) and our connect(2). A thread may also close the program's descriptor of a socket that
//! lingers (SO_LINGER, socket(7)), so that our close(2) is the last. A signal ends either wait:
//! connect(2) returns EINTR, close(2) leaves the rest to the kernel.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::SigSet;

/// A wait is ended after this time, and the next wait after the same time again.
const TIMEOUT: Duration = Duration::from_millis(20);

/// The timer is stopped after this time without a call: a running timer costs an interrupt per
/// tick, while starting the timer costs half a microsecond per call.
const IDLE: Duration = Duration::from_millis(100);

/// The clock that ends waits. Its signal reaches only this thread, and only between
/// [`Watchdog::begin`] and [`Watchdog::end`].
#[derive(Debug)]
pub struct Watchdog {
    /// `None` if no timer is allowed (RLIMIT_SIGPENDING, `ulimit -i 0`): a wait then lasts until
    /// the program ends the wait.
    timer: Option<libc::timer_t>,
    ticks: Cell<bool>,
    last_used: Cell<Instant>,
    /// Whether the signal is let through.
    begun: Cell<bool>,
    while_idle: SigSet,
}

impl Watchdog {
    /// For the calling thread.
    ///
    /// # Errors
    /// Errors of timer_create(2), sigaction(2) and pthread_sigmask(3).
    pub fn new() -> Result<Self, Errno> {
        mask(libc::SIG_BLOCK)?;
        let mut timer = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: all zeros are a valid `struct sigaction` (no flags: SA_RESTART would go on
        // waiting) and `struct sigevent`; both and `timer` outlive the calls, and the handler does
        // nothing, which is safe in any context.
        let timer = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            Errno::result(libc::sigaction(signal(), &raw const action, ptr::null_mut()))?;
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            // Not by the C library: in a supervisor that the zygote has forked, musl would say the
            // zygote's.
            event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
            let created = libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr());
            match Errno::result(created) {
                // timer_create has initialized `timer`.
                Ok(_) => Some(timer.assume_init()),
                Err(Errno::EAGAIN) => {
                    tracing::debug!(
                        "no signal may be queued for a timer ('ulimit -i'): a program that makes its sockets block at the wrong instant stalls its supervisor"
                    );
                    None
                }
                Err(errno) => return Err(errno),
            }
        };
        Ok(Self {
            timer,
            ticks: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            begun: Cell::new(false),
            while_idle: SigSet::thread_get_mask()?,
        })
    }

    /// Ends waits from now on. While trapped calls follow each other without other events, the
    /// state stays begun, which saves two system calls for each call.
    pub fn begin(&self) {
        self.last_used.set(Instant::now());
        if !self.ticks.replace(true) {
            self.set(TIMEOUT);
        }
        if !self.begun.replace(true) {
            let _ = mask(libc::SIG_UNBLOCK);
        }
    }

    /// Stops ending waits: the following work must not be interrupted.
    pub fn end(&self) {
        if self.begun.replace(false) {
            let _ = mask(libc::SIG_BLOCK);
        }
    }

    /// The signals that are blocked while the thread waits for work, for ppoll(2). The time-out
    /// does not apply to this wait.
    pub fn while_idle(&self) -> SigSet {
        self.while_idle
    }

    /// When [`Watchdog::rest`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        self.ticks.get().then(|| self.last_used.get() + IDLE)
    }

    /// Stops the timer if the timer was not needed for a while.
    pub fn rest(&self, now: Instant) {
        if self.due().is_some_and(|due| now >= due) {
            self.ticks.set(false);
            self.set(Duration::ZERO);
        }
    }

    fn set(&self, interval: Duration) {
        let Some(timer) = self.timer else { return };
        let interval = libc::timespec {
            tv_sec: 0,
            tv_nsec: interval.subsec_nanos().into(),
        };
        let times = libc::itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        // SAFETY: the timer lives as long as this value, and `times` outlives the call. The call
        // cannot fail for a valid timer and these times.
        unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) };
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // SAFETY: the timer was made by timer_create, and is deleted once.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

/// Runs `act`, which must not be interrupted, whether or not waits are currently ended.
pub fn wait_for<T>(act: impl FnOnce() -> T) -> T {
    let was_blocked = mask(libc::SIG_BLOCK).unwrap_or(true);
    let result = act();
    if !was_blocked {
        let _ = mask(libc::SIG_UNBLOCK);
    }
    result
}

/// A signal without any other use. SIGALRM may come from an alarm(2) before our execve(2), and
/// would end this process.
fn signal() -> libc::c_int {
    libc::SIGRTMAX() - 1
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Blocks or unblocks the signal. True if the signal was blocked before.
fn mask(how: libc::c_int) -> Result<bool, Errno> {
    let (mut set, mut before) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::uninit());
    // SAFETY: sigemptyset initializes `set`, and pthread_sigmask initializes `before` on success;
    // both outlive the calls.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal());
        match libc::pthread_sigmask(how, set.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(libc::sigismember(before.as_ptr(), signal()) == 1),
            error => Err(Errno::from_raw(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollFd, PollFlags, ppoll};

    use super::*;

    #[test]
    fn a_wait_ends_once_that_is_begun() {
        let watchdog = Watchdog::new().unwrap();
        let (mut one, _other) = UnixStream::pair().unwrap();
        watchdog.begin();
        let error = one.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
        let limit = 5 * TIMEOUT;
        one.set_read_timeout(Some(limit)).unwrap();
        assert_eq!(
            wait_for(|| one.read(&mut [0])).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        // Nor is the wait for work interrupted.
        let mut polled = [PollFd::new(one.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            ppoll(&mut polled, Some(limit.into()), Some(watchdog.while_idle())),
            Ok(0)
        );
        watchdog.end();
        assert!(watchdog.due().is_some());
        // Without `begin`, a wait is not cut short.
        assert_eq!(one.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        watchdog.rest(Instant::now() + IDLE);
        assert!(watchdog.due().is_none());
    }
}
