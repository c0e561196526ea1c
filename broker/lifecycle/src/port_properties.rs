//! The port that was asked for decides, whatever else a program opens, and however long that takes.

use std::collections::BTreeMap;
use std::time::Instant;

use imsup_wire::{Awaited, EventKind, ExitStatus, HostState};
use proptest::prelude::*;

use super::properties::{HOLD_TIMEOUT, World, cause, endpoint, kinds, port};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn queue(&mut self, number: u16, declared: bool) -> Vec<Action> {
        let queued = Some(port(number, declared));
        self.step(Input::Signal { cause: cause(), queued })
    }

    /// A supervised caller that waits for this port.
    fn call(&mut self, number: u16) -> (WaiterId, Vec<Action>) {
        let waiter = self.new_waiter();
        let want = Want::Port(endpoint(number));
        let actions = self.step(Input::Wait {
            waiter,
            want,
            cause: cause(),
        });
        (waiter, actions)
    }

    fn end(&mut self, status: ExitStatus) -> Vec<Action> {
        self.live = false;
        self.step(Input::Ended { status, detail: None })
    }

    fn state(&self) -> HostState {
        self.life.state()
    }
}

fn reset(number: u16) -> Action {
    Action::ResetAt(endpoint(number), None)
}

fn closes(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::CloseUnused { .. }))
}

/// The steps of a program, and its callers.
#[derive(Clone, Debug)]
enum Happening {
    Listens(u16),
    Quiet,
    Comes { port: u16, declared: bool },
    Calls(u16),
    Suspended,
    Pass(Duration),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let port = 1u16..5;
    let one = prop_oneof![
        port.clone().prop_map(Happening::Listens),
        Just(Happening::Quiet),
        (port.clone(), any::<bool>()).prop_map(|(port, declared)| Happening::Comes { port, declared }),
        port.prop_map(Happening::Calls),
        Just(Happening::Suspended),
        (0u64..30_000).prop_map(|ms| Happening::Pass(Duration::from_millis(ms))),
    ];
    proptest::collection::vec(one, 0..40)
}

proptest! {
    /// A caller of a declared port is reset at `hold_timeout` and not before, unless the port is
    /// opened; and `ready` is reported when that port is opened, or has no caller any more.
    #[test]
    fn a_declared_port_is_waited_for(happenings in happenings()) {
        let mut world = World::new(Revive::OnSignal);
        // The time of the oldest waiting arrival.
        let mut waits: BTreeMap<u16, Instant> = BTreeMap::new();
        let mut asked_opened = false;
        world.queue(1, true);
        waits.insert(1, world.now);
        for happening in happenings {
            let mut actions = match happening {
                Happening::Listens(number) => {
                    asked_opened |= number == 1;
                    waits.remove(&number);
                    world.listening(number, number != 3)
                }
                Happening::Quiet => world.step(Input::Settled),
                Happening::Comes { port, declared } => {
                    if declared && !waits.contains_key(&port) {
                        // An arrival without a declaration has waited for longer.
                        if !world.life.has_queued(endpoint(port)) {
                            waits.insert(port, world.now);
                        }
                    }
                    world.queue(port, declared)
                }
                Happening::Calls(number) => world.call(number).1,
                // A supervisor suspends only hosts without waiting callers.
                Happening::Suspended if world.life.awaited() == Awaited::Expected => Vec::new(),
                Happening::Suspended => world.step(Input::Suspended),
                Happening::Pass(time) => world.pass(time),
            };
            for (number, since) in waits.clone() {
                let left = HOLD_TIMEOUT.checked_sub(world.now - since);
                if let Some(position) = actions.iter().position(|action| *action == reset(number)) {
                    prop_assert!(left.is_none_or(|left| left.is_zero()), "{number} was reset {left:?} too early");
                    actions.remove(position);
                    waits.remove(&number);
                } else {
                    prop_assert!(left.is_some_and(|left| !left.is_zero()), "{number} waits for ever");
                    prop_assert!(world.life.is_awaited(endpoint(number)));
                    prop_assert!(!world.life.refuses(endpoint(number), world.now));
                }
            }
            let is_ready = kinds(&actions).contains(&EventKind::Ready);
            prop_assert!(!is_ready || asked_opened || !waits.contains_key(&1), "ready before its port");
        }
    }

    /// Every caller is answered within `hold_timeout`, and one boot suffices.
    #[test]
    fn callers_are_answered_by_one_boot(happenings in happenings()) {
        let mut world = World::new(Revive::OnSignal);
        world.call(1);
        for happening in happenings {
            match happening {
                Happening::Listens(number) => drop(world.listening(number, false)),
                Happening::Quiet => drop(world.step(Input::Settled)),
                Happening::Comes { port, declared } => drop(world.queue(port, declared)),
                Happening::Calls(number) => drop(world.call(number)),
                Happening::Suspended => drop(world.step(Input::Suspended)),
                Happening::Pass(time) => drop(world.pass(time)),
            }
        }
        // The program ends well: its work is done, so no caller is left to boot the host again.
        let listens = world.life.has_listened();
        world.end(ExitStatus::Code(0));
        prop_assert!(!listens || world.waiting.is_empty());
        world.pass(HOLD_TIMEOUT);
        prop_assert!(world.waiting.is_empty());
        prop_assert!(!listens || !world.live, "booted for nobody");
    }
}

