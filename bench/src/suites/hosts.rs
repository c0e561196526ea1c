//! Many imaginary hosts.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, getrlimit};

use super::NATIVE;
use crate::compose::Service;
use crate::context::Context;
use crate::interrupt;
use crate::process;
use crate::project::Project;
use crate::report::{Bound, Goal, Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::subject;

const HOSTS: usize = 10_000;
const IMAGINARY: &str = "imaginary";
/// How long the kernel is given to free what was closed: sockets are freed after a grace period of
/// RCU, in the background.
const SETTLE: Duration = Duration::from_millis(500);

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    if let Err(why) = possible(HOSTS) {
        section.gap("10,000 hosts", why);
        return Ok(section);
    }
    let services = services(HOSTS);
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(NATIVE, || native(context, HOSTS)),
        Turn::new(IMAGINARY, || imaginary(context, &services)),
    ];
    batches.interleave(&mut turns, context.count(1, 0), context.count(5, 1))?;
    let of = |variant, series: &str, unit| batches.measured(variant, series, unit);
    let time = of(IMAGINARY, "time", Unit::MILLISECONDS)?;
    section.rows.push(Row::compare(
        "imsup up -d of all, against listen(2) alone",
        Unit::MILLISECONDS,
        &of(NATIVE, "time", Unit::MILLISECONDS)?,
        &time,
    ));
    section
        .rows
        .push(Row::alone("imsup up -d of all", Unit::MILLISECONDS, &time).expect(Bound::Value(1_000.0)));
    section.rows.push(Row::compare(
        "kernel memory per host (Slab, Percpu)",
        Unit::KIB,
        &of(NATIVE, "kernel", Unit::KIB)?,
        &of(IMAGINARY, "kernel", Unit::KIB)?,
    ));
    for (series, what) in [
        ("private", "broker's private memory per host"),
        ("pss", "broker's proportional memory (Pss) per host"),
    ] {
        section
            .rows
            .push(Row::alone(what, Unit::KIB, &of(IMAGINARY, series, Unit::KIB)?));
    }
    section.rows.push(
        Row::alone(
            "memory per host: kernel and broker (Pss)",
            Unit::KIB,
            &of(IMAGINARY, "all", Unit::KIB)?,
        )
        .expect(Bound::Value(8.0))
        .goal(Goal::Memory),
    );
    section.rows.push(Row::alone(
        "broker's processor time while nobody asks anything",
        Unit::SHARE,
        &of(IMAGINARY, "cpu", Unit::SHARE)?,
    ));
    section.note(format!(
        "{HOSTS} services in one compose file; the broker's whole memory is divided by their number; Slab and Percpu of /proc/meminfo are what \
         all kernel objects take, before and after, so other work on the machine disturbs it"
    ));
    section.note("native: a process that makes as many listening sockets, one for each of as many addresses");
    Ok(section)
}

/// Whether a process may have so many sockets.
///
/// # Errors
/// Not permitted.
pub fn possible(hosts: usize) -> Result<()> {
    match getrlimit(Resource::Nofile).maximum {
        Some(hard) if hard < hosts as u64 + 1_000 => bail!("the hard limit of descriptors is {hard} (ulimit -Hn)"),
        _ => Ok(()),
    }
}

/// So many, with a port each.
pub fn services(hosts: usize) -> Vec<Service> {
    (1..=hosts)
        .map(|number| Service::new(format!("host-{number}"), ["sleep", "infinity"], [7000]))
        .collect()
}

/// The time of watching the hosts' cost without requests.
pub fn watched(context: &Context) -> Duration {
    Duration::from_secs(context.count(3, 1) as u64)
}

/// The memory of the kernel's objects, in bytes, after closed ones were freed.
///
/// # Errors
/// The value cannot be read, or a signal came.
pub fn settled() -> Result<u64> {
    interrupt::pause(SETTLE)?;
    let kernel = process::kernel()?;
    Ok(kernel.slab + kernel.percpu)
}

/// The kernel's part alone: a process with so many listening sockets.
///
/// # Errors
/// The container does not start.
pub fn native(context: &Context, count: usize) -> Result<Vec<Series>> {
    let mut listeners = subject::native(context, &["listeners", &count.to_string()])?;
    let before = settled()?;
    let mut series = listeners.batch(1)?;
    let kernel = settled()?.saturating_sub(before) / count as u64;
    series.push(("kernel".to_owned(), vec![kernel]));
    Ok(series)
}

/// These services as imaginary hosts: the time until all listen, and per host what the kernel and
/// the broker take.
///
/// # Errors
/// The hosts do not come up.
pub fn imaginary(context: &Context, services: &[Service]) -> Result<Vec<Series>> {
    let per_host = |bytes: u64| bytes / services.len() as u64;
    let before = settled()?;
    let project = Project::up(&context.sandbox, services)?;
    // Asked before the watch begins, by a connection to the broker.
    let pid = project.broker()?;
    let kernel = per_host(settled()?.saturating_sub(before));
    let broker = process::memory(pid).context("looking at the broker")?;
    let time = u64::try_from(project.took.as_nanos())?;
    let one = |name: &str, value: u64| (name.to_owned(), vec![value]);
    Ok(vec![
        one("time", time),
        one("kernel", kernel),
        one("private", per_host(broker.private)),
        one("pss", per_host(broker.proportional)),
        one("all", kernel + per_host(broker.proportional)),
        one("cpu", process::cpu_share(&[pid], watched(context))?),
    ])
}
