//! Connecting: a connection for each request.

use anyhow::Result;

use super::path::{each, guests, take, wrk};
use super::ways::{Peers, Stage};
use super::{IMSUP, loads, servers};
use crate::context::Context;
use crate::report::{Bound, Goal, Plot, Question, Section, Variants};
use crate::rounds::Batches;
use crate::stats::{Better, Unit};
use crate::suites::{CONTROL, NATIVE};

/// A connection of imsup's may take so many times as long as a native one.
const LIMIT: f64 = 1.2;

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let peers = Peers::start(context, &mut section)?;
    let mut batches = Batches::default();
    let rounds = context.count(24, 3);
    let guest = servers::guest(context);
    let stage = Stage::set(context, &peers, &guest)?;
    let ways = stage.ways()?;
    let variants: Vec<_> = ways.iter().map(|way| way.name).collect();
    guests(&ways, &mut batches, context, "rate", &["--threads", "1"], 500, rounds)?;
    for (series, what, unit) in [
        (
            "connect+close",
            "connect, wait for the end, close: rate",
            Unit::CONNECTIONS_PER_SECOND,
        ),
        ("time", "connect, wait for the end, close: time", Unit::MICROSECONDS),
    ] {
        let question = Question::of(&batches, &variants, series, what, unit)?;
        section.rows.extend(question.judged(CONTROL, judge(unit)));
    }
    section.plots.push(Plot::of(
        "connecting",
        "connect, wait for the end, close",
        Unit::MICROSECONDS,
        &batches,
        "time",
        &variants,
    )?);
    drop(ways);
    drop(stage);
    let done = each(
        context,
        &peers,
        servers::nginx(context),
        "wrk",
        &mut section,
        |stage, program| {
            take(stage, &mut batches, rounds.div_ceil(4), |way| {
                loads::wrk(way, program, 20, false)
            })
        },
    )?;
    if done {
        for question in wrk(&batches, &variants, "no keep-alive")? {
            section.rows.extend(question.rows(CONTROL));
        }
    }
    section.note("the server accepts and closes at once; the client, one thread, waits for that and resets the connection (no TIME_WAIT)");
    section.note("the ways are those of 'path'");
    Ok(section)
}

/// Of times and of rates, which are their inverse.
fn judge(unit: Unit) -> impl Fn(Variants) -> Option<(Bound, Goal)> {
    let limit = match unit.better {
        Better::Lower => LIMIT,
        Better::Higher => LIMIT.recip(),
    };
    move |variants| {
        (variants.found == IMSUP && variants.base == NATIVE).then_some((Bound::Ratio(limit), Goal::Connecting))
    }
}
