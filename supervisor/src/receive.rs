//! The receive loop: one thread, which blocks only here.

mod broker;
mod calls;
mod end;
mod poll;
mod time;

use std::time::Instant;

use imsup_linux::memory_watch::MemoryWatch;
use imsup_linux::watchdog::Watchdog;
use imsup_protocol::ToBroker;
use imsup_protocol::message::Role;
use imsup_wire::ExitStatus;
use nix::poll::PollFlags;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::error::{RunError, Trying};
use crate::farewell::Farewell;
use crate::host::{Host, closed_listeners};
use crate::init;
use crate::pending::PendingCalls;
use crate::reconnect::{Introduction, Reconnect};
use crate::running::RunningLock;
use crate::sleep::Sleep;

/// The loop and the sources that it waits for.
pub struct Loop {
    host: Host,
    sleep: Sleep,
    pending: PendingCalls,
    signals: SignalFd,
    reconnect: Reconnect,
    role: Role,
    /// The lock that shows to others that the host runs; `None` for a command of `imsup exec`.
    running: Option<RunningLock>,
    /// The program's first process, while alive.
    main: Option<Pid>,
    /// How the first process ended.
    status: Option<ExitStatus>,
    kill_at: Option<Instant>,
    next_tick: Instant,
    /// True if the last look at pending accepts answered none: the next look is at the next tick.
    accepts_wait: bool,
    /// Whether the loss of the broker was noticed.
    lost: bool,
    /// True if the broker has answered our introduction (the first broker has).
    welcomed: bool,
    listening_for_calls: bool,
    /// Ends waits that a descriptor of the program would impose on the supervisor.
    watchdog: Watchdog,
    /// Tells of processes that the kernel kills for want of memory.
    memory: Option<MemoryWatch>,
    /// True if the program was killed because its end took too long.
    killed: bool,
}

impl Loop {
    /// A loop for a program that was just executed.
    ///
    /// # Errors
    /// [`RunError::System`] if descriptors run out.
    pub fn new(
        host: Host,
        sleep: Sleep,
        main: Pid,
        introduction: Introduction,
        role: Role,
        running: Option<RunningLock>,
    ) -> Result<Self, RunError> {
        let signals = SignalFd::with_flags(&init::handled_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .trying("cannot make a signalfd")?;
        Ok(Self {
            host,
            sleep,
            pending: PendingCalls::new(),
            signals,
            reconnect: Reconnect::new(introduction),
            role,
            running,
            main: Some(main),
            status: None,
            kill_at: None,
            next_tick: Instant::now(),
            accepts_wait: false,
            lost: false,
            welcomed: true,
            listening_for_calls: true,
            watchdog: Watchdog::new().trying("cannot make a timer")?,
            memory: None,
            killed: false,
        })
    }

    /// Tells the broker of processes that the kernel kills for want of memory.
    pub fn watch_memory(&mut self, memory: Option<MemoryWatch>) {
        self.memory = memory;
    }

    /// Runs until the program has ended, and tells the broker. Returns the program's exit status.
    ///
    /// # Errors
    /// [`RunError::System`] if the kernel fails a call that cannot fail. All processes have been
    /// ended then.
    pub fn run(mut self) -> Result<ExitStatus, RunError> {
        let result = self.go_round();
        self.watchdog.end();
        let result = result.map(|status| self.reason_of(status));
        let (hello, terminated) = (self.reconnect.hello(&self.host, &self.sleep), self.sleep.terminated());
        let (usage, tree) = self.sleep.finish();
        init::end_all();
        self.host.incoming.leave();
        drop(tree);
        self.host.closed_listeners.leave();
        let status = result?;
        let successors = self.host.retained.take_successors().into_iter();
        let successors = successors.map(|successor| (successor.endpoint, successor.socket));
        let left = successors.chain(self.host.handovers.take_waiting()).collect();
        let farewell = Farewell {
            hello,
            terminated,
            left,
            usage,
            exited: ToBroker::Exited { status, usage },
        };
        if farewell.must_be_heard() {
            farewell.say(&mut self.host);
        } else {
            // The lock first: a broker that starts now must not wait for us.
            drop(self.running);
            self.host.link.finish(&farewell.exited);
        }
        Ok(status)
    }

    fn go_round(&mut self) -> Result<ExitStatus, RunError> {
        // poll(2) does not report messages that came together with the broker's first message.
        self.on_broker();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            // Blocking: the loop's own wait.
            let ready = self.wait().trying("cannot wait for events")?;
            if ready.is_more_than_a_call() {
                self.watchdog.end();
            }
            // Arrivals come first: epoll reports a closed socket to the program again and again,
            // until imsup notices the close.
            if !ready.arrivals.is_empty() {
                closed_listeners::check(&mut self.host);
            }
            if !ready.sleep.is_empty() {
                self.sleep.on_ready(&mut self.host);
            }
            if !ready.listener.is_empty() {
                self.on_call(ready.listener);
            }
            if !ready.broker.is_empty() {
                self.on_broker();
            }
            if !ready.signals.is_empty() {
                self.on_signals();
            }
            if !ready.watch.is_empty() {
                self.reconnect.noticed(&self.host);
                self.watch_for_broker();
            }
            if !ready.accept.is_empty() {
                self.look_at_accepts();
            }
            if !ready.memory.is_empty() {
                self.memory.iter_mut().for_each(MemoryWatch::noticed);
                self.look_at_memory();
            }
            if ready.is_more_than_a_call() || self.due().is_some_and(|due| due <= Instant::now()) {
                self.on_time();
            }
            self.notice_loss();
        }
    }

    fn on_call(&mut self, events: PollFlags) {
        if !events.contains(PollFlags::POLLIN) {
            // POLLHUP: no process is left under the filter.
            self.listening_for_calls = false;
            return;
        }
        self.watchdog.begin();
        match self.host.listener.receive() {
            Ok(Some(call)) => self.handle(&call),
            Ok(None) => {}
            Err(errno) => tracing::warn!(%errno, "a trapped call could not be received"),
        }
    }
}
