//! Any sequence of happenings keeps the promises of a [`Life`].

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use imsup_wire::{Cause, CauseKind, Endpoint, EventKind, ExitStatus, HostState};
use proptest::prelude::*;

use super::*;

pub(super) const HOLD_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn cause() -> Cause {
    Cause {
        kind: CauseKind::Connect,
        by: None,
        port: Some(80),
    }
}

pub(super) fn endpoint(port: u16) -> Endpoint {
    Endpoint::tcp(Ipv4Addr::new(127, 77, 1, 1), port)
}

pub(super) fn port(port: u16, declared: bool) -> Port {
    Port {
        endpoint: endpoint(port),
        declared,
        length: None,
    }
}

/// The next step of the world.
#[derive(Clone, Debug)]
enum Move {
    Signal { queued: bool },
    Queued { port: u16, declared: bool },
    Wait(Want),
    Cancel(u64),
    Executed,
    Listening(u16),
    Settled,
    Ended(ExitStatus),
    Taken { ready: bool },
    Suspended,
    Woke,
    NotWoken,
    Terminating,
    Stop,
    Restart,
    Pass(Duration),
}

fn moves() -> impl Strategy<Value = Move> {
    let port = 1u16..4;
    let status = prop_oneof![
        Just(ExitStatus::Code(0)),
        Just(ExitStatus::Code(3)),
        Just(ExitStatus::Signal(9)),
        Just(ExitStatus::Signal(11)),
        Just(ExitStatus::NotExecuted(2)),
        Just(ExitStatus::Lost),
        Just(ExitStatus::OutOfMemory(1 << 20)),
    ];
    let want = prop_oneof![
        port.clone().prop_map(|port| Want::Port(endpoint(port))),
        Just(Want::Ready),
        Just(Want::Ended)
    ];
    prop_oneof![
        any::<bool>().prop_map(|queued| Move::Signal { queued }),
        (port.clone(), any::<bool>()).prop_map(|(port, declared)| Move::Queued { port, declared }),
        want.prop_map(Move::Wait),
        (0u64..20).prop_map(Move::Cancel),
        Just(Move::Executed),
        port.prop_map(Move::Listening),
        Just(Move::Settled),
        status.prop_map(Move::Ended),
        any::<bool>().prop_map(|ready| Move::Taken { ready }),
        Just(Move::Suspended),
        Just(Move::Woke),
        Just(Move::NotWoken),
        Just(Move::Terminating),
        Just(Move::Stop),
        Just(Move::Restart),
        (0u64..70_000).prop_map(|ms| Move::Pass(Duration::from_millis(ms))),
    ]
}

/// A host and a world that obeys its actions, checking each.
pub(super) struct World {
    pub(super) life: Life,
    pub(super) now: Instant,
    pub(super) live: bool,
    next_waiter: u64,
    pub(super) waiting: HashSet<WaiterId>,
    pub(super) answered: HashMap<WaiterId, Answer>,
}

impl World {
    pub(super) fn new(revive: Revive) -> Self {
        Self::with(Policy {
            hold_timeout: HOLD_TIMEOUT,
            revive,
            restart: None,
        })
    }

    pub(super) fn with(policy: Policy) -> Self {
        Self {
            life: Life::new(policy),
            now: Instant::now(),
            live: false,
            next_waiter: 0,
            waiting: HashSet::new(),
            answered: HashMap::new(),
        }
    }

    pub(super) fn step(&mut self, input: Input) -> Vec<Action> {
        let actions = self.life.step(input, self.now);
        for action in &actions {
            match action {
                Action::Boot => {
                    assert!(!self.live, "a second boot at once");
                    self.live = true;
                }
                Action::Answer(id, answer) => {
                    assert!(self.waiting.remove(id), "{id:?} was answered twice, or never waited");
                    self.answered.insert(*id, *answer);
                }
                Action::Reclaim(_) => assert!(!self.live, "sockets of a live host were taken back"),
                Action::Stop => assert!(self.live),
                Action::Resume(_) => assert_eq!(self.life.state(), HostState::Suspended, "only a sleeper is woken"),
                _ => {}
            }
        }
        assert_eq!(self.live, !self.life.absent());
        assert!(self.live || self.life.state() != HostState::Suspended);
        actions
    }

