//! The end of the program on the receive loop: it is told to end, has ended, or was killed.

use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_protocol::message::Role;
use imsup_wire::{CauseKind, ExitStatus};
use nix::sys::signal::Signal;

use super::Loop;
use crate::init;

/// The longest time between a kill by the kernel and the program's end by SIGKILL. Big programs
/// take a while to be gone.
const KILLED_LATELY: Duration = Duration::from_secs(2);

impl Loop {
    /// A program ends with its first process, as in a container. A program that put itself into the
    /// background (a daemon) goes on as long as the processes that it left.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        let status = self.status?;
        let may_be_daemon = matches!(self.role, Role::Launched { .. }) && status == ExitStatus::Code(0);
        (!(may_be_daemon && init::has_children())).then_some(status)
    }

    pub(super) fn stop(&mut self, signal: Signal, grace: Duration) {
        init::signal(self.main, signal);
        // A program that was stopped by a signal cannot end before it is continued.
        init::signal(self.main, Signal::SIGCONT);
        self.sleep.let_end(&mut self.host);
        // A second request to stop does not give the program more time.
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn on_signals(&mut self) {
        self.watchdog.end();
        while let Ok(Some(info)) = self.signals.read_signal() {
            if let Some(signal) = init::forwarded(info.ssi_signo, info.ssi_code) {
                init::signal(self.main, signal);
                self.sleep.wake_for(&mut self.host, CauseKind::Signal);
            } else if info.ssi_signo != Signal::SIGCHLD as u32 {
                // A terminal's, which the program has got as well.
                self.sleep.wake_for(&mut self.host, CauseKind::Signal);
            }
        }
        if let Some(status) = init::reap(self.main, self.sleep.traces()) {
            self.main = None;
            self.status = Some(status);
        }
    }

    /// Tells the broker of processes that the kernel has killed.
    pub(super) fn look_at_memory(&mut self) {
        let Some(memory) = &mut self.memory else { return };
        let killed = memory.killed(Instant::now());
        let limit_bytes = memory.limit_bytes();
        if killed > 0 {
            let message = ToBroker::OutOfMemory { killed, limit_bytes };
            self.host.link.send(&message, Vec::new());
        }
    }

    /// The reason of the program's end. A kill is attributed to the kernel if neither the
    /// supervisor nor, as far as known, another process sent the signal. The kernel counts its
    /// kills before it kills (mm/oom_kill.c, __oom_kill_process). A shell as first process reports
    /// the same kill as its exit status.
    pub(super) fn reason_of(&mut self, status: ExitStatus) -> ExitStatus {
        self.look_at_memory();
        let now = Instant::now();
        match &self.memory {
            Some(memory)
                if status.shell_code() == ExitStatus::Signal(Signal::SIGKILL as i32).shell_code()
                    && !self.killed
                    && memory.has_killed_within(KILLED_LATELY, now) =>
            {
                ExitStatus::OutOfMemory(memory.limit_bytes())
            }
            _ => status,
        }
    }
}
