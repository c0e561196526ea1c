//! Which signals wait for a thread, and whether one of them will really interrupt it: signal(7), proc(5).

use super::process;

/// Signals whose default action is to be ignored, as masks: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const IGNORED_BY_DEFAULT: u64 = mask(libc::SIGCHLD) | mask(libc::SIGCONT) | mask(libc::SIGURG) | mask(libc::SIGWINCH);

/// SIGALRM, as a mask: what alarm(2) and ITIMER_REAL send.
pub const ALARM: u64 = mask(libc::SIGALRM);

const fn mask(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signal masks of a thread, as /proc/TID/status shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalMasks {
    /// Pending for the thread (`SigPnd`).
    pub pending: u64,
    /// Pending for its process (`ShdPnd`).
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

    /// The pending signals that do something to a thread with these masks.
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

/// Whether a signal that waits will certainly be delivered to this thread when its call returns.
///
/// One directed at the thread will. One directed at the process goes to the main thread where that does not block it
/// (kernel/signal.c, complete_signal), so it is certain for the main thread, and for another one only where every other
/// thread blocks it. An answer of ERESTARTSYS without a signal to deliver would be seen by the program, hence the care.
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

/// The signals that wait for a process, as far as they matter to it; with `all_threads` also those for single threads. Blocked ones count, ignored or
/// not: somebody may wait for them with sigtimedwait(2) or a signalfd (glibc's SIGEV_THREAD does so for one that it ignores).
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

/// The signals that wait for a thread or for its process, as a mask.
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
    // The threads of a process may be many, and this is asked for each of them.
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
