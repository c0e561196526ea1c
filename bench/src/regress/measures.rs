//! The timed measures.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result};

use super::{SIDES, Side};
use crate::compose::Service;
use crate::context::Context;
use crate::process;
use crate::project::Project;
use crate::report::{Question, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::subject;
use crate::suites::boot;
use crate::suites::programs::{self, Program};
use crate::suites::sleep::server::{Client, Connection, echo};
use crate::suites::sleep::{BY_COMMAND, nanoseconds, wakes};
use crate::suites::{PEER, peer};

/// Hosts of one `up`.
const HOSTS: usize = 1_000;

/// A project on each side.
fn up_on<'a>(sides: &[Side<'a>], services: &[Service]) -> Result<Vec<Project<'a>>> {
    sides.iter().map(|side| Project::up(side.sandbox, services)).collect()
}

fn questions(batches: &Batches, all: &[(&str, &str, Unit)]) -> Result<Vec<Question>> {
    let of = |(series, what, unit): &(&str, &str, Unit)| Question::of(batches, &SIDES, series, *what, *unit);
    all.iter().map(of).collect()
}

/// Calls that are trapped.
pub fn trapped(context: &Context, sides: &[Side<'_>], _: &mut Section) -> Result<Vec<Question>> {
    let projects = up_on(sides, &[Service::new("idle", ["false"], [7000])])?;
    let start = |project: &Project<'_>| subject::supervised(context, project.supervised(None), &["trapped"]);
    let mut callers = projects.iter().map(start).collect::<Result<Vec<_>>>()?;
    let turn = |(side, caller): (&Side<'_>, _)| {
        let caller: &mut subject::Subject = caller;
        Turn::new(side.name, move || caller.batch(200))
    };
    let mut batches = Batches::default();
    let mut turns: Vec<_> = sides.iter().zip(&mut callers).map(turn).collect();
    batches.interleave(&mut turns, 2, context.count(40, 10))?;
    let unit = Unit::MICROSECONDS;
    questions(
        &batches,
        &[
            ("continue", "a call that is trapped and continued", unit),
            ("getsockname", "getsockname", unit),
        ],
    )
}

/// Connections from one host to another.
pub fn connecting(context: &Context, sides: &[Side<'_>], _: &mut Section) -> Result<Vec<Question>> {
    let projects = up_on(sides, &[peer(context, &["--cpu", "0"])])?;
    let start = |project: &Project<'_>| {
        project.wake(PEER)?;
        let at = project.address(PEER)?.to_string();
        subject::supervised(context, project.supervised(None), &["connect", &at, "--cpu", "0"])
    };
    let mut callers = projects.iter().map(start).collect::<Result<Vec<_>>>()?;
    let turn = |(side, caller): (&Side<'_>, _)| {
        let caller: &mut subject::Subject = caller;
        Turn::new(side.name, move || caller.batch(60))
    };
    let mut batches = Batches::default();
    let mut turns: Vec<_> = sides.iter().zip(&mut callers).map(turn).collect();
    batches.interleave(&mut turns, 2, context.count(40, 10))?;
    let unit = Unit::MICROSECONDS;
    questions(
        &batches,
        &[
            ("connect+close-blocking", "connect and close, blocking", unit),
            ("connect+close-non-blocking", "connect and close, non-blocking", unit),
        ],
    )
}

/// The first reply of a host that is not running.
pub fn booting(context: &Context, sides: &[Side<'_>], section: &mut Section) -> Result<Vec<Question>> {
    let (programs, missing) = programs::all(context);
    let wanted = |program: &&Program| ["c", "redis"].contains(&program.name);
    for (what, why) in missing {
        section.gap(what, why);
    }
    let mut all = Vec::new();
    for program in programs.iter().filter(wanted) {
        let projects = up_on(sides, &[program.service()])?;
        let turn = |(side, project): (&Side<'_>, _)| {
            let project: &Project<'_> = project;
            Turn::new(side.name, move || {
                let address = SocketAddrV4::new(project.address(program.name)?, program.port);
                let series = boot::imaginary(program, address)?;
                project.stop(program.name)?;
                Ok(series)
            })
        };
        let mut batches = Batches::default();
        let mut turns: Vec<_> = sides.iter().zip(&projects).map(turn).collect();
        batches.interleave(&mut turns, 2, context.count(30, 10))?;
        let what = format!("the first reply of {}, not running", program.what);
        all.extend(questions(&batches, &[("byte", &what, Unit::MILLISECONDS)])?);
    }
    Ok(all)
}

/// The first reply of a suspended host, and the suspend.
pub fn sleeping(context: &Context, sides: &[Side<'_>], _: &mut Section) -> Result<Vec<Question>> {
    let server = echo(context);
    let projects = up_on(sides, &[server.service(BY_COMMAND)])?;
    let mut batches = Batches::default();
    for (connection, series) in [(Connection::Held, "held"), (Connection::New, "new")] {
        let client = |project: &Project<'_>| {
            project.wake(server.name)?;
            Client::new(&server, project.address(server.name)?, connection)
        };
        let mut clients = projects.iter().map(client).collect::<Result<Vec<_>>>()?;
        let turn = |((side, project), client): ((&Side<'_>, _), _)| {
            let (project, client, name): (&Project<'_>, &mut Client<'_>, _) = (project, client, server.name);
            Turn::new(side.name, move || -> Result<Vec<Series>> {
                let mut suspending = Vec::new();
                let suspend = || wakes::timed(&mut suspending, || project.suspend(&[name]));
                let replies = wakes::batch(series, 20, client, suspend, || Ok(()))?;
                Ok(vec![replies, ("suspend".to_owned(), suspending)])
            })
        };
        let mut turns: Vec<_> = sides.iter().zip(&projects).zip(&mut clients).map(turn).collect();
        batches.interleave(&mut turns, 1, context.count(20, 5))?;
    }
    let unit = Unit::MICROSECONDS;
    questions(
        &batches,
        &[
            (
                "held",
                "the first reply of one that is suspended, held connection",
                unit,
            ),
            ("new", "the first reply of one that is suspended, new connection", unit),
            ("suspend", "'imsup suspend'", unit),
        ],
    )
}

/// Many imaginary hosts.
pub fn up(context: &Context, sides: &[Side<'_>], _: &mut Section) -> Result<Vec<Question>> {
    let services: Vec<_> = (1..=HOSTS)
        .map(|number| Service::new(format!("host-{number}"), ["false"], [7000]))
        .collect();
    let mut turns = Vec::new();
    for side in sides {
        let services = &services;
        turns.push(Turn::new(side.name, move || {
            let project = Project::up(side.sandbox, services)?;
            let memory = process::memory(project.broker()?).context("looking at the broker")?;
            Ok(vec![
                ("up".to_owned(), vec![nanoseconds(project.took)]),
                ("memory".to_owned(), vec![memory.private]),
            ])
        }));
    }
    let mut batches = Batches::default();
    batches.interleave(&mut turns, 1, context.count(12, 5))?;
    questions(
        &batches,
        &[
            ("up", "'imsup up -d' of 1,000 hosts", Unit::MILLISECONDS),
            ("memory", "its broker's private memory", Unit::KIB),
        ],
    )
}
