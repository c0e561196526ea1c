//! One host: its first reply after a sleep, and its suspend; beside SIGSTOP and SIGCONT, and docker
//! pause and unpause.

use anyhow::Result;

use super::fixture::{
    DOCKER_API, DOCKER_AWAKE, DOCKER_COMMAND, Fixture, IMSUP_ASLEEP, IMSUP_AWAKE, STOPPED, SUSPENDING, series,
};
use super::server::Connection;
use super::{BY_COMMAND, server};
use crate::context::Context;
use crate::docker::Network;
use crate::project::Project;
use crate::report::{Bound, Goal, Plot, Row, Section};
use crate::rounds::Batches;
use crate::stats::{Measured, Unit};
use crate::suites::{CONTROL, NATIVE, docker};

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section {
        columns: Some([super::AWAKE, super::ASLEEP]),
        ..Section::default()
    };
    let mut servers = vec![server::echo(context)];
    match server::redis() {
        Ok(redis) => servers.push(redis),
        Err(why) => section.gap("redis", format!("{why:#}")),
    }
    let docker = docker(context, &mut section, "docker pause and unpause", Network::Machine)?;
    let services: Vec<_> = servers.iter().map(|server| server.service(BY_COMMAND)).collect();
    let project = Project::up(&context.sandbox, &services)?;
    project.wake_all()?;
    let mut batches = Batches::default();
    for (number, server) in (0..).zip(&servers) {
        let fixture = Fixture::set(context, &project, server, docker.as_ref(), number, &mut section)?;
        for connection in Connection::ALL {
            fixture.measure(context, connection, &mut batches, &mut section)?;
        }
    }
    for server in &servers {
        for connection in Connection::ALL {
            let series = series(server, connection);
            let mut variants = vec![NATIVE, IMSUP_AWAKE, IMSUP_ASLEEP, STOPPED];
            variants.extend(unpaused(&batches, &series));
            section.plots.push(Plot::of(
                format!("wake-{}-{}", server.name, connection.what().replace(' ', "-")),
                format!("the first reply: {series}"),
                Unit::MICROSECONDS,
                &batches,
                &series,
                &variants,
            )?);
            reply_rows(&batches, &series, &mut section)?;
        }
    }
    suspending(&batches, &project, &mut section)?;
    notes(&mut section);
    Ok(section)
}

/// docker's measured variants of unpausing.
fn unpaused(batches: &Batches, series: &str) -> Vec<&'static str> {
    let mut docker_paths = vec![DOCKER_API, DOCKER_COMMAND];
    docker_paths.retain(|path| batches.has(path, series) && batches.has(DOCKER_AWAKE, series));
    docker_paths
}

fn reply_rows(batches: &Batches, series: &str, section: &mut Section) -> Result<()> {
    let unit = Unit::MICROSECONDS;
    let row = |base, found| {
        let (of, compared) = (
            batches.measured(base, series, unit)?,
            batches.measured(found, series, unit)?,
        );
        anyhow::Ok(Row::compare(series, unit, &of, &compared).of(base, found))
    };
    let mut rows = vec![
        row(NATIVE, CONTROL)?,
        row(NATIVE, IMSUP_AWAKE)?,
        row(IMSUP_AWAKE, IMSUP_ASLEEP)?
            .expect(Bound::More(100.0))
            .goal(Goal::Wake),
        row(NATIVE, STOPPED)?,
        row(STOPPED, IMSUP_ASLEEP)?,
    ];
    for way in unpaused(batches, series) {
        rows.push(row(DOCKER_AWAKE, way)?);
        let against = row(way, IMSUP_ASLEEP)?.expect(Bound::Times(100.0));
        rows.push(against.goal(Goal::WakeBesideDocker));
    }
    let tail = row(IMSUP_AWAKE, IMSUP_ASLEEP)?.expect(Bound::TailMore(500.0));
    rows.push(Row {
        what: format!("{series}: the tail"),
        ..tail
    });
    section.rows.extend(rows);
    Ok(())
}

/// The duration of suspends and wakes by imsup's own events, and of all commands.
fn suspending(batches: &Batches, project: &Project<'_>, section: &mut Section) -> Result<()> {
    let unit = Unit::MICROSECONDS;
    let events = project.events()?;
    for (event, what, limit) in [
        (
            "suspend",
            "suspending, from the decision on (event 'suspend')",
            Some(1_000.0),
        ),
        ("wake", "waking, from the signal until the thaw (event 'wake')", None),
    ] {
        let found = events.iter().filter(|found| found.event == event);
        let times: Vec<Vec<u64>> = found
            .filter_map(|found| Some(vec![found.duration_us? * 1_000]))
            .collect();
        if times.is_empty() {
            section.gap(what, format!("imsup has no event '{event}'"));
            continue;
        }
        let row = Row::alone(what, unit, &Measured::of(&times, unit)?);
        section.rows.push(match limit {
            Some(limit) => row.expect(Bound::Tail(limit)),
            None => row,
        });
    }
    let mut commands = vec![
        (IMSUP_ASLEEP, "'imsup suspend', the command"),
        (STOPPED, "SIGSTOP, until it has stopped"),
    ];
    if batches.has(DOCKER_API, SUSPENDING) {
        commands.push((DOCKER_API, "docker pause by the API"));
    }
    for (variant, what) in commands {
        section
            .rows
            .push(Row::alone(what, unit, &batches.measured(variant, SUSPENDING, unit)?));
    }
    Ok(())
}

fn notes(section: &mut Section) {
    section.note(
        "the tail of new connections: who woke a host is asked of the kernel some ms later, a walk over its whole table of connections that nothing \
         interrupts on its processor, and here the next request comes just then; without asking, the p99 of 'one thread with epoll' was 182 and 238 µs \
         instead of 380 and 444 (quick runs in turns)",
    );
    section.note(
        "from just before the request is sent (held) or connect(2) (new) to the reply; the client does nothing to wake a host of imsup's",
    );
    section.note(
        "SIGCONT and docker's unpause are in the times, and are sent by the client, who must know that the server sleeps: neither wakes by \
         itself",
    );
    section.note(
        "docker by the API: one request on a connection to the daemon that is held; the daemon has namespaces and directories of its own, the \
         container the machine's network and the very same program",
    );
    section.note(
        "before each request one command of imsup's is run, 'suspend' or one that does nothing, and takes as long, so that caches are as cold \
         for all; docker's own pause does that too",
    );
    section.note(
        "where a wake's time goes, by ftrace on two processors (Linux 6.18), tracing included, in µs: switching to the supervisor 8-30; its nine to \
         twelve system calls until the thaw (what is ready, who that is, the duplicates closed) 18 with one thread, 39 with redis; the freezer 4-10 and \
         2-12 for each thread that it wakes; switching to the program 5, to redis's first of five threads up to 50. The last 20-25 are the client's: the \
         supervisor is still to run when the reply comes, so the kernel wakes the client on the other processor, which must first leave its halt",
    );
    section.note(
        "against docker by its API: a hundred times faster than the 9-12 ms that its daemon takes is 90-120 µs, of which a new connection's reply takes \
         75-100 from one that is awake",
    );
}
