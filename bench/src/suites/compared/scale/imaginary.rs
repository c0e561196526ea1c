//! Hosts that do not run, and listen.

use std::time::Duration;

use anyhow::Result;

use super::{CREATED, IMSUP, SYSTEMD, containers, units};
use crate::baselines::manager::Manager;
use crate::compose::Service;
use crate::context::Context;
use crate::interrupt;
use crate::process;
use crate::project::Project;
use crate::report::{Bound, Goal, Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::sleep::server::{Server, echo};
use crate::suites::{NATIVE, hosts};

/// For this many hosts systemd is measured once: a measurement takes a minute.
const MANY: usize = 10_000;
/// For fewer hosts the kernel's memory is less than its variation meanwhile.
const SEEN_IN_KERNEL: usize = 1_000;
const LOST: &str = "lost in what /proc/meminfo gains and loses meanwhile; 1,000 show it";
/// The start takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn measure(context: &Context, docker: bool, section: &mut Section) -> Result<()> {
    let systemd = match Manager::start(context, &[], &[], PATIENCE).and_then(|_| Manager::version()) {
        Ok(version) => {
            section.note(version);
            true
        }
        Err(why) => {
            interrupt::check()?;
            section.gap(SYSTEMD, format!("{why:#}"));
            false
        }
    };
    let numbers: &[usize] = if context.quick { &[1_000] } else { &[100, 1_000, MANY] };
    for count in numbers {
        if let Err(why) = hosts::possible(*count) {
            section.gap(&format!("{count} hosts"), why);
            continue;
        }
        let mut batches = Batches::default();
        let beside = take(context, *count, systemd, &mut batches, section)?;
        rows(*count, &batches, beside, section)?;
    }
    if docker {
        let server = echo(context);
        let numbers: &[(usize, usize)] = if context.quick {
            &[(20, 1)]
        } else {
            &[(100, 3), (1_000, 1)]
        };
        for (count, rounds) in numbers {
            created(context, &server, *count, *rounds, section)?;
        }
    }
    notes(section);
    Ok(())
}

/// Has all take turns; whether systemd did.
fn take(context: &Context, count: usize, systemd: bool, batches: &mut Batches, section: &mut Section) -> Result<bool> {
    let services = hosts::services(count);
    let mut turns = vec![
        Turn::new(NATIVE, || hosts::native(context, count)),
        Turn::new(IMSUP, || imaginary(context, &services)),
    ];
    if systemd && count < MANY {
        turns.push(Turn::new(SYSTEMD, || units::listen(context, count)));
    }
    batches.interleave(&mut turns, 0, context.count(3, 1))?;
    drop(turns);
    if !systemd || count < MANY {
        return Ok(systemd);
    }
    match units::listen(context, count) {
        Ok(series) => {
            batches.add(SYSTEMD, series);
            Ok(true)
        }
        Err(why) => {
            interrupt::check()?;
            section.gap(&format!("{count} {SYSTEMD}"), format!("{why:#}"));
            Ok(false)
        }
    }
}

/// As [`hosts::imaginary`], and without the broker's cost of a single host.
fn imaginary(context: &Context, services: &[Service]) -> Result<Vec<Series>> {
    let empty = {
        let project = Project::up(&context.sandbox, &services[..1])?;
        process::memory(project.broker()?)?
    };
    let mut series = hosts::imaginary(context, services)?;
    let less = |name: &str, bytes: u64| {
        let found = series.iter().find(|(found, _)| found == name);
        let whole = found.and_then(|(_, samples)| samples.first().copied());
        whole.map(|whole| whole.saturating_sub(bytes / services.len() as u64))
    };
    let grown = [
        ("grown", less("private", empty.private)),
        ("daemons grown", less("pss", empty.proportional)),
        ("all grown", less("all", empty.proportional)),
        ("empty private", Some(empty.private)),
    ];
    series.extend(grown.map(|(name, bytes)| (name.to_owned(), bytes.into_iter().collect())));
    Ok(series)
}