    fn apply(&mut self, happening: Move) {
        match happening {
            Move::Signal { queued } => {
                let queued = queued.then(|| port(80, true));
                self.step(Input::Signal { cause: cause(), queued });
            }
            Move::Queued { port, declared } => {
                let queued = Some(self::port(port, declared));
                self.step(Input::Signal { cause: cause(), queued });
            }
            Move::Wait(want) => {
                let waiter = self.new_waiter();
                self.step(Input::Wait {
                    waiter,
                    want,
                    cause: cause(),
                });
            }
            Move::Cancel(id) => {
                self.waiting.remove(&WaiterId(id));
                self.step(Input::Cancel(WaiterId(id)));
            }
            Move::Executed if self.live => {
                self.step(Input::Executed);
            }
            Move::Listening(port) if self.live => {
                self.listening(port, true);
            }
            Move::Settled if self.live => {
                self.step(Input::Settled);
                assert!(self.life.settled());
            }
            Move::Ended(status) if self.live => {
                self.live = false;
                self.step(Input::Ended { status, detail: None });
            }
            Move::Taken { ready } if !self.live => {
                self.live = true;
                self.step(Input::Taken {
                    cause: Some(cause()),
                    ready,
                });
            }
            Move::Suspended if self.live => {
                self.step(Input::Suspended);
                assert_eq!(self.life.state(), HostState::Suspended);
            }
            Move::Woke if self.live => {
                self.step(Input::Woke);
                assert_ne!(self.life.state(), HostState::Suspended);
            }
            Move::NotWoken if self.live => {
                self.step(Input::NotWoken("it is held".to_owned()));
            }
            Move::Terminating if self.live => {
                self.step(Input::Terminating);
                assert_ne!(self.life.state(), HostState::Suspended);
            }
            Move::Stop => {
                self.step(Input::Stop);
            }
            Move::Restart => {
                self.step(Input::Restart);
            }
            Move::Pass(time) => drop(self.pass(time)),
            _ => {}
        }
    }

    /// A caller that is about to wait.
    pub(super) fn new_waiter(&mut self) -> WaiterId {
        let waiter = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        self.waiting.insert(waiter);
        waiter
    }

    /// The program listens; the listener `counts` if its port is declared.
    pub(super) fn listening(&mut self, port: u16, counts: bool) -> Vec<Action> {
        let endpoint = endpoint(port);
        self.step(Input::Listening { endpoint, counts })
    }

    /// Lets time pass, ticking at each deadline as the broker's loop does.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Action> {
        let mut done = Vec::new();
        let end = self.now + time;
        while let Some(deadline) = self.life.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            done.extend(self.step(Input::Tick));
            assert!(
                self.life.deadline().is_none_or(|next| next > self.now),
                "a deadline stays due: the loop would spin"
            );
        }
        self.now = end;
        done
    }
}

