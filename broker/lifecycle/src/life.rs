//! The life of one host.

mod ending;
mod ports;
mod restarting;
mod sleeping;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use imsup_wire::{Awaited, Cause, CauseKind, Endpoint, EventKind, HostState};

use self::ports::{Queued, Start};
pub use self::restarting::{attempt_of, is_restart, is_stop};
use super::{Action, Answer, Hope, Input, Policy, Port, Waiter, WaiterId, Want};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No process; booted by itself at `restart_at`, if set.
    Imaginary { restart_at: Option<Instant> },
    /// Started and not ready.
    Booting { since: Instant },
    /// Ready.
    Running {
        since: Instant,
        /// Suspended, which changes nothing for clients: their connections wake the host.
        asleep: bool,
    },
    /// The last start failed; not repeated before `retry_at`.
    Failed { retry_at: Instant },
}

/// The state of one host, with its waiting callers.
#[derive(Debug)]
pub struct Life {
    phase: Phase,
    policy: Policy,
    /// Starts that failed, in a row.
    failures: u32,
    /// Runs in a row that broke between listening and settling.
    breaks: u32,
    /// Short runs in a row of a host that is kept awake.
    short_runs: u32,
    /// Consecutive boots that only `restart` asked for.
    attempts: u32,
    /// Connections known to wait in retained sockets without a listening program.
    queued: BTreeMap<Endpoint, Queued>,
    /// The start of the program that runs, or ran last.
    start: Start,
    waiters: Vec<Waiter>,
    signalled: Option<Instant>,
    cause: Option<Box<Cause>>,
    detail: Option<Box<str>>,
    stopping: bool,
    /// Since the boot a user has asked for the host's end, or for the end of its restart.
    stopped: bool,
    /// The program is being ended because the host is unused.
    terminated: bool,
    retired: bool,
}

impl Life {
    /// A host that is imaginary.
    pub fn new(policy: Policy) -> Self {
        Self {
            phase: Phase::Imaginary { restart_at: None },
            policy,
            failures: 0,
            breaks: 0,
            short_runs: 0,
            attempts: 0,
            queued: BTreeMap::new(),
            start: Start::new(Instant::now(), None),
            waiters: Vec::new(),
            signalled: None,
            cause: None,
            detail: None,
            stopping: false,
            stopped: false,
            terminated: false,
            retired: false,
        }
    }

    /// The current phase of the host's life.
    pub fn state(&self) -> HostState {
        match self.phase {
            Phase::Imaginary { .. } => HostState::Imaginary,
            Phase::Booting { .. } => HostState::Booting,
            Phase::Running { asleep: true, .. } => HostState::Suspended,
            Phase::Running { .. } => HostState::Running,
            Phase::Failed { .. } => HostState::Failed,
        }
    }

    /// True if the program has opened no more ports for a while.
    pub fn settled(&self) -> bool {
        !self.absent() && self.start.quiet
    }

    /// True if no process of the host runs.
    pub fn absent(&self) -> bool {
        matches!(self.phase, Phase::Imaginary { .. } | Phase::Failed { .. })
    }

    /// True if the program is being ended: callers get the next boot.
    pub fn ending(&self) -> bool {
        self.stopping || self.retired
    }

