//! System calls, untrapped and trapped.

use anyhow::Result;

use super::{CONTROL, NATIVE};
use crate::compose::Service;
use crate::context::Context;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit;
use crate::subject;

const SUPERVISED: &str = "supervised";
const UNTRAPPED: [(&str, &str); 8] = [
    ("getppid", "getppid"),
    ("read", "read of 1 byte from /dev/zero"),
    ("write", "write of 1 byte to /dev/null"),
    ("epoll_wait", "epoll_wait that finds nothing"),
    ("send", "send of nothing on a connection"),
    ("recv", "recv that finds nothing"),
    ("send+recv", "send and recv of 1 byte on a connection (two calls)"),
    ("openat+close", "openat and close of /dev/null (two calls)"),
];
const TRAPPED: [(&str, &str); 3] = [
    ("continue", "connect to a missing Unix socket: trapped and continued"),
    ("getsockname", "getsockname: trapped and answered"),
    ("uname", "uname: trapped and answered"),
];

pub fn run(context: &Context) -> Result<Section> {
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let idle = Service::new("idle", ["false"], [7000]);
        let project = Project::up(&context.sandbox, &[idle])?;
        for (role, count, rounds) in [
            ("calls", 10, context.count(15, 5)),
            ("trapped", 200, context.count(15, 5)),
        ] {
            let mut native = subject::native(context, &[role])?;
            let mut again = subject::native(context, &[role])?;
            let mut supervised = subject::supervised(context, project.supervised(None), &[role])?;
            let mut turns = [
                Turn::new(NATIVE, || native.batch(count)),
                Turn::new(SUPERVISED, || supervised.batch(count)),
                Turn::new(CONTROL, || again.batch(count)),
            ];
            batches.interleave(&mut turns, 1, rounds)?;
        }
    }
    let mut section = Section::default();
    for (name, what) in UNTRAPPED {
        let unit = Unit::NANOSECONDS_PER_CALL;
        let native = batches.measured(NATIVE, name, unit)?;
        let supervised = batches.measured(SUPERVISED, name, unit)?;
        // Two calls may take twice as much.
        let limit = if name.contains('+') { 100.0 } else { 50.0 };
        section
            .rows
            .push(Row::compare(what, unit, &native, &supervised).expect(Bound::More(limit)));
    }
    for (name, what) in TRAPPED {
        let unit = Unit::MICROSECONDS;
        let native = batches.measured(NATIVE, name, unit)?;
        let supervised = batches.measured(SUPERVISED, name, unit)?;
        section.rows.push(Row::compare(what, unit, &native, &supervised));
    }
    let native = batches.measured(NATIVE, "getppid", Unit::NANOSECONDS_PER_CALL)?;
    let again = batches.measured(CONTROL, "getppid", Unit::NANOSECONDS_PER_CALL)?;
    section.rows.push(Row::compare(
        "getppid: native again",
        Unit::NANOSECONDS_PER_CALL,
        &native,
        &again,
    ));
    section.note(format!("{runs} runs, in each of which all processes are started anew"));
    section.note("untrapped calls are timed by the thousand: p99 is of such thousands, not of single calls");
    section.note("the call that is trapped and continued is the floor: what any seccomp notification costs, the reading of its argument included");
    Ok(section)
}