proptest! {
    #[test]
    fn never_two_boots_and_every_waiter_is_answered_once(
        happenings in proptest::collection::vec(moves(), 0..60),
        revive in prop_oneof![Just(Revive::OnSignal), Just(Revive::AfterFailure), Just(Revive::Always)],
    ) {
        let mut world = World::new(revive);
        for happening in happenings {
            world.apply(happening);
        }
        world.step(Input::Retire);
        if world.live {
            world.live = false;
            world.step(Input::Ended { status: ExitStatus::Signal(15), detail: None });
        }
        prop_assert!(world.waiting.is_empty(), "left waiting: {:?}", world.waiting);
        world.pass(HOLD_TIMEOUT * 3);
        prop_assert!(!world.live, "a retired host was booted");
    }

    #[test]
    fn every_wait_is_bounded(happenings in proptest::collection::vec(moves(), 0..40)) {
        let mut world = World::new(Revive::OnSignal);
        for happening in happenings {
            world.apply(happening);
        }
        world.pass(HOLD_TIMEOUT);
        // Only waits for an end that no user asked for may be left.
        let before = world.waiting.len();
        if world.live {
            world.live = false;
            world.step(Input::Ended { status: ExitStatus::Signal(9), detail: None });
        }
        prop_assert!(world.waiting.is_empty() || before > 0);
        world.pass(HOLD_TIMEOUT);
        prop_assert!(world.waiting.is_empty());
    }

    #[test]
    fn failures_back_off(failures in 1u32..20) {
        let mut world = World::new(Revive::OnSignal);
        world.apply(Move::Signal { queued: true });
        for count in 1..=failures {
            prop_assert!(world.live);
            world.apply(Move::Ended(ExitStatus::Code(1)));
            prop_assert_eq!(world.life.state(), HostState::Failed);
            let delay = delay_after(count);
            prop_assert!(delay <= LONGEST_DELAY);
            world.apply(Move::Signal { queued: true });
            world.pass(delay - Duration::from_millis(1));
            prop_assert!(!world.live, "failure {count} was retried before {delay:?}");
            world.pass(Duration::from_millis(1));
        }
    }
}

pub(super) fn kinds(actions: &[Action]) -> Vec<EventKind> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Emit { kind, .. } => Some(*kind),
            _ => None,
        })
        .collect()
}

#[test]
fn a_boot_says_allocate_boot_ready_exit() {
    let mut world = World::new(Revive::OnSignal);
    let mut seen = Vec::new();
    let queued = Some(port(80, true));
    let signal = Input::Signal { cause: cause(), queued };
    seen.extend(kinds(&world.step(signal)));
    seen.extend(kinds(&world.step(Input::Executed)));
    seen.extend(kinds(&world.listening(80, true)));
    world.step(Input::Settled);
    world.live = false;
    let end = world.step(Input::Ended {
        status: ExitStatus::Code(1),
        detail: None,
    });
    seen.extend(kinds(&end));
    assert_eq!(
        seen,
        [EventKind::Allocate, EventKind::Boot, EventKind::Ready, EventKind::Exit]
    );
    assert!(end.contains(&Action::Reclaim(After::Ended)));
    assert_eq!(world.life.state(), HostState::Imaginary);
    assert_eq!(world.life.detail(), Some("exited with status 1"));
}

#[test]
fn the_third_failure_leaves_nobody_waiting() {
    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Wait(Want::Port(endpoint(80))));
    for failure in 1..=3 {
        assert!(world.answered.is_empty());
        world.live = false;
        let actions = world.step(Input::Ended {
            status: ExitStatus::Code(7),
            detail: None,
        });
        let after = if failure == 3 { After::GaveUp } else { After::Retry };
        assert!(actions.contains(&Action::Reclaim(after)), "{actions:?}");
        world.pass(delay_after(failure));
    }
    assert_eq!(world.answered[&WaiterId(0)], Answer::Refused);
    assert_eq!(world.life.detail(), Some("exited with status 7 before it listened"));
}

#[test]
fn what_cannot_be_executed_is_tried_again_where_that_may_help() {
    const ENOENT: i32 = 2;
    const EAGAIN: i32 = 11;
    const EACCES: i32 = 13;
    const EMFILE: i32 = 24;
    const ETXTBSY: i32 = 26;
    let cases = [
        (EACCES, 1),
        (ENOENT, FAILURES_UNTIL_REFUSED),
        (ETXTBSY, PASSING_FAILURES_UNTIL_REFUSED),
        (EAGAIN, PASSING_FAILURES_UNTIL_REFUSED),
        (EMFILE, PASSING_FAILURES_UNTIL_REFUSED),
    ];
    for (errno, most) in cases {
        let mut world = World::new(Revive::OnSignal);
        world.apply(Move::Wait(Want::Port(endpoint(80))));
        for failure in 1..=most {
            assert!(world.answered.is_empty(), "errno {errno}, failure {failure}");
            assert!(world.live, "errno {errno}: try {failure}");
            world.apply(Move::Ended(ExitStatus::NotExecuted(errno)));
            if failure < most {
                world.pass(delay_after(failure));
            }
        }
        assert_eq!(world.answered[&WaiterId(0)], Answer::Refused, "errno {errno}");
    }
}

