//! The duties of the first process of a host: passing on signals, reaping orphans, and ending
//! leftover processes.

use imsup_wire::ExitStatus;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use imsup_linux::process;

/// Signals that are passed on to the program.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// `si_code` of a signal that the kernel sent: a terminal's, which the program has got as well,
/// being in the same process group.
const SI_KERNEL: i32 = 0x80;

/// The signals that the supervisor takes from a signalfd.
pub fn handled_signals() -> SigSet {
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set
}

/// The signal to pass on for a received signal; `None` if the signal is not passed on.
pub fn forwarded(number: u32, code: i32) -> Option<Signal> {
    let signal = Signal::try_from(number.cast_signed()).ok()?;
    (FORWARDED.contains(&signal) && code != SI_KERNEL).then_some(signal)
}

/// Reaps every child that has ended. Returns the status of `main` if `main` is among these. While a
/// thread of the supervisor traces (`traces`), each ended child is waited for by its number. A wait
/// for any child would also take the stops of traced children (kernel/exit.c, wait_task_stopped).
pub fn reap(main: Option<Pid>, traces: bool) -> Option<ExitStatus> {
    let main = main.map(Pid::as_raw);
    let mut status = None;
    if traces {
        for pid in process::own_children() {
            if process::is_gone(pid)
                && let Ok(Some((_, ended))) =
                    rustix::process::waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::NOHANG)
                && Some(pid) == main
            {
                status = parse(ended).or(status);
            }
        }
        return status;
    }
    loop {
        // Not nix's wait(2): it knows no real-time signals, and fails with EINVAL for a child that
        // it has reaped.
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, ended))) if Some(pid.as_raw_pid()) == main => status = parse(ended).or(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return status,
        }
    }
}

fn parse(status: WaitStatus) -> Option<ExitStatus> {
    let exited = status.exit_status().map(ExitStatus::Code);
    exited.or_else(|| status.terminating_signal().map(ExitStatus::Signal))
}

/// Whether processes that the program started are still there.
pub fn has_children() -> bool {
    !process::own_children().is_empty()
}

/// Sends a signal to the program; or to the processes that the program left, if its first process
/// has ended.
pub fn signal(main: Option<Pid>, signal: Signal) {
    match main {
        Some(pid) => {
            let _ = process::send(pid.as_raw(), signal);
        }
        None => {
            for pid in process::own_children() {
                let _ = process::send(pid, signal);
            }
        }
    }
}

/// Ends all processes that are left, orphans included: an orphan becomes our child when its parent
/// ends.
///
/// Blocking: after the loop, for the end of killed children.
pub fn end_all() {
    loop {
        let children = process::own_children();
        if children.is_empty() {
            return;
        }
        for pid in children {
            let _ = process::send(pid, Signal::SIGKILL);
        }
        // Each child was killed, so one child will end. The loop goes on with the processes that
        // this child left.
        if rustix::process::wait(WaitOptions::empty()).err() == Some(Errno::CHILD) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminals_signals_are_not_passed_on_twice() {
        let interrupt = Signal::SIGINT as u32;
        assert_eq!(forwarded(interrupt, 0), Some(Signal::SIGINT));
        assert_eq!(forwarded(interrupt, SI_KERNEL), None);
        assert_eq!(forwarded(Signal::SIGCHLD as u32, 0), None);
    }
}
