//! An end to every wait that a program's descriptor may cause: timer_create(2), sigaction(2).
//!
//! Calls are carried out on duplicates of the program's descriptors, without waiting. But what a descriptor does is the program's affair:
//! one of its threads may make a socket blocking again between our fcntl(2) and our connect(2), or close its own descriptor of a socket that
//! lingers (SO_LINGER, socket(7)), so that our close(2) is the last. A signal ends either wait: connect(2) says EINTR, close(2) leaves the rest to
//! the kernel.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::SigSet;

/// After so long a wait is ended, and after as long the next one.
const PATIENCE: Duration = Duration::from_millis(20);

/// The timer stands still when so long nothing was done: it costs an interrupt per tick, and setting it half a microsecond per call.
const IDLE: Duration = Duration::from_millis(100);

/// The clock that ends waits. Its signal reaches only this thread, and only between [`Patience::begin`] and [`Patience::end`].
#[derive(Debug)]
pub struct Patience {
    /// `None` where there may be none (RLIMIT_SIGPENDING, `ulimit -i 0`): a wait lasts until the program ends it, then.
    timer: Option<libc::timer_t>,
    ticks: Cell<bool>,
    last_used: Cell<Instant>,
    /// Whether the signal is let through.
    begun: Cell<bool>,
    while_idle: SigSet,
}

impl Patience {
    /// For the calling thread.
    ///
    /// # Errors
    /// What timer_create(2), sigaction(2) and pthread_sigmask(3) say.
    pub fn new() -> Result<Self, Errno> {
        mask(libc::SIG_BLOCK)?;
        let mut timer = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: all zeros are a valid `struct sigaction` (no flags: SA_RESTART would go on waiting) and `struct sigevent`; both and
        // `timer` outlive the calls, and the handler does nothing, which is safe in any context.
        let timer = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            Errno::result(libc::sigaction(signal(), &raw const action, ptr::null_mut()))?;
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            // Not by the C library: in a supervisor that the zygote has forked, musl would say the zygote's.
            event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
            let created = libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr());
            match Errno::result(created) {
                // timer_create has written it.
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

    /// Ends waits from now on. While one trapped call follows another, and nothing else happens, it stays begun: that saves two system calls
    /// for each.
    pub fn begin(&self) {
        self.last_used.set(Instant::now());
        if !self.ticks.replace(true) {
            self.set(PATIENCE);
        }
        if !self.begun.replace(true) {
            let _ = mask(libc::SIG_UNBLOCK);
        }
    }

    /// Ends no wait any more: what comes now must not be interrupted.
    pub fn end(&self) {
        if self.begun.replace(false) {
            let _ = mask(libc::SIG_BLOCK);
        }
    }

    /// The signals that are blocked while the thread waits for something to do, which is no wait to be ended: ppoll(2) takes them.
    pub fn while_idle(&self) -> SigSet {
        self.while_idle
    }

    /// When [`Patience::rest`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        self.ticks.get().then(|| self.last_used.get() + IDLE)
    }

    /// Stops the clock where it was not needed for a while.
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
        // SAFETY: the timer lives as long as this, and `times` outlives the call. It cannot fail for a timer and times like these.
        unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) };
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // SAFETY: the timer was made by timer_create, and is deleted once.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

/// Does something that must not be interrupted, whether waits are ended now or not.
pub fn wait_for<T>(act: impl FnOnce() -> T) -> T {
    let was_blocked = mask(libc::SIG_BLOCK).unwrap_or(true);
    let result = act();
    if !was_blocked {
        let _ = mask(libc::SIG_UNBLOCK);
    }
    result
}

/// One that nobody else uses: SIGALRM may come from an alarm(2) before our execve(2), and ends us.
fn signal() -> libc::c_int {
    libc::SIGRTMAX() - 1
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Blocks or unblocks the signal, and says whether it was blocked.
fn mask(how: libc::c_int) -> Result<bool, Errno> {
    let (mut set, mut before) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::uninit());
    // SAFETY: sigemptyset initializes `set`, and pthread_sigmask `before` where it succeeds; both outlive the calls.
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
        let patience = Patience::new().unwrap();
        let (mut one, _other) = UnixStream::pair().unwrap();
        patience.begin();
        let error = one.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
        let limit = 5 * PATIENCE;
        one.set_read_timeout(Some(limit)).unwrap();
        assert_eq!(
            wait_for(|| one.read(&mut [0])).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        // Nor is the wait for something to do.
        let mut polled = [PollFd::new(one.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            ppoll(&mut polled, Some(limit.into()), Some(patience.while_idle())),
            Ok(0)
        );
        patience.end();
        assert!(patience.due().is_some());
        // Not begun, it waits for as long as there is to wait.
        assert_eq!(one.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        patience.rest(Instant::now() + IDLE);
        assert!(patience.due().is_none());
    }
}