#[test]
fn a_failed_host_is_retried_only_for_somebody() {
    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Signal { queued: false });
    world.apply(Move::Ended(ExitStatus::Code(1)));
    assert_eq!(world.life.deadline(), None);
    world.pass(LONGEST_DELAY);
    assert!(!world.live);
    world.apply(Move::Signal { queued: false });
    assert!(world.live, "a signal after the delay boots it");
}

#[test]
fn a_program_that_never_listens_is_not_booted_in_a_tight_loop() {
    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Signal { queued: true });
    world.live = false;
    let end = world.step(Input::Ended {
        status: ExitStatus::Code(0),
        detail: None,
    });
    assert!(
        end.contains(&Action::ResetAt(endpoint(80), None)),
        "it is done, and so is whoever waits"
    );
    assert_eq!(world.life.state(), HostState::Imaginary);
    assert_eq!(world.life.detail(), Some("exited with status 0 before it listened"));

    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Signal { queued: false });
    world.apply(Move::Ended(ExitStatus::Code(0)));
    assert_eq!(
        world.life.state(),
        HostState::Imaginary,
        "a job that was woken and is done"
    );
}

#[test]
fn kills_do_not_count_as_failures_and_breakages_do() {
    let mut world = World::new(Revive::OnSignal);
    for _ in 0..10 {
        world.apply(Move::Signal { queued: true });
        world.apply(Move::Listening(80));
        world.apply(Move::Ended(ExitStatus::Signal(9)));
        assert_eq!(world.life.state(), HostState::Imaginary);
    }
    for _ in 0..3 {
        world.apply(Move::Signal { queued: true });
        world.apply(Move::Listening(80));
        world.apply(Move::Ended(ExitStatus::Signal(11)));
    }
    assert_eq!(world.life.state(), HostState::Failed);
}

#[test]
fn who_needs_a_host_that_is_being_stopped_gets_its_next_boot() {
    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Signal { queued: false });
    world.apply(Move::Settled);
    world.apply(Move::Stop);
    world.apply(Move::Wait(Want::Ready));
    world.apply(Move::Ended(ExitStatus::Signal(15)));
    assert_eq!(world.life.state(), HostState::Booting);
    world.apply(Move::Settled);
    assert_eq!(world.answered[&WaiterId(0)], Answer::Ready);
}

fn sleeper() -> World {
    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Signal { queued: true });
    world.apply(Move::Listening(80));
    world.apply(Move::Settled);
    world.apply(Move::Suspended);
    world
}

#[test]
fn a_sleeper_is_a_running_host_to_all_but_those_who_want_it_ready() {
    let mut world = sleeper();
    assert!(world.life.settled() && !world.life.absent());
    world.pass(HOLD_TIMEOUT);
    assert_eq!(world.life.deadline(), None, "1,000 sleepers cost nothing");
    world.apply(Move::Wait(Want::Port(endpoint(81))));
    assert_eq!(world.answered[&WaiterId(0)], Answer::Refused, "as one that is awake");
    world.waiting.insert(WaiterId(1));
    let actions = world.step(Input::Wait {
        waiter: WaiterId(1),
        want: Want::Ready,
        cause: cause(),
    });
    assert_eq!(actions, [Action::Resume(cause())]);
    assert!(!world.answered.contains_key(&WaiterId(1)));
    world.apply(Move::Woke);
    assert_eq!(world.answered[&WaiterId(1)], Answer::Ready);
    assert_eq!(world.life.state(), HostState::Running);
}

