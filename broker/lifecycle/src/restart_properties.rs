//! The promise of `restart`, in every case: a boot again after an end that no user asked for, and
//! after no other end.

use std::time::Duration;

use imsup_wire::{EventKind, ExitStatus, HostState};
use proptest::prelude::*;

use super::properties::{HOLD_TIMEOUT, World, cause, endpoint};
use super::*;
use imsup_wire::RestartCondition::{Always, No, OnFailure, UnlessStopped};

/// Longer than any delay.
const AGES: Duration = Duration::from_secs(3600);

fn world(restart: Restart) -> World {
    let revive = match restart.condition {
        No => Revive::OnSignal,
        OnFailure => Revive::AfterFailure,
        Always | UnlessStopped => Revive::Always,
    };
    World::with(Policy {
        hold_timeout: HOLD_TIMEOUT,
        revive,
        restart: Some(restart),
    })
}

impl World {
    fn signal(&mut self) {
        let cause = cause();
        self.step(Input::Signal { cause, queued: None });
    }

    fn run(&mut self) {
        self.step(Input::Executed);
        self.listening(80, true);
        self.step(Input::Settled);
    }

    fn end_with(&mut self, status: ExitStatus) -> Vec<Action> {
        self.live = false;
        self.step(Input::Ended { status, detail: None })
    }
}

fn told(actions: &[Action]) -> Vec<(EventKind, Option<Duration>)> {
    let events = actions.iter().filter_map(|action| match action {
        Action::Emit { kind, duration, .. } => Some((*kind, *duration)),
        _ => None,
    });
    events.collect()
}

fn conditions() -> impl Strategy<Value = Restart> {
    let condition = prop_oneof![Just(No), Just(Always), Just(UnlessStopped), Just(OnFailure)];
    (
        condition,
        prop::option::of(1u32..4),
        0u64..5,
        prop::option::of(1u64..30),
    )
        .prop_map(|(condition, max_attempts, delay, window)| Restart {
            condition,
            max_attempts,
            delay: Duration::from_secs(delay),
            window: window.map(Duration::from_secs),
        })
}

fn statuses() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        Just(ExitStatus::Code(0)),
        Just(ExitStatus::Code(3)),
        Just(ExitStatus::Signal(9)),
        Just(ExitStatus::Signal(15)),
        Just(ExitStatus::Lost),
        Just(ExitStatus::OutOfMemory(1 << 20)),
    ]
}

proptest! {
    #[test]
    fn it_comes_back_exactly_after_the_ends_that_its_policy_is_for(
        restart in conditions(),
        status in statuses(),
        listened in any::<bool>(),
        ran in 0u64..40,
    ) {
        let mut world = world(restart);
        world.pass(AGES);
        prop_assert!(!world.live, "what nobody has asked for does not begin");
        world.signal();
        if listened {
            world.run();
        }
        world.pass(Duration::from_secs(ran));
        let actions = world.end_with(status);
        let expected = match restart.condition {
            No => false,
            Always | UnlessStopped => true,
            OnFailure => status != ExitStatus::Code(0),
        };
        let waits: Vec<_> = told(&actions).into_iter().filter(|(kind, _)| *kind == EventKind::Restart).collect();
        prop_assert_eq!(waits.len(), usize::from(expected));
        prop_assert_eq!(world.life.restarts_at().is_some(), expected);
        if let Some((_, Some(wait))) = waits.first() {
            prop_assert!(*wait >= restart.delay.max(FIRST_DELAY) && *wait <= LONGEST_DELAY);
            world.pass(*wait - Duration::from_millis(1));
            prop_assert!(!world.live, "before its time");
        }
        world.pass(AGES);
        prop_assert_eq!(world.live, expected);
    }

    #[test]
    fn it_never_comes_back_after_an_end_that_was_asked_for(
        restart in conditions(),
        status in statuses(),
        terminated in any::<bool>(),
    ) {
        let mut world = world(restart);
        world.signal();
        world.run();
        if terminated {
            world.step(Input::Suspended);
            world.step(Input::Terminating);
        } else {
            world.step(Input::Stop);
        }
        let actions = world.end_with(status);
        prop_assert!(told(&actions).iter().all(|(kind, _)| *kind != EventKind::Restart));
        world.pass(AGES);
        prop_assert!(!world.live);
        prop_assert_eq!(world.life.restarts_at(), None);
        // And the next connection boots the host, as ever.
        world.signal();
        prop_assert!(world.live);
    }

    #[test]
    fn a_stop_or_down_during_the_delay_is_an_end_of_it(restart in conditions(), status in statuses(), down in any::<bool>()) {
        let mut world = world(restart);
        world.signal();
        world.run();
        world.end_with(status);
        let is_due = world.life.restarts_at().is_some();
        let actions = world.step(if down { Input::Retire } else { Input::Stop });
        // The next broker knows of the restart by its event.
        let ends = told(&actions) == [(EventKind::Exit, None)];
        prop_assert_eq!(ends, is_due && !down);
        prop_assert!(!ends || world.life.end_cause().is_some_and(|cause| is_stop(&cause)));
        world.pass(AGES);
        prop_assert!(!world.live);
    }

    #[test]
    fn attempts_are_counted_since_the_last_boot_for_another_reason(most in 1u32..5, listened in any::<bool>()) {
        let mut world = world(Restart { max_attempts: Some(most), ..Restart::new(OnFailure) });
        for _ in 0..2 {
            world.signal();
            let mut boots = 0;
            while world.live {
                boots += 1;
                if listened {
                    world.run();
                }
                world.end_with(ExitStatus::Code(3));
                world.pass(AGES);
            }
            prop_assert_eq!(boots, 1 + most);
            prop_assert_eq!(world.life.deadline(), None);
        }
    }
}