    /// The signal behind the current or last boot.
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_deref()
    }

    /// Adds the sender of the signal, if the sender was found only after the action.
    pub fn name_caller(&mut self, by: String) {
        if let Some(cause) = &mut self.cause {
            cause.by.get_or_insert(by);
        }
    }

    /// The reason for the state, if worth telling.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// All waiting callers.
    pub fn waiters(&self) -> Vec<WaiterId> {
        self.waiters.iter().map(|waiter| waiter.id).collect()
    }

    /// When [`Input::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Imaginary { restart_at } => restart_at.filter(|_| !self.retired),
            Phase::Failed { retry_at } if self.is_wanted() => Some(retry_at),
            Phase::Booting { .. } | Phase::Running { .. } | Phase::Failed { .. } => None,
        };
        let waiters = self.waiters.iter().filter_map(|waiter| waiter.deadline).min();
        [phase, self.port_deadline(), waiters].into_iter().flatten().min()
    }

    /// Takes an input at time `now` and returns the actions.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Signal { cause, queued } => self.signal(cause, queued, now, &mut actions),
            Input::Wait { waiter, want, cause } => self.wait(waiter, want, cause, now, &mut actions),
            Input::Cancel(id) => {
                self.waiters.retain(|waiter| waiter.id != id);
                self.ready_if_quiet(now, &mut actions);
            }
            Input::Executed => self.executed(now, &mut actions),
            Input::Listening { endpoint, counts } => self.listening(endpoint, counts, now, &mut actions),
            Input::Settled => self.settle(now, &mut actions),
            Input::Ended { status, detail } => self.ended(status, detail, now, &mut actions),
            Input::Taken { cause, ready } => self.taken(cause, ready, now, &mut actions),
            Input::Suspended => self.suspended(now, &mut actions),
            Input::Woke => self.woke(&mut actions),
            Input::NotWoken(why) => self.not_woken(why, &mut actions),
            Input::Terminating => self.terminating(),
            Input::Stop => self.stop(&mut actions),
            Input::Restart => self.restart(&mut actions),
            Input::Retire => self.retire(&mut actions),
            Input::EndedUnseen => self.ended_unseen(now, &mut actions),
            Input::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    fn is_wanted(&self) -> bool {
        !self.retired && (self.revives() || !self.queued.is_empty() || !self.waiters.is_empty())
    }

    fn signal(&mut self, cause: Cause, queued: Option<Port>, now: Instant, actions: &mut Vec<Action>) {
        if self.retired {
            return;
        }
        if let Some(port) = queued {
            self.queue(port, now, actions);
        }
        match self.phase {
            Phase::Imaginary { .. } => self.allocate(cause, queued.map(|port| port.endpoint), now, actions),
            Phase::Failed { retry_at } if retry_at <= now => {
                self.allocate(cause, queued.map(|port| port.endpoint), now, actions);
            }
            Phase::Failed { .. } => self.cause = Some(Box::new(cause)),
            Phase::Running { asleep: true, .. } if queued.is_some() && self.awaited() == Awaited::Expected => {
                actions.push(Action::Resume(cause));
            }
            Phase::Booting { .. } | Phase::Running { .. } => {}
        }
    }

    fn wait(&mut self, id: WaiterId, want: Want, cause: Cause, now: Instant, actions: &mut Vec<Action>) {
        let at_once = match (want, self.phase) {
            (Want::Ended, Phase::Imaginary { .. } | Phase::Failed { .. }) => Some(Answer::Ended),
            (Want::Ended, _) => None,
            (Want::Ready, _) if self.retired => Some(Answer::Failed),
            (Want::Port(_), _) if self.retired => Some(Answer::Refused),
            // A caller of a host that is being stopped gets the next boot.
            (_, _) if self.stopping => None,
            (Want::Ready, Phase::Running { asleep: false, .. }) => Some(Answer::Ready),
            (Want::Ready, Phase::Booting { .. }) if self.has_unmet() => Some(Answer::Ready),
            (Want::Port(endpoint), _) if self.refuses(endpoint, now) => Some(Answer::Refused),
            _ => None,
        };
        if let Some(answer) = at_once {
            actions.push(Action::Answer(id, answer));
            return;
        }
        let deadline = (want != Want::Ended).then(|| now + self.policy.hold_timeout);
        let (asked, hope) = match want {
            Want::Port(endpoint) => (Some(endpoint), self.hope_of(endpoint, false, now)),
            Want::Ready | Want::Ended => (None, Hope::Stray),
        };
        self.waiters.push(Waiter {
            id,
            want,
            hope,
            deadline,
            cause: cause.clone(),
        });
        match self.phase {
            Phase::Imaginary { .. } => self.allocate(cause, asked, now, actions),
            // A user who names the host does not wait for the delay.
            Phase::Failed { retry_at } if retry_at <= now || want == Want::Ready => {
                self.allocate(cause, asked.or_else(|| self.first_awaited()), now, actions);
            }
            Phase::Running { asleep: true, .. } if want != Want::Ended && !self.stopping => {
                actions.push(Action::Resume(cause));
            }
            _ => {}
        }
    }

    /// Boots the host for a signal, and for this port if the signal is for a port.
    fn allocate(&mut self, cause: Cause, asked: Option<Endpoint>, now: Instant, actions: &mut Vec<Action>) {
        self.attempts = 0;
        self.cause = Some(Box::new(cause));
        actions.push(Action::Emit {
            kind: EventKind::Allocate,
            duration: None,
            detail: None,
        });
        self.boot(asked, now, actions);
    }

    fn boot(&mut self, asked: Option<Endpoint>, now: Instant, actions: &mut Vec<Action>) {
        self.signalled = Some(now);
        self.detail = None;
        self.stopping = false;
        self.stopped = false;
        self.start = Start::new(now, asked);
        self.phase = Phase::Booting { since: now };
        actions.push(Action::Boot);
    }

    fn executed(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.absent() {
            return;
        }
        actions.push(Action::Emit {
            kind: EventKind::Boot,
            duration: self.since_signal(now),
            detail: None,
        });
    }

    fn since_signal(&self, now: Instant) -> Option<Duration> {
        self.signalled.map(|signalled| now.saturating_duration_since(signalled))
    }

    fn ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Booting { .. }) {
            return;
        }
        self.phase = Phase::Running {
            since: now,
            asleep: false,
        };
        let listens = self.start.listened.is_some();
        actions.push(Action::Emit {
            kind: EventKind::Ready,
            duration: self.since_signal(now),
            detail: (!listens).then(|| "settled without listening".to_owned()),
        });
        self.answer(|waiter| (waiter.want == Want::Ready).then_some(Answer::Ready), actions);
    }

    fn taken(&mut self, cause: Option<Cause>, ready: bool, now: Instant, actions: &mut Vec<Action>) {
        let (absent, is_adopted) = (self.absent(), cause.is_none());
        if absent {
            self.signalled = Some(now);
            self.detail = None;
            self.stopping = false;
            self.stopped = false;
            self.terminated = false;
            if let Some(cause) = cause {
                self.cause = Some(Box::new(cause));
                actions.push(Action::Emit {
                    kind: EventKind::Allocate,
                    duration: None,
                    detail: None,
                });
            }
        }
        if !absent && !matches!(self.phase, Phase::Booting { .. }) {
            return;
        }
        self.start = match is_adopted {
            true => Start::adopted(now),
            false => Start::new(now, None),
        };
        if ready {
            // Not settled: the listeners are still to be reported.
            self.phase = Phase::Running {
                since: now,
                asleep: false,
            };
            self.answer(|waiter| (waiter.want == Want::Ready).then_some(Answer::Ready), actions);
        } else {
            self.phase = Phase::Booting { since: now };
        }
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        self.stopped = true;
        self.call_off_restart(actions);
        match self.phase {
            Phase::Booting { .. } | Phase::Running { .. } => {
                self.stopping = true;
                self.refuse_all(actions);
                self.reset_queued(actions);
                actions.push(Action::Stop);
            }
            Phase::Imaginary { .. } => self.phase = Phase::Imaginary { restart_at: None },
            Phase::Failed { .. } => {
                self.phase = Phase::Imaginary { restart_at: None };
                self.failures = 0;
                self.detail = None;
                self.queued.clear();
                actions.push(Action::ResetQueued);
                self.refuse_all(actions);
            }
        }
    }

    /// Ends the program without turning callers away: queued connections stay queued.
    fn restart(&mut self, actions: &mut Vec<Action>) {
        self.stopped = false;
        self.call_off_restart(actions);
        match self.phase {
            Phase::Booting { .. } | Phase::Running { .. } => {
                self.stopping = true;
                actions.push(Action::Stop);
            }
            Phase::Imaginary { .. } => self.phase = Phase::Imaginary { restart_at: None },
            Phase::Failed { .. } => {
                self.phase = Phase::Imaginary { restart_at: None };
                self.failures = 0;
                self.attempts = 0;
                self.detail = None;
            }
        }
    }

    fn retire(&mut self, actions: &mut Vec<Action>) {
        self.retired = true;
        self.refuse_all(actions);
        if !self.absent() {
            self.stopping = true;
            actions.push(Action::Stop);
        }
    }

    fn refuse_all(&mut self, actions: &mut Vec<Action>) {
        self.answer(
            |waiter| match waiter.want {
                Want::Port(_) => Some(Answer::Refused),
                Want::Ready => Some(Answer::Failed),
                Want::Ended => None,
            },
            actions,
        );
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.ports_on_time(now, actions);
        match self.phase {
            Phase::Failed { retry_at } if retry_at <= now && self.is_wanted() => {
                match self.waiters.first() {
                    Some(waiter) => self.cause = Some(Box::new(waiter.cause.clone())),
                    None if self.queued.is_empty() => self.attempts = self.attempts.saturating_add(1),
                    None => {}
                }
                self.boot(self.first_awaited(), now, actions);
            }
            Phase::Imaginary {
                restart_at: Some(restart_at),
            } if restart_at <= now && !self.retired => {
                let attempts = self.attempts.saturating_add(1);
                self.allocate(self.own_cause(), None, now, actions);
                self.attempts = attempts;
            }
            _ => {}
        }
    }

    /// Answers, and forgets, the waiters for which `decide` has an answer.
    fn answer(&mut self, decide: impl Fn(&Waiter) -> Option<Answer>, actions: &mut Vec<Action>) {
        self.waiters.retain(|waiter| match decide(waiter) {
            Some(answer) => {
                actions.push(Action::Answer(waiter.id, answer));
                false
            }
            None => true,
        });
    }
}

/// The cause of a boot with `up` (`x-imsup.start`).
pub fn started_by_up() -> Cause {
    Cause {
        kind: CauseKind::Wake,
        by: Some("up".to_owned()),
        port: None,
    }
}

/// The cause of a boot that `keep_awake` asks for.
pub fn kept_awake() -> Cause {
    Cause {
        kind: CauseKind::Wake,
        by: Some("keep_awake".to_owned()),
        port: None,
    }
}
