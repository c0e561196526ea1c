//! Connecting: a connection for each request.

use anyhow::Result;

use super::data_paths::{Baselines, DATA_PATHS, Fixture};
use super::path::{Guest, each, guests, take, wrk};
use super::{IMSUP, loads, servers};
use crate::context::Context;
use crate::report::{Bound, Goal, Plot, Question, Section, Variants};
use crate::rounds::Batches;
use crate::stats::{Better, Unit};
use crate::suites::{CONTROL, NATIVE};

/// The factor by which a connection of imsup's may be slower than a native one.
const LIMIT: f64 = 1.2;

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let baselines = Baselines::start(context, &mut section)?;
    let mut batches = Batches::default();
    let server = servers::guest(context);
    let fixture = Fixture::set(context, &baselines, &server, &mut section)?;
    let rate = Guest {
        role: "rate",
        more: &["--threads", "1"],
        count: 500,
    };
    guests(
        context,
        &fixture,
        &mut batches,
        &rate,
        context.count(24, 7),
        &mut section,
    )?;
    drop(fixture);
    for (series, what, unit) in [
        (
            "connect+close",
            "connect, wait for the end, close: rate",
            Unit::CONNECTIONS_PER_SECOND,
        ),
        ("time", "connect, wait for the end, close: time", Unit::MICROSECONDS),
    ] {
        let question = Question::of(&batches, &DATA_PATHS, series, what, unit)?;
        section.rows.extend(question.judged(CONTROL, judge(unit)));
    }
    section.plots.push(Plot::of(
        "connecting",
        "connect, wait for the end, close",
        Unit::MICROSECONDS,
        &batches,
        "time",
        &DATA_PATHS,
    )?);
    let nginx = servers::nginx(context);
    let done = each(
        context,
        &baselines,
        nginx,
        "wrk",
        &mut section,
        |fixture, program, section| {
            let rounds = context.count(6, 2);
            take(fixture, &mut batches, rounds, section, |data_path| {
                loads::wrk(data_path, program, 20, false)
            })
        },
    )?;
    if done {
        for question in wrk(&batches, &DATA_PATHS, "no keep-alive")? {
            section.rows.extend(question.rows(CONTROL));
        }
    }
    section.note("the server accepts and closes at once; the client, one thread, waits for that and resets the connection (no TIME_WAIT)");
    section.note("the data paths are those of 'path'");
    Ok(section)
}

/// For times and for rates, which are their inverse.
fn judge(unit: Unit) -> impl Fn(Variants) -> Option<(Bound, Goal)> {
    let limit = match unit.better {
        Better::Lower => LIMIT,
        Better::Higher => LIMIT.recip(),
    };
    move |variants| {
        (variants.found == IMSUP && variants.base == NATIVE).then_some((Bound::Ratio(limit), Goal::Connecting))
    }
}
