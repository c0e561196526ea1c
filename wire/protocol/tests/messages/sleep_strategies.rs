//! Anything there can be in messages about sleep.

use imsup_wire::sleep::{Reason, ReasonKind, WaitKind, WaitsFor};
use imsup_wire::{Awaited, Awake, Order, Report, SleepPolicy, Usage, WakeCause, Why};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::strategies::{cause_kind, duration, failure, socket_address};

pub fn sleep_policy() -> impl Strategy<Value = SleepPolicy> {
    let times = (option::of(duration()), option::of(duration()), duration());
    let end = (any::<i32>(), duration());
    (times, any::<(bool, bool)>(), end).prop_map(
        |((idle_after, terminate_after, timer_slack), (disposable, reclaim), (stop_signal, stop_grace))| SleepPolicy {
            idle_after,
            terminate_after,
            disposable,
            timer_slack,
            reclaim,
            stop_signal,
            stop_grace,
        },
    )
}

fn awaited() -> impl Strategy<Value = Awaited> {
    prop_oneof![Just(Awaited::Nobody), Just(Awaited::Asked), Just(Awaited::Expected),]
}

pub fn awake() -> impl Strategy<Value = Awake> {
    (option::of(duration()), any::<u32>(), awaited()).prop_map(|(lease, commands, awaited)| Awake {
        lease,
        commands,
        awaited,
    })
}

pub fn usage() -> impl Strategy<Value = Usage> {
    (duration(), any::<u128>(), any::<u64>()).prop_map(|(cpu, memory_byte_ms, resident_bytes)| Usage {
        cpu,
        memory_byte_ms,
        resident_bytes,
    })
}

pub fn wake_cause() -> impl Strategy<Value = WakeCause> {
    (cause_kind(), option::of(socket_address()), option::of(any::<u16>())).prop_map(|(kind, by, port)| WakeCause {
        kind,
        by,
        port,
    })
}

pub fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Suspend),
        Just(Order::Resume),
        Just(Order::Why),
        Just(Order::Usage),
        Just(Order::Prepare),
        Just(Order::Commit),
        Just(Order::Abort),
    ]
}

pub fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        Just(Report::Done),
        why().prop_map(Report::Why),
        usage().prop_map(Report::Usage),
        failure().prop_map(Report::Failed),
    ]
}

fn reason() -> impl Strategy<Value = Reason> {
    let kind = prop_oneof![
        Just(ReasonKind::Cpu),
        Just(ReasonKind::Connection),
        Just(ReasonKind::Lease),
        Just(ReasonKind::Setting),
        Just(ReasonKind::Command),
        Just(ReasonKind::Starting),
        Just(ReasonKind::Reaching),
        Just(ReasonKind::Stopped),
        Just(ReasonKind::Stopping),
        Just(ReasonKind::Unsuspendable),
        Just(ReasonKind::Incapable),
        Just(ReasonKind::Unmet),
    ];
    (kind, any::<String>(), option::of(any::<u32>())).prop_map(|(kind, detail, pid)| Reason { kind, detail, pid })
}

fn waits_for() -> impl Strategy<Value = WaitsFor> {
    let kind = prop_oneof![
        Just(WaitKind::Listener),
        Just(WaitKind::Connection),
        Just(WaitKind::Datagram),
        Just(WaitKind::Epoll),
        Just(WaitKind::Descriptor),
        Just(WaitKind::Timer),
        Just(WaitKind::Signal),
        Just(WaitKind::Process),
    ];
    (kind, any::<String>(), option::of(any::<u32>())).prop_map(|(kind, detail, pid)| WaitsFor { kind, detail, pid })
}

pub fn why() -> impl Strategy<Value = Why> {
    let awake = (vec(reason(), 0..4), duration(), option::of(duration()));
    let words = || option::of(any::<String>());
    let asleep = (
        vec(waits_for(), 0..4),
        (option::of(any::<u64>()), words()),
        (option::of(duration()), words()),
        any::<String>(),
    );
    prop_oneof![
        any::<String>().prop_map(|detail| Why::Absent { detail }),
        awake.prop_map(|(reasons, idle, sleeps_in)| Why::Awake {
            reasons,
            idle,
            sleeps_in
        }),
        asleep.prop_map(
            |(waits, (deadline_us, deadline_of), (terminates_in, not_terminated), method)| Why::Asleep {
                waits,
                deadline_us,
                deadline_of,
                terminates_in,
                not_terminated,
                method,
            }
        ),
    ]
}