#[test]
fn a_sleeper_that_cannot_be_woken_says_why() {
    let mut world = sleeper();
    world.apply(Move::Wait(Want::Ready));
    world.apply(Move::NotWoken);
    assert_eq!(world.answered[&WaiterId(0)], Answer::Failed);
    assert_eq!(world.life.detail(), Some("it is held"));
    world.apply(Move::Woke);
    world.apply(Move::NotWoken);
    assert_eq!(world.life.state(), HostState::Running);
}

#[test]
fn a_terminated_hosts_end_is_no_failure_and_who_comes_meanwhile_gets_its_next_boot() {
    let mut world = sleeper();
    world.apply(Move::Wait(Want::Ready));
    world.apply(Move::Terminating);
    assert!(world.life.ending());
    world.apply(Move::NotWoken);
    assert!(
        world.answered.is_empty(),
        "whoever waited to have it woken waits for the next boot"
    );
    world.apply(Move::Wait(Want::Ready));
    world.live = false;
    let end = world.step(Input::Ended {
        status: ExitStatus::Signal(9),
        detail: None,
    });
    assert_eq!(kinds(&end), [EventKind::Exit, EventKind::Allocate]);
    assert_eq!(world.life.state(), HostState::Booting);
    world.apply(Move::Settled);
    assert_eq!(world.answered.len(), 2);
    assert!(world.answered.values().all(|answer| *answer == Answer::Ready));

    let mut world = sleeper();
    world.apply(Move::Terminating);
    world.live = false;
    let end = world.step(Input::Ended {
        status: ExitStatus::Code(1),
        detail: None,
    });
    assert!(
        end.contains(&Action::Reclaim(After::Ended)),
        "its sockets are watched again"
    );
    assert_eq!(world.life.state(), HostState::Imaginary);
}

#[test]
fn a_terminated_host_says_so_until_it_is_booted_again_or_ends_otherwise() {
    for (status, detail) in [
        (ExitStatus::Signal(15), "terminated"),
        (ExitStatus::Signal(9), "terminated"),
        (ExitStatus::Code(0), "terminated"),
        (ExitStatus::Code(143), "terminated"),
        (ExitStatus::Signal(11), "was ended by signal 11"),
    ] {
        let mut world = sleeper();
        world.apply(Move::Terminating);
        world.live = false;
        let end = world.step(Input::Ended { status, detail: None });
        let emitted = end
            .iter()
            .any(|action| matches!(action, Action::Emit { detail: Some(detail), .. } if *detail == status.to_string()));
        assert!(emitted, "the event says how it ended: {end:?}");
        assert_eq!(world.life.detail(), Some(detail), "{status}");
        world.apply(Move::Wait(Want::Ready));
        assert_eq!(world.life.detail(), None, "it boots");
        world.apply(Move::Settled);
        world.apply(Move::Stop);
        world.apply(Move::Ended(ExitStatus::Signal(15)));
        assert_eq!(world.life.detail(), Some("was ended by signal 15"), "and is stopped");
    }
}

#[test]
fn a_host_that_sleeps_has_started() {
    let mut world = World::new(Revive::OnSignal);
    world.apply(Move::Wait(Want::Ready));
    world.apply(Move::Suspended);
    assert_eq!(world.answered[&WaiterId(0)], Answer::Ready);
}

#[test]
fn a_kept_awake_host_comes_back_with_growing_delays() {
    let mut world = World::new(Revive::Always);
    world.apply(Move::Signal { queued: false });
    for count in 1..5 {
        world.apply(Move::Settled);
        world.apply(Move::Ended(ExitStatus::Code(0)));
        assert_eq!(world.life.deadline(), Some(world.now + delay_after(count)));
        world.pass(delay_after(count));
        assert!(world.live);
    }
    world.apply(Move::Stop);
    world.apply(Move::Ended(ExitStatus::Signal(15)));
    assert_eq!(world.life.deadline(), None, "a stopped host stays imaginary");
}