fn rows(count: usize, batches: &Batches, systemd: bool, section: &mut Section) -> Result<()> {
    let row = |what: &str, series: &str, unit, beside| {
        let (left, right) = (
            batches.measured(beside, series, unit)?,
            batches.measured(IMSUP, series, unit)?,
        );
        let what = format!("{count} hosts that do not run, {what}: against {beside}");
        let row = Row::compare(what, unit, &left, &right);
        anyhow::Ok(match beside {
            NATIVE => row,
            _ => row.expect(Bound::Times(1.0)),
        })
    };
    let (time, memory) = ("until all listen", "memory for each");
    let seen = count >= SEEN_IN_KERNEL;
    section.rows.push(row(time, "time", Unit::MILLISECONDS, NATIVE)?);
    if seen {
        let what = format!("{memory}, kernel");
        section.rows.push(row(&what, "kernel", Unit::KIB, NATIVE)?);
    } else {
        section.gap(&format!("{count} hosts that do not run, {memory}, kernel"), LOST);
    }
    if systemd {
        section.rows.push(row(time, "time", Unit::MILLISECONDS, SYSTEMD)?);
        let kernel = [("kernel", "kernel"), ("all", "all grown")];
        let kernel = if seen { &kernel[..] } else { &[] };
        for (what, series) in kernel.iter().chain(&[("manager's private", "grown")]) {
            let what = format!("{memory}, {what}");
            section.rows.push(row(&what, series, Unit::KIB, SYSTEMD)?);
        }
        section.rows.push(row("processor time", "cpu", Unit::SHARE, SYSTEMD)?);
        let empty = |variant, series, unit| anyhow::Ok(batches.measured(variant, series, unit)?.summary().p50);
        section.note(format!(
            "{count} hosts against systemd: what a manager takes without any is not in the memory for each: {:.0} KiB of private memory are \
             systemd's, {:.0} KiB imsup's (with one host). Of systemd's time, the {:.0} ms of one without units are left out",
            empty(SYSTEMD, "empty private", Unit::KIB)?,
            empty(IMSUP, "empty private", Unit::KIB)?,
            empty(SYSTEMD, "empty time", Unit::MILLISECONDS)?,
        ));
    }
    if seen {
        let what = format!("{count} hosts that do not run, {memory}, all, the whole broker divided");
        let row = Row::alone(what, Unit::KIB, &batches.measured(IMSUP, "all", Unit::KIB)?);
        section.rows.push(match count {
            MANY => row.expect(Bound::Value(8.0)).goal(Goal::Memory),
            _ => row,
        });
    }
    Ok(())
}

/// Containers that are made and not started.
fn created(context: &Context, server: &Server, count: usize, rounds: usize, section: &mut Section) -> Result<()> {
    let services = hosts::services(count);
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(CREATED, || containers::created(context, server, count)),
        Turn::new(IMSUP, || imaginary(context, &services)),
    ];
    let measured = batches.interleave(&mut turns, 0, rounds);
    drop(turns);
    interrupt::check()?;
    if let Err(why) = measured {
        section.gap(&format!("{CREATED} of {count}"), format!("{why:#}"));
        return Ok(());
    }
    let all = [
        ("until all are there", "time", "time", Unit::MILLISECONDS),
        ("memory for each, daemons", "daemons", "daemons grown", Unit::KIB),
        ("processor time", "cpu", "cpu", Unit::SHARE),
        ("memory for each, kernel", "kernel", "kernel", Unit::KIB),
        ("memory for each, all", "all", "all grown", Unit::KIB),
    ];
    // The last two have the kernel's part.
    let seen = if count >= SEEN_IN_KERNEL { &all[..] } else { &all[..3] };
    for (what, series, of_imsup, unit) in seen.iter().copied() {
        let (docker, imsup) = (
            batches.measured(CREATED, series, unit)?,
            batches.measured(IMSUP, of_imsup, unit)?,
        );
        let what = format!("{count} hosts that do not run, {what}: against {CREATED}");
        section
            .rows
            .push(Row::compare(what, unit, &docker, &imsup).expect(Bound::Times(1.0)));
    }
    Ok(())
}

fn notes(section: &mut Section) {
    section.note(
        "hosts that do not run: 'imsup up -d' of one compose file, of which each is one more; native: a process that \
         makes as many listening sockets, no more. Slab and Percpu of /proc/meminfo are the kernel's part, so other work on the machine disturbs \
         it, the more the fewer hosts there are; 'all' has the proportional memory (Pss) of processes. Processor time: of the manager, while \
         nobody asks anything",
    );
    section.note(
        "systemd: process 1 of namespaces of its own, with a socket unit and a service unit for each host and no others, a hundred in a slice: \
         with all in one slice its time grows with the square of their number. It forks for each socket, into a cgroup that stays",
    );
    section.note(
        "docker create: one after the other by the API, by a daemon of its own; memory is what dockerd and containerd take more than before, and \
         the broker more than for one host. \
         No connection starts such a container: nothing listens",
    );
}