#[test]
fn whoever_waits_is_told_where_it_listens_instead() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    let (caller, _) = world.call(81);
    world.pass(SECOND);
    assert!(
        kinds(&world.listening(5005, false)).is_empty(),
        "not the port that was asked for"
    );
    assert_eq!(world.state(), HostState::Booting);
    assert!(world.pass(UNMET_AFTER - SECOND).is_empty());
    let told = world.pass(SECOND);
    let Some(Action::Unmet(ports)) = told.first() else {
        panic!("{told:?}");
    };
    assert!(ports.contains(&endpoint(80)) && ports.contains(&endpoint(81)));
    assert!(kinds(&world.step(Input::Settled)).is_empty());
    let actions = world.listening(80, true);
    assert_eq!(kinds(&actions), [EventKind::Ready]);
    assert_eq!(world.life.unmet().collect::<Vec<_>>(), [endpoint(81)]);
    assert!(!world.answered.contains_key(&caller));
    let actions = world.pass(HOLD_TIMEOUT);
    assert_eq!(
        world.answered[&caller],
        Answer::Refused,
        "it runs, and does not listen there"
    );
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Unmet(_))),
        "said once"
    );
}

#[test]
fn a_wake_ends_when_it_is_said_that_it_listens_elsewhere() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    world.listening(5005, false);
    let waiter = world.new_waiter();
    let want = Want::Ready;
    world.step(Input::Wait {
        waiter,
        want,
        cause: cause(),
    });
    assert!(!world.answered.contains_key(&waiter));
    world.pass(UNMET_AFTER);
    assert_eq!(world.answered[&waiter], Answer::Ready);
    assert_eq!(world.state(), HostState::Booting);
}

#[test]
fn each_of_a_queue_waits_for_as_long() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    let came = |world: &mut World, length| {
        let queued = Some(Port {
            length: Some(length),
            ..port(80, true)
        });
        world.step(Input::Signal { cause: cause(), queued });
    };
    world.pass(HOLD_TIMEOUT / 2);
    // One arrival came unseen with the first, so two have waited since then.
    came(&mut world, 3);
    world.pass(HOLD_TIMEOUT / 4);
    came(&mut world, 4);
    assert_eq!(
        world.pass(HOLD_TIMEOUT / 4),
        [
            Action::Unmet(vec![endpoint(80)]),
            Action::ResetAt(endpoint(80), Some(2))
        ]
    );
    assert_eq!(world.pass(HOLD_TIMEOUT / 2), [Action::ResetAt(endpoint(80), Some(1))]);
    assert_eq!(world.pass(HOLD_TIMEOUT / 4), [reset(80)]);
    assert!(!world.life.is_awaited(endpoint(80)));
}

#[test]
fn a_port_that_nobody_declared_is_waited_for_until_the_program_does_nothing_more() {
    let mut world = World::new(Revive::OnSignal);
    let (first, _) = world.call(80);
    world.listening(5005, true);
    assert_eq!(world.state(), HostState::Booting);
    assert_eq!(world.life.awaited(), Awaited::Expected);
    world.step(Input::Settled);
    assert_eq!(
        world.life.awaited(),
        Awaited::Asked,
        "it may sleep if it would go on by nothing of its own"
    );
    assert!(world.life.refuses(endpoint(81), world.now), "another port is refused");
    assert!(
        !world.life.refuses(endpoint(80), world.now),
        "whoever comes for the same port waits as well"
    );
    let (second, _) = world.call(80);
    let (stray, _) = world.call(81);
    assert_eq!(world.answered[&stray], Answer::Refused);
    assert_eq!(world.answered.len(), 1);
    world.step(Input::Suspended);
    assert_eq!(world.answered[&first], Answer::Refused);
    assert_eq!(world.answered[&second], Answer::Refused);
}

#[test]
fn whoever_comes_for_a_strange_port_of_a_host_that_is_ready_is_refused_when_it_is_quiet() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    world.listening(80, true);
    let (stray, _) = world.call(81);
    assert!(!world.answered.contains_key(&stray));
    assert_eq!(world.life.awaited(), Awaited::Expected, "its start is not over");
    assert!(closes(&world.step(Input::Settled)));
    assert_eq!(world.answered[&stray], Answer::Refused);
}

#[test]
fn a_start_may_take_all_the_time_there_is() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    assert!(world.pass(HOLD_TIMEOUT - SECOND).is_empty());
    assert_eq!(kinds(&world.listening(80, true)), [EventKind::Ready]);
    assert_eq!(world.life.awaited(), Awaited::Nobody);
}

