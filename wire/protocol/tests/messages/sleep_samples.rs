//! One value for every variant of what messages say about sleep.

use std::net::SocketAddr;
use std::time::Duration;

use imsup_wire::sleep::{Reason, ReasonKind, WaitKind, WaitsFor};
use imsup_wire::{Awaited, Awake, CauseKind, ErrorKind, Order, Report, SleepPolicy, Usage, WakeCause, Why};

use crate::samples::{Samples, named};

pub fn sleep_policy() -> SleepPolicy {
    SleepPolicy {
        idle_after: Some(Duration::from_secs(5)),
        terminate_after: None,
        disposable: true,
        timer_slack: Duration::from_secs(1),
        reclaim: true,
        stop_signal: 3,
        stop_grace: Duration::from_secs(10),
    }
}

pub fn awake() -> Awake {
    Awake {
        lease: Some(Duration::from_secs(600)),
        commands: 2,
        awaited: Awaited::Expected,
    }
}

pub fn usage() -> Usage {
    Usage {
        cpu: Duration::from_micros(123_456),
        memory_byte_ms: 7_516_192_768_000,
        resident_bytes: 7_340_032,
    }
}

pub fn wake_cause() -> WakeCause {
    WakeCause {
        kind: CauseKind::Connection,
        by: Some(SocketAddr::from(([127, 77, 5, 3], 40_112))),
        port: Some(80),
    }
}

pub fn orders() -> Samples<Order> {
    named([
        ("suspend", Order::Suspend),
        ("resume", Order::Resume),
        ("why", Order::Why),
        ("usage", Order::Usage),
        ("prepare", Order::Prepare),
        ("commit", Order::Commit),
        ("abort", Order::Abort),
    ])
}

pub fn reports() -> Samples<Report> {
    let why = Why::Absent {
        detail: "its program has ended".to_owned(),
    };
    named([
        ("done", Report::Done),
        ("why", Report::Why(why)),
        ("usage", Report::Usage(usage())),
        (
            "failed",
            Report::Failed(ErrorKind::Busy.because("redis-server 4711 is in uninterruptible sleep; try again")),
        ),
    ])
}

pub fn reason_kinds() -> Samples<ReasonKind> {
    named([
        ("cpu", ReasonKind::Cpu),
        ("connection", ReasonKind::Connection),
        ("lease", ReasonKind::Lease),
        ("setting", ReasonKind::Setting),
        ("command", ReasonKind::Command),
        ("starting", ReasonKind::Starting),
        ("reaching", ReasonKind::Reaching),
        ("stopped", ReasonKind::Stopped),
        ("stopping", ReasonKind::Stopping),
        ("unsuspendable", ReasonKind::Unsuspendable),
        ("incapable", ReasonKind::Incapable),
        ("unmet", ReasonKind::Unmet),
    ])
}

pub fn wait_kinds() -> Samples<WaitKind> {
    named([
        ("listener", WaitKind::Listener),
        ("connection", WaitKind::Connection),
        ("datagram", WaitKind::Datagram),
        ("epoll", WaitKind::Epoll),
        ("descriptor", WaitKind::Descriptor),
        ("timer", WaitKind::Timer),
        ("signal", WaitKind::Signal),
        ("process", WaitKind::Process),
    ])
}

/// Every reason is in the second, everything waited for in the third.
pub fn whys() -> Samples<Why> {
    let reason = |(name, kind): (String, ReasonKind)| Reason {
        kind,
        detail: name,
        pid: (kind == ReasonKind::Cpu).then_some(4711),
    };
    let waits_for = |(name, kind): (String, WaitKind)| WaitsFor {
        kind,
        detail: name,
        pid: (kind == WaitKind::Epoll).then_some(4711),
    };
    named([
        (
            "absent",
            Why::Absent {
                detail: "a connection to port 6379/tcp or `imsup wake db` boots it".to_owned(),
            },
        ),
        (
            "awake",
            Why::Awake {
                reasons: reason_kinds().into_iter().map(reason).collect(),
                idle: Duration::from_millis(1_900),
                sleeps_in: Some(Duration::from_millis(3_100)),
            },
        ),
        (
            "asleep",
            Why::Asleep {
                waits: wait_kinds().into_iter().map(waits_for).collect(),
                deadline_us: Some(1_763_000_010_000_000),
                deadline_of: Some("redis-server 4711, epoll_wait".to_owned()),
                terminates_in: None,
                not_terminated: Some("terminate_after is not set".to_owned()),
                method: "cgroup freezer".to_owned(),
            },
        ),
    ])
}
