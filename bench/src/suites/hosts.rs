//! Many imaginary hosts.

use std::time::Duration;

use anyhow::{Context as _, Result};
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
/// How long the kernel is given to free what was closed: sockets are freed after a grace period of RCU, in the background.
const SETTLE: Duration = Duration::from_millis(500);

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    if let Some(hard) = getrlimit(Resource::Nofile).maximum
        && hard < HOSTS as u64 + 1_000
    {
        section.gap(
            "10,000 hosts",
            format!("the hard limit of descriptors is {hard} (ulimit -Hn)"),
        );
        return Ok(section);
    }
    let services: Vec<Service> = (1..=HOSTS)
        .map(|number| Service::new(format!("host-{number}"), ["sleep", "infinity"], [7000]))
        .collect();
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(NATIVE, || native(context)),
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
        "kernel memory per host (Slab)",
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
    section.note(format!(
        "{HOSTS} services in one compose file; the broker's whole memory is divided by their number; Slab of /proc/meminfo is what all kernel \
         objects take, before and after, so other work on the machine disturbs it"
    ));
    section.note("native: a process that makes as many listening sockets, one for each of as many addresses");
    Ok(section)
}

fn per_host(bytes: u64) -> u64 {
    bytes / HOSTS as u64
}

fn settled() -> Result<u64> {
    interrupt::pause(SETTLE)?;
    process::kernel_objects()
}

fn native(context: &Context) -> Result<Vec<Series>> {
    let mut listeners = subject::native(context, &["listeners", &HOSTS.to_string()])?;
    let before = settled()?;
    let mut series = listeners.batch(1)?;
    let kernel = per_host(settled()?.saturating_sub(before));
    series.push(("kernel".to_owned(), vec![kernel]));
    Ok(series)
}

fn imaginary(context: &Context, services: &[Service]) -> Result<Vec<Series>> {
    let before = settled()?;
    let project = Project::up(&context.sandbox, services)?;
    let kernel = per_host(settled()?.saturating_sub(before));
    let broker = process::memory(project.broker()?).context("looking at the broker")?;
    let time = u64::try_from(project.took.as_nanos())?;
    let one = |name: &str, value: u64| (name.to_owned(), vec![value]);
    Ok(vec![
        one("time", time),
        one("kernel", kernel),
        one("private", per_host(broker.private)),
        one("pss", per_host(broker.proportional)),
        one("all", kernel + per_host(broker.proportional)),
    ])
}
