//! The lines about a thousand hosts.

use std::time::Duration;

use anyhow::Result;

use super::{ALONE, CROWD};
use crate::report::{Bound, Goal, Row, Section};
use crate::rounds::Batches;
use crate::stats::Unit;
use crate::suites::sleep::server::Connection;
use crate::suites::sleep::{ASLEEP, AWAKE};

/// The lines.
pub fn all(batches: &Batches, hosts: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let compare = |what: String, series: &str, unit, from, to| {
        let (from, to) = (
            batches.measured(from, series, unit)?,
            batches.measured(to, series, unit)?,
        );
        anyhow::Ok(Row::compare(what, unit, &from, &to))
    };
    let both = |what: String, series: &str, unit| compare(what, series, unit, AWAKE, ASLEEP);
    let cpu = batches.measured(ASLEEP, "cpu", Unit::SHARE)?;
    let what = format!("processor time of {hosts} hosts");
    rows.push(both(
        format!("{what}, awake and idle, against asleep"),
        "cpu",
        Unit::SHARE,
    )?);
    rows.push(Row::alone(format!("{what}, asleep"), Unit::SHARE, &cpu).expect(Bound::Value(0.1)));
    for (series, what) in [
        ("supervisor", "memory per host: supervisor's private"),
        ("program", "memory per host: program's private"),
        ("broker", "memory per host: broker's private, its share"),
        ("slab", "memory per host: kernel, Slab"),
        ("percpu", "memory per host: kernel, Percpu"),
        ("kernel", "memory per host: kernel, all"),
        ("available", "memory per host: of MemAvailable"),
    ] {
        rows.push(both(what.to_owned(), series, Unit::KIB)?);
    }
    let unit = Unit::MICROSECONDS;
    for connection in Connection::ALL {
        let series = connection.what();
        let what = format!("first reply, {series}: asleep, the only host, against one of {hosts}");
        rows.push(compare(what, series, unit, ALONE, ASLEEP)?.expect(Bound::Ratio(1.0)));
    }
    let long = batches.measured(ASLEEP, "for long", unit)?;
    let what = format!("first reply, new connection: one of {hosts}, asleep for long");
    rows.push(Row::alone(what, unit, &long));
    for connection in Connection::ALL {
        let series = format!("{} at once", connection.what());
        let unit = Unit::MILLISECONDS;
        rows.push(both(
            format!("{CROWD} at once, {}: each", connection.what()),
            &series,
            unit,
        )?);
        let crowd = batches.measured(ASLEEP, &format!("{series}, p95"), unit)?;
        let what = format!(
            "{CROWD} at once, {}: the 95th percentile of each crowd",
            connection.what()
        );
        rows.push(
            Row::alone(what, unit, &crowd)
                .expect(Bound::Value(50.0))
                .goal(Goal::Crowd),
        );
    }
    Ok(rows)
}

/// How to read the lines.
pub fn notes(section: &mut Section, runs: usize, hosts: usize, watched: Duration) {
    section.note(format!(
        "{runs} runs; {hosts} hosts of one project, each a server with one thread and one epoll instance, suspended by 'imsup suspend'"
    ));
    section.note(format!(
        "processor time: of the broker, all supervisors and all programs together, over {} s in which nobody asks anything",
        watched.as_secs()
    ));
    section.note(
        "memory: private of /proc/PID/smaps_rollup; the kernel's is Slab, Percpu, KernelStack and PageTables of /proc/meminfo less what they \
         were before 'up', and MemAvailable is what was lost of it; other work on the machine disturbs both",
    );
    section.note(
        "'the only host': one sleeper when no other host is there, and columns compare that with one among the others; the two cannot take \
         turns, so pairs of batches are some seconds apart. 'For long': not suspended right before, so its memory is in no cache",
    );
    section.note(
        "at once: each client is a thread and asks a host of its own; from before any is let go until each has its reply, so the clients' own \
         scheduling is in it",
    );
}
