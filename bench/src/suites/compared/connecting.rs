//! Connecting: a connection for each request.

use anyhow::Result;

use super::path::{each, guests, rows, take, wrk_rows};
use super::ways::{Peers, Stage};
use super::{loads, servers};
use crate::context::Context;
use crate::report::{Plot, Section};
use crate::rounds::Batches;
use crate::stats::Unit;

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
        section.rows.extend(rows(&batches, &variants, series, what, unit)?);
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
        section.rows.extend(wrk_rows(&batches, &variants, "no keep-alive")?);
    }
    section.note("the server accepts and closes at once; the client, one thread, waits for that and resets the connection (no TIME_WAIT)");
    section.note("the ways are those of 'path'");
    Ok(section)
}