#[test]
fn a_run_as_long_as_the_window_begins_a_new_row() {
    // Longer than `AGES`, whose rest after a boot is part of the run.
    let window = AGES * 2;
    let mut world = world(Restart {
        max_attempts: Some(1),
        window: Some(window),
        ..Restart::new(Always)
    });
    world.signal();
    for _ in 0..5 {
        world.run();
        world.pass(window);
        world.end_with(ExitStatus::Code(1));
        world.pass(AGES);
        assert!(world.live);
    }
    world.run();
    world.end_with(ExitStatus::Code(1));
    world.pass(AGES);
    assert!(!world.live, "it had its one attempt");
}

#[test]
fn delays_grow_from_100_ms_to_30_s_and_begin_anew_after_a_long_run() {
    let mut world = world(Restart::new(Always));
    world.signal();
    for count in 1..12 {
        world.run();
        world.end_with(ExitStatus::Code(0));
        let wait = world.life.restarts_at().unwrap() - world.now;
        assert_eq!(wait, delay_after(count));
        world.pass(wait);
        assert!(world.live);
        assert_eq!(
            world.life.cause().and_then(|cause| cause.by.as_deref()),
            Some("restart")
        );
    }
    world.run();
    world.pass(LONG_RUN);
    world.end_with(ExitStatus::Code(0));
    assert_eq!(world.life.restarts_at().unwrap() - world.now, FIRST_DELAY);
}

#[test]
fn whoever_connects_meanwhile_does_not_wait_for_the_delay() {
    let mut world = world(Restart {
        delay: Duration::from_secs(60),
        ..Restart::new(Always)
    });
    world.signal();
    world.run();
    world.end_with(ExitStatus::Code(0));
    assert_eq!(world.life.restarts_at().unwrap() - world.now, Duration::from_secs(60));
    world.signal();
    assert!(world.live);
}

#[test]
fn what_ended_unseen_comes_back() {
    for (restart, comes) in [(No, false), (Always, true), (UnlessStopped, true), (OnFailure, true)] {
        let mut world = world(Restart::new(restart));
        world.step(Input::EndedUnseen);
        world.pass(AGES);
        assert_eq!(world.live, comes, "{restart:?}");
    }
}

#[test]
fn out_of_memory_is_a_failure_with_its_reason() {
    let mut world = World::new(Revive::OnSignal);
    for _ in 0..5 {
        world.signal();
        world.run();
        world.end_with(ExitStatus::OutOfMemory(64 << 20));
        assert_eq!(world.life.state(), HostState::Failed);
        assert_eq!(
            world.life.detail(),
            Some("was killed, out of memory: its limit is 64 MB")
        );
        assert!(world.life.deadline().is_none(), "nobody waits");
        world.pass(LONGEST_DELAY);
    }
    let waiter = world.new_waiter();
    let want = Want::Port(endpoint(80));
    let cause = cause();
    world.step(Input::Wait { waiter, want, cause });
    assert!(world.live, "its next connection boots it");
}
