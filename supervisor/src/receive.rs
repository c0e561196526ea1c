//! The receive loop: one thread, which never blocks but here.

mod calls;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use imsup_protocol::message::Role;
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::{CauseKind, ExitStatus};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::error::{RunError, Trying};
use crate::farewell::Farewell;
use crate::held::{self, HeldCalls};
use crate::host::doors;
use crate::host::{Descriptors, Host};
use crate::init;
use crate::reconnect::{Attempt, Introduction, Reconnect};
use crate::running::RunningLock;
use crate::sleep::{Circumstances, Sleep};
use crate::syscalls::{self};
use imsup_linux::memory_watch::MemoryWatch;
use imsup_linux::patience::Patience;

/// How often in a row the project's directory may be removed before it is left so until something is made where it was.
const REMOVALS: u32 = 3;

/// How long before the program's end by SIGKILL the kernel may have been seen to kill it. Big programs take a while to be gone.
const KILLED_LATELY: Duration = Duration::from_secs(2);

/// What ppoll(2) found: its events for each of the loop's descriptors.
struct Ready {
    listener: PollFlags,
    broker: PollFlags,
    signals: PollFlags,
    watch: PollFlags,
    sleep: PollFlags,
    arrivals: PollFlags,
    accept: PollFlags,
    memory: PollFlags,
}

impl Ready {
    /// Whether it is anything but a trapped call.
    fn is_more_than_a_call(&self) -> bool {
        let more = self.broker | self.signals | self.watch | self.sleep | self.arrivals | self.accept | self.memory;
        !more.is_empty()
    }
}

/// The loop and what it waits for.
pub struct Loop {
    host: Host,
    sleep: Sleep,
    held: HeldCalls,
    signals: SignalFd,
    reconnect: Reconnect,
    role: Role,
    /// By it others see that the host runs; none of a command of `imsup exec`.
    running: Option<RunningLock>,
    /// The program's first process, while it lives.
    main: Option<Pid>,
    /// How the first process ended.
    status: Option<ExitStatus>,
    kill_at: Option<Instant>,
    next_tick: Instant,
    /// Whether nothing came of the last look at held accepts: the next is at the next tick.
    accepts_wait: bool,
    /// Whether the loss of the broker was noticed.
    lost: bool,
    /// Whether the broker has answered our introduction (the first one has).
    welcomed: bool,
    listening_for_calls: bool,
    /// Ends what a descriptor of the program would have us wait for.
    patience: Patience,
    /// Tells of processes that the kernel kills for want of memory.
    memory: Option<MemoryWatch>,
    /// Whether the program was killed since it took too long to end.
    killed: bool,
}

