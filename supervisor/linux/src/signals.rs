//! The signals pending for a thread, and whether one of these will really interrupt the thread:
//! signal(7), proc(5).

use super::process;

/// Signals that are ignored by default, as masks: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const IGNORED_BY_DEFAULT: u64 = mask(libc::SIGCHLD) | mask(libc::SIGCONT) | mask(libc::SIGURG) | mask(libc::SIGWINCH);

/// SIGALRM, as a mask: the signal of alarm(2) and ITIMER_REAL.
pub const ALARM: u64 = mask(libc::SIGALRM);

const fn mask(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signal masks of a thread, as in /proc/TID/status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalMasks {
    /// Pending for the thread (`SigPnd`).
    pub pending: u64,
    /// Pending for the process (`ShdPnd`).
    pub shared_pending: u64,
    /// Blocked by the thread.
    pub blocked: u64,
    /// Ignored by the process.
    pub ignored: u64,
    /// Handled by the process.
    pub caught: u64,
}

impl SignalMasks {
    /// Parses the text of /proc/TID/status.
    pub fn parse(status: &str) -> Self {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
                .unwrap_or(0)
        };
        Self {
            pending: field("SigPnd:"),
            shared_pending: field("ShdPnd:"),
            blocked: field("SigBlk:"),
            ignored: field("SigIgn:"),
            caught: field("SigCgt:"),
        }
    }

    /// The pending signals that have an effect on a thread with these masks.
    fn effective(&self, pending: u64) -> u64 {
        let default_ignored = IGNORED_BY_DEFAULT & !self.caught;
        pending & !self.blocked & !self.ignored & !default_ignored
    }
}

impl SignalMasks {
    /// The pending signals that a thread with these masks takes or waits for.
    fn mattering(&self, pending: u64) -> u64 {
        let ignored = self.ignored | (IGNORED_BY_DEFAULT & !self.caught);
        pending & (self.blocked | !ignored)
    }
}

/// True if a pending signal will certainly be delivered to this thread at the return of the call.
///
/// A signal directed at the thread will be delivered. A signal directed at the process goes to the
/// main thread, unless the main thread blocks the signal (kernel/signal.c, complete_signal).
/// Delivery is therefore certain for the main thread, and for another thread only if every other
/// thread blocks the signal. The care is needed because the program would see a result of
/// ERESTARTSYS without a signal to deliver.
pub fn will_interrupt(own: &SignalMasks, is_main: bool, others: impl IntoIterator<Item = SignalMasks>) -> bool {
    if own.effective(own.pending) != 0 {
        return true;
    }
    let shared = own.effective(own.shared_pending);
    if shared == 0 {
        return false;
    }
    is_main || others.into_iter().all(|other| shared & !other.blocked == 0)
}

/// The pending signals that matter to a process; with `all_threads` also signals pending for single
/// threads. Blocked signals count, ignored or not: a thread may wait for a signal with
/// sigtimedwait(2) or a signalfd (glibc's SIGEV_THREAD does so for an ignored signal).
pub fn waiting_for(pid: i32, all_threads: bool) -> u64 {
    let masks = |tid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
        SignalMasks::parse(&status)
    };
    let main = masks(pid);
    let own = main.mattering(main.pending | main.shared_pending);
    match all_threads {
        true => process::threads(pid)
            .into_iter()
            .map(masks)
            .fold(own, |bits, masks| bits | masks.mattering(masks.pending)),
        false => own,
    }
}

/// The signals pending for a thread or its process, as a mask.
pub fn pending_for(tid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let masks = SignalMasks::parse(&status);
    masks.pending | masks.shared_pending
}

/// Whether thread `tid` is about to be interrupted by a signal.
pub fn interrupts(tid: i32) -> bool {
    let masks = |tid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
        SignalMasks::parse(&status)
    };
    let own = masks(tid);
    // A process may have many threads, and this function is called for each thread.
    if own.effective(own.pending | own.shared_pending) == 0 {
        return false;
    }
    let group = process::thread_group(tid).unwrap_or(tid);
    let others = process::threads(group)
        .into_iter()
        .filter(|other| *other != tid)
        .map(masks);
    will_interrupt(&own, group == tid, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: u64 = mask(libc::SIGCHLD);

    #[test]
    fn status_is_parsed() {
        let text = "Name:\tx\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000002000\nSigBlk:\t0000000000000004\n\
                    SigIgn:\t0000000000001000\nSigCgt:\t0000000000002000\n";
        let expected = SignalMasks {
            pending: 1,
            shared_pending: 0x2000,
            blocked: 4,
            ignored: 0x1000,
            caught: 0x2000,
        };
        assert_eq!(SignalMasks::parse(text), expected);
    }

    #[test]
    fn only_signals_that_do_something_interrupt() {
        let pending = |pending| SignalMasks {
            pending,
            ..SignalMasks::default()
        };
        assert!(will_interrupt(&pending(ALARM), true, []));
        assert!(
            !will_interrupt(&pending(CHILD), true, []),
            "SIGCHLD without a handler is ignored"
        );
        assert!(will_interrupt(
            &SignalMasks {
                caught: CHILD,
                ..pending(CHILD)
            },
            true,
            []
        ));
        assert!(!will_interrupt(
            &SignalMasks {
                blocked: ALARM,
                ..pending(ALARM)
            },
            true,
            []
        ));
        assert!(!will_interrupt(
            &SignalMasks {
                ignored: ALARM,
                ..pending(ALARM)
            },
            true,
            []
        ));
    }

    #[test]
    fn a_process_signal_is_the_main_threads_unless_all_others_block_it() {
        let own = SignalMasks {
            shared_pending: ALARM,
            ..SignalMasks::default()
        };
        let open = SignalMasks::default();
        let blocking = SignalMasks {
            blocked: ALARM,
            ..SignalMasks::default()
        };
        assert!(will_interrupt(&own, true, [open]));
        assert!(!will_interrupt(&own, false, [open]));
        assert!(will_interrupt(&own, false, [blocking]));
    }
}