#[test]
fn ready_is_said_of_a_port_that_counts_where_nobody_asked_for_one() {
    let mut world = World::new(Revive::OnSignal);
    world.step(Input::Signal {
        cause: cause(),
        queued: None,
    });
    assert!(kinds(&world.listening(5005, false)).is_empty());
    assert_eq!(kinds(&world.listening(80, true)), [EventKind::Ready]);

    let mut world = World::new(Revive::OnSignal);
    world.step(Input::Signal {
        cause: cause(),
        queued: None,
    });
    world.listening(5005, false);
    let actions = world.step(Input::Settled);
    assert_eq!(
        kinds(&actions),
        [EventKind::Ready],
        "no port is waited for that nobody asked for"
    );
    assert!(closes(&actions));
}

#[test]
fn a_sleeper_is_woken_by_whoever_comes_for_a_port_that_is_declared() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    world.listening(80, true);
    world.step(Input::Settled);
    world.step(Input::Suspended);
    assert_eq!(
        world.queue(81, true),
        [Action::Resume(cause()), Action::Unmet(vec![endpoint(81)])][..1]
    );
    world.step(Input::Woke);
    assert_eq!(world.life.awaited(), Awaited::Expected);
    // The host fell asleep during that report.
    let actions = world.step(Input::Suspended);
    assert!(actions.contains(&Action::Resume(cause())), "{actions:?}");
}

#[test]
fn a_sleeper_that_was_taken_up_is_woken_though_nobody_knows_its_cause() {
    let mut world = World::new(Revive::OnSignal);
    world.live = true;
    world.step(Input::Taken {
        cause: None,
        ready: true,
    });
    world.listening(80, true);
    world.queue(81, true);
    assert_eq!(world.life.awaited(), Awaited::Expected);
    let actions = world.step(Input::Suspended);
    assert!(
        actions.iter().any(|action| matches!(action, Action::Resume(_))),
        "{actions:?}"
    );
}

#[test]
fn a_boot_that_ends_without_the_port_answers_whoever_waits_for_it() {
    for status in [ExitStatus::Code(0), ExitStatus::Signal(15)] {
        let mut world = World::new(Revive::OnSignal);
        world.queue(80, true);
        let (caller, _) = world.call(80);
        world.listening(9000, false);
        let actions = world.end(status);
        assert!(actions.contains(&reset(80)), "{actions:?}");
        assert_eq!(world.answered[&caller], Answer::Refused);
        assert_eq!(world.state(), HostState::Imaginary);
    }
    // A crashing start is repeated, like a start without a listener, but not for ever.
    let mut world = World::new(Revive::OnSignal);
    let (caller, _) = world.call(80);
    for failure in 1..=FAILURES_UNTIL_REFUSED {
        world.listening(9000, false);
        world.end(ExitStatus::Code(3));
        assert_eq!(
            world.life.detail(),
            Some("exited with status 3 before it listened on 80/tcp")
        );
        world.pass(delay_after(failure));
    }
    assert_eq!(world.answered[&caller], Answer::Refused);
    assert!(!world.live);
    // Another port was served, which changes nothing for this port.
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    world.queue(81, true);
    world.listening(80, true);
    assert!(world.end(ExitStatus::Signal(9)).contains(&reset(81)));
    assert!(!world.life.is_awaited(endpoint(81)));
}

#[test]
fn whoever_comes_while_it_is_being_ended_is_for_the_next_boot() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    world.queue(82, true);
    world.listening(80, true);
    let actions = world.step(Input::Stop);
    assert!(
        actions.contains(&reset(82)),
        "whoever waited for the program that is ended: {actions:?}"
    );
    let (caller, _) = world.call(81);
    world.end(ExitStatus::Signal(15));
    assert_eq!(world.state(), HostState::Booting);
    world.listening(80, true);
    world.step(Input::Settled);
    assert!(!world.answered.contains_key(&caller), "this boot is for it");
    world.listening(81, false);
    assert_eq!(world.answered[&caller], Answer::Connect);
}

#[test]
fn whoever_waits_while_it_is_restarted_is_for_the_next_boot() {
    let mut world = World::new(Revive::OnSignal);
    world.queue(80, true);
    let (caller, _) = world.call(81);
    let actions = world.step(Input::Restart);
    assert_eq!(actions, [Action::Stop], "nobody is turned away");
    world.end(ExitStatus::Signal(15));
    assert_eq!(world.state(), HostState::Booting);
    world.listening(80, true);
    world.listening(81, true);
    assert_eq!(world.answered[&caller], Answer::Connect);
}

#[test]
fn those_who_waited_before_the_broker_was_replaced_wait_on() {
    let mut world = World::new(Revive::OnSignal);
    world.live = true;
    world.step(Input::Taken {
        cause: None,
        ready: true,
    });
    world.listening(5005, true);
    world.step(Input::Settled);
    let (caller, _) = world.call(80);
    assert!(world.answered.is_empty());
    world.pass(UNMET_AFTER);
    let (stray, _) = world.call(81);
    assert_eq!(world.answered[&stray], Answer::Refused);
    world.listening(80, true);
    assert_eq!(world.answered[&caller], Answer::Connect);
}
