//! Hosts that sleep, beside containers that are paused.

use anyhow::Result;

use super::{IMSUP, PAUSED, containers};
use crate::context::Context;
use crate::interrupt;
use crate::report::{Bound, Row, Section};
use crate::rounds::Batches;
use crate::stats::Unit;
use crate::suites::sleep::many;
use crate::suites::sleep::server::echo;

pub fn measure(context: &Context, docker: bool, section: &mut Section) -> Result<()> {
    let server = echo(context);
    let (few, many) = (context.count(100, 10), 1_000);
    let mut batches = Batches::default();
    for _ in 0..context.count(3, 1) {
        batches.add(IMSUP, many::asleep(context, &server, few)?);
    }
    let paused = docker && {
        let paused = containers::paused(context, &server, few);
        interrupt::check()?;
        match paused {
            Ok(series) => {
                batches.add(PAUSED, series);
                true
            }
            Err(why) => {
                section.gap(&format!("{PAUSED} of {few}"), format!("{why:#}"));
                false
            }
        }
    };
    rows(few, &batches, paused, section)?;
    if !context.quick {
        let mut batches = Batches::default();
        batches.add(IMSUP, many::asleep(context, &server, many)?);
        rows(many, &batches, false, section)?;
        section.gap(
            &format!("{many} containers, paused"),
            format!("{few} were, which shows what each takes: to start so many takes minutes"),
        );
    }
    section.gap("systemd, suspended", "it does not suspend: a service runs or has ended");
    section.note(
        "suspended and paused: the same server in each host and container, a thread with an epoll instance. Private memory of the supervisor (the \
         shim) and of the program; 'processes' is all of these and the broker's (what dockerd's and containerd's have grown), proportional \
         (Pss); the kernel's is Slab, Percpu, KernelStack and PageTables; processor time is that of all processes together",
    );
    section.note(
        "imsup's, suspended: every 10 s each supervisor reads whether a signal waits for the program, since a signal wakes nobody while its \
         process is frozen; in between it does nothing",
    );
    Ok(())
}

fn rows(count: usize, batches: &Batches, paused: bool, section: &mut Section) -> Result<()> {
    for (what, of_docker, series, unit) in [
        ("memory for each, supervisor", "shim", "supervisor", Unit::KIB),
        ("memory for each, program", "program", "program", Unit::KIB),
        ("memory for each, processes", "processes", "processes", Unit::KIB),
        ("memory for each, kernel", "kernel", "kernel", Unit::KIB),
        ("memory for each, all", "all", "all", Unit::KIB),
        ("processor time", "cpu", "cpu", Unit::SHARE),
    ] {
        let what = format!("{count} suspended hosts, {what}");
        let imsup = batches.measured(IMSUP, series, unit)?;
        section.rows.push(if paused {
            let docker = batches.measured(PAUSED, of_docker, unit)?;
            let row = Row::compare(format!("{what}: against {PAUSED}"), unit, &docker, &imsup);
            // The program is the same one.
            match series {
                "program" => row,
                _ => row.expect(Bound::Times(1.0)),
            }
        } else {
            Row::alone(what, unit, &imsup)
        });
    }
    Ok(())
}