impl Loop {
    /// A loop for a program that was just executed.
    ///
    /// # Errors
    /// [`RunError::System`] where descriptors run out.
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
            held: HeldCalls::new(),
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
            patience: Patience::new().trying("cannot make a timer")?,
            memory: None,
            killed: false,
        })
    }

    /// Tells the broker of processes that the kernel kills for want of memory.
    pub fn watch_memory(&mut self, memory: Option<MemoryWatch>) {
        self.memory = memory;
    }

    /// Runs until the program has ended, and says so; how it ended.
    ///
    /// # Errors
    /// [`RunError::System`] where the kernel fails a call that cannot fail; everything has been ended then.
    pub fn run(mut self) -> Result<ExitStatus, RunError> {
        let result = self.go_round();
        self.patience.end();
        let result = result.map(|status| self.reason_of(status));
        let (hello, terminated) = (self.reconnect.hello(&self.host, &self.sleep), self.sleep.terminated());
        let (usage, tree) = self.sleep.finish();
        init::end_all();
        self.host.incoming.leave();
        drop(tree);
        self.host.doors.leave();
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
        // What came together with the broker's first message is not announced by poll(2).
        self.on_broker();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            let ready = self.wait().trying("cannot wait for events")?;
            if ready.is_more_than_a_call() {
                self.patience.end();
            }
            // First: until it is seen that the program has closed what it is told of, it is told again and again.
            if !ready.arrivals.is_empty() {
                doors::check(&mut self.host);
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

    /// Waits until something is ready, or it is time for something.
    ///
    /// By ppoll(2), not epoll(7): seccomp wakes its listener on the processor that makes the call
    /// (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), a hint that an epoll instance does not pass on to those who wait for it
    /// (fs/eventpoll.c, ep_poll_callback). Level-triggered, as RECV needs it, which blocks where nothing is there.
    fn wait(&self) -> Result<Ready, Errno> {
        let listener = self.listening_for_calls.then(|| self.host.listener.as_fd());
        let mut broker = PollFlags::POLLIN;
        broker.set(PollFlags::POLLOUT, self.host.link.wants_write());
        let memory = self.memory.as_ref().and_then(MemoryWatch::descriptor);
        let sources = [
            (listener, PollFlags::POLLIN),
            (self.host.link.socket(), broker),
            (Some(self.signals.as_fd()), PollFlags::POLLIN),
            (self.reconnect.watch(), PollFlags::POLLIN),
            (self.sleep.descriptor(), PollFlags::POLLIN),
            (self.arrivals(), PollFlags::POLLIN),
            (self.accepted_from(), PollFlags::POLLIN),
            (
                memory.map(|(fd, _)| fd),
                memory.map_or(PollFlags::empty(), |(_, events)| events),
            ),
        ];
        // Those that are there come first, and only those are waited for.
        let mut polled = sources.map(|_| PollFd::new(self.signals.as_fd(), PollFlags::empty()));
        let mut count = 0;
        for (fd, events) in sources.iter().filter_map(|(fd, events)| Some((fd.as_ref()?, *events))) {
            polled[count] = PollFd::new(*fd, events);
            count += 1;
        }
        let timeout = self
            .due()
            .map(|due| due.saturating_duration_since(Instant::now()).into());
        match ppoll(&mut polled[..count], timeout, Some(self.patience.while_idle())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut found = polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let [listener, broker, signals, watch, sleep, arrivals, accept, memory] = sources.map(|(fd, _)| {
            let events = fd.and_then(|_| found.next());
            events.unwrap_or(PollFlags::empty())
        });
        Ok(Ready {
            listener,
            broker,
            signals,
            watch,
            sleep,
            arrivals,
            accept,
            memory,
        })
    }

    /// A program ends with its first process, as in a container. One that put itself into the background (a daemon) goes on
    /// as long as what it left.
    fn ended(&self) -> Option<ExitStatus> {
        let status = self.status?;
        let may_be_daemon = matches!(self.role, Role::Launched { .. }) && status == ExitStatus::Code(0);
        (!(may_be_daemon && init::has_children())).then_some(status)
    }

    fn on_call(&mut self, events: PollFlags) {
        if !events.contains(PollFlags::POLLIN) {
            // POLLHUP: nobody is left under the filter.
            self.listening_for_calls = false;
            return;
        }
        self.patience.begin();
        match self.host.listener.receive() {
            Ok(Some(call)) => self.handle(&call),
            Ok(None) => {}
            Err(errno) => tracing::warn!(%errno, "a trapped call could not be received"),
        }
    }

    fn on_broker(&mut self) {
        self.patience.end();
        self.host.link.flush();
        while let Some(message) = self.host.link.receive() {
            if !self.welcomed {
                self.welcomed = true;
                if Reconnect::welcomed(&mut self.host, &mut self.sleep, &message) == Attempt::Rejected {
                    tracing::warn!(?message, "the new broker does not take this host; it ends");
                    self.reconnect.give_up();
                    self.stop(Signal::SIGTERM, Duration::from_secs(10));
                } else {
                    self.retake_running();
                    self.ask_again();
                }
                continue;
            }
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: ToSupervisor) {
        match message {
            ToSupervisor::Reached { .. }
            | ToSupervisor::Claimed { .. }
            | ToSupervisor::ResolverSockets { .. }
            | ToSupervisor::Trusted { .. } => {
                self.patience.begin();
            }
            _ => self.patience.end(),
        }
        match message {
            ToSupervisor::Reached { id, outcome } => {
                let Some(id) = self.held_id(id) else {
                    return;
                };
                let Some(held) = self.held.get_mut(&id) else {
                    return;
                };
                if let Some(answer) = syscalls::reached(&mut self.host, id, held, outcome) {
                    self.finish(id, answer);
                }
            }
            ToSupervisor::Claimed { id, .. } if self.host.doors.closed(id) => self.go_on_with_vetted(),
            ToSupervisor::Claimed { id, found } => {
                let socket: Option<OwnedFd> = if found {
                    self.host.link.take_fds(1).ok().and_then(|mut fds| fds.pop())
                } else {
                    None
                };
                if let Some(id) = self.held_id(id)
                    && let Some(held) = self.held.get(&id)
                {
                    let answer = syscalls::claimed(&mut self.host, id, held, socket);
                    self.finish(id, answer);
                } else if let Some(socket) = socket {
                    syscalls::keep_claimed(&mut self.host, socket);
                }
            }
            ToSupervisor::ResolverSockets { v4, v6 } => {
                let (v4, v6) = (usize::from(v4), usize::from(v6));
                let mut sockets = self.host.link.take_fds(v4 + v6).unwrap_or_default();
                let of_v6 = sockets.split_off(v4.min(sockets.len()));
                self.host.resolvers.receive(sockets, of_v6);
                self.resume_resolvers();
            }
            ToSupervisor::Trusted {
                uid,
                endpoint,
                is_trusted,
            } => {
                self.host.strangers.learn(uid, *endpoint.address.ip(), is_trusted);
                self.resume_trusted((uid, endpoint));
            }
            ToSupervisor::Stop { signal, grace } => match Signal::try_from(signal) {
                Ok(signal) => self.stop(signal, grace),
                Err(_) => self.stop(Signal::SIGTERM, grace),
            },
            ToSupervisor::KeepAwake(awake) => self.sleep.keep_awake(awake),
            ToSupervisor::Ask { id, order } => {
                let circumstances = self.circumstances();
                self.sleep.ask(&mut self.host, &circumstances, id, order);
            }
            ToSupervisor::RetakeRunning => self.retake_running(),
            ToSupervisor::Welcome { .. } | ToSupervisor::Rejected { .. } | ToSupervisor::Acknowledged => {
                tracing::warn!("the broker spoke out of turn");
            }
        }
    }

    /// Watches for the next broker. Without one nobody else makes the project's directory anew if somebody removes it.
    fn watch_for_broker(&mut self) {
        for _ in 0..REMOVALS {
            let before = self.project_directory();
            self.reconnect.watch_directory(&self.host);
            self.retake_running();
            if before.is_some() && before == self.project_directory() {
                return;
            }
        }
    }

    /// The device and inode of the project's runtime directory, if it is there.
    fn project_directory(&self) -> Option<(u64, u64)> {
        let found = std::fs::metadata(self.host.link.path().parent()?).ok()?;
        Some((found.dev(), found.ino()))
    }

    fn retake_running(&mut self) {
        if let Some(running) = &mut self.running
            && let Err(error) = running.retake()
        {
            tracing::warn!("{error}: nobody sees that the host runs if its broker dies");
        }
    }

    fn stop(&mut self, signal: Signal, grace: Duration) {
        init::signal(self.main, signal);
        // A program that was stopped by a signal cannot end before it goes on.
        init::signal(self.main, Signal::SIGCONT);
        self.sleep.let_end(&mut self.host);
        // Who asks again does not give it more time.
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    fn on_signals(&mut self) {
        self.patience.end();
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

    fn on_time(&mut self) {
        let now = Instant::now();
        if !self.held.is_empty() && now >= self.next_tick {
            self.look_for_next_broker();
            self.look_at_held(now);
            self.accepts_wait = false;
            self.next_tick = Instant::now() + held::tick(self.held.len());
        }
        self.patience.end();
        self.patience.rest(now);
        let circumstances = self.circumstances();
        self.sleep.on_time(&mut self.host, &circumstances);
        if let Some((signal, grace)) = self.sleep.take_ending() {
            self.stop(signal, grace);
        }
        self.host.handovers.look();
        if self.doors_due().is_some_and(|at| now >= at) && doors::on_time(&mut self.host, now) {
            self.go_on_with_vetted();
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.killed = true;
            init::signal(self.main, Signal::SIGKILL);
        }
        if self
            .memory
            .as_ref()
            .and_then(MemoryWatch::due)
            .is_some_and(|at| now >= at)
        {
            self.look_at_memory();
        }
        if self.settles_at().is_some_and(|at| now >= at) {
            self.host.start.settled = true;
            self.host.link.send(&ToBroker::Settled, Vec::new());
        }
        if self.reconnect.next_try().is_some() {
            let _ = self.reconnect.try_now(&mut self.host, &self.sleep);
        }
    }

    /// Tells the broker of processes that the kernel has killed.
    fn look_at_memory(&mut self) {
        let Some(memory) = &mut self.memory else { return };
        let killed = memory.killed(Instant::now());
        let limit_bytes = memory.limit_bytes();
        if killed > 0 {
            let message = ToBroker::OutOfMemory { killed, limit_bytes };
            self.host.link.send(&message, Vec::new());
        }
    }

    /// How the program ended: a kill that neither we nor, as far as can be told, anybody sent was the kernel's. It counts those before it kills
    /// (mm/oom_kill.c, __oom_kill_process). A shell in front of it says the same as its exit status.
    fn reason_of(&mut self, status: ExitStatus) -> ExitStatus {
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

    fn circumstances(&self) -> Circumstances {
        let accepts = self.held.values().filter(|held| held.accepts_from().is_some()).count();
        Circumstances {
            held_calls: self.held.len() - accepts,
            handing_over: accepts > 0,
            stopping: self.kill_at.is_some(),
        }
    }

    /// When to look whether the program still has its sockets.
    fn doors_due(&self) -> Option<Instant> {
        if !self.may_close() {
            return None;
        }
        let copies = match &self.host.descriptors {
            Descriptors::Copied(copies) => copies.due(),
            Descriptors::Duplicated(_) => None,
        };
        let all = [self.host.doors.due(&self.host.retained), copies];
        all.into_iter().flatten().min()
    }

    /// What tells that something has come to a socket that the program may have closed.
    fn arrivals(&self) -> Option<BorrowedFd<'_>> {
        self.may_close().then(|| self.host.doors.descriptor()).flatten()
    }

    /// Whether the program can close anything: not while it sleeps, and just after a wake there is no time to look.
    fn may_close(&self) -> bool {
        self.sleep.suspended_us().is_none() && !self.sleep.is_waking() && self.ended().is_none()
    }

    fn settles_at(&self) -> Option<Instant> {
        let is_awaited = self.sleep.is_awaited();
        self.host.start.settles_at(self.host.hold_timeout, is_awaited)
    }

    /// The link may be lost wherever something is sent.
    fn notice_loss(&mut self) {
        let was_lost = std::mem::replace(&mut self.lost, self.host.link.socket().is_none());
        if !self.lost || was_lost {
            return;
        }
        self.patience.end();
        self.welcomed = false;
        self.host.answered.forget();
        self.host.strangers.forget();
        let next_comes = self.reconnect.next_comes(&self.host);
        self.host.link.lost(next_comes);
        self.host.doors.broker_lost(next_comes);
        self.host.resolvers.lose_broker();
        self.sleep.broker_lost(&mut self.host);
        self.reconnect.begin();
        self.watch_for_broker();
        self.answer_all_without_broker();
        self.resume_resolvers();
        self.go_on_with_vetted();
    }

    /// Goes on without the next broker where it does not come.
    fn look_for_next_broker(&mut self) {
        let awaits_next = self.host.doors.awaits_next() || (!self.held.is_empty() && self.host.link.is_answered());
        if self.lost && awaits_next && !self.reconnect.next_comes(&self.host) {
            self.host.link.lost(false);
            self.host.doors.broker_lost(false);
            self.answer_all_without_broker();
            self.go_on_with_vetted();
        }
    }

    /// When [`Self::on_time`] is to be called.
    fn due(&self) -> Option<Instant> {
        let tick = (!self.held.is_empty()).then_some(self.next_tick);
        [
            tick,
            self.kill_at,
            self.settles_at(),
            self.reconnect.next_try(),
            self.sleep.due(),
            self.patience.due(),
            self.doors_due(),
            self.host.handovers.due(),
            self.memory.as_ref().and_then(MemoryWatch::due),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
