//! The data path: what connections that are there cost.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::servers::{self, Server};
use super::ways::{Peers, Stage, Way};
use super::{IMSUP, loads};
use crate::command::find;
use crate::context::Context;
use crate::interrupt;
use crate::report::{Bound, Plot, Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::{Measured, Unit};
use crate::subject::Subject;
use crate::suites::NATIVE;
use crate::suites::redis::{self, Load};

const REDIS: [Load; 4] = [
    ("1 client", &["-c", "1"], 4_000),
    ("20 clients", &["-c", "20"], 12_000),
    ("100 clients", &["-c", "100"], 12_000),
    ("20 clients, pipelines of 16", &["-c", "20", "-P", "16"], 100_000),
];

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let peers = Peers::start(context, &mut section)?;
    let mut batches = Batches::default();
    let rounds = context.count(12, 2);
    let mut variants = vec![NATIVE];

    let guest = servers::guest(context);
    let stage = Stage::set(context, &peers, &guest)?;
    {
        let ways = stage.ways()?;
        variants = ways.iter().map(|way| way.name).collect();
        guests(&ways, &mut batches, context, "ping", &[], 300, rounds * 2)?;
    }
    drop(stage);
    section.plots.push(Plot::of(
        "path",
        "1 byte there and back on a held connection",
        Unit::MICROSECONDS,
        &batches,
        "ping",
        &variants,
    )?);
    section.rows.extend(rows(
        &batches,
        &variants,
        "ping",
        "1 byte there and back",
        Unit::MICROSECONDS,
    )?);

    let redis_done = each(
        context,
        &peers,
        servers::redis(),
        "redis-benchmark",
        &mut section,
        |stage, program| {
            for (name, options, requests) in REDIS {
                take(stage, &mut batches, rounds.div_ceil(2), |way| {
                    redis::load(way.client(program), way.address, name, options, requests)
                })?;
            }
            Ok(())
        },
    )?;
    if redis_done {
        section.rows.extend(redis::rows(&batches, &others(&variants), &REDIS)?);
    }

    let iperf_done = each(
        context,
        &peers,
        servers::iperf(),
        "iperf3",
        &mut section,
        |stage, program| {
            take(stage, &mut batches, rounds.div_ceil(2), |way| {
                loads::iperf(way, program)
            })
        },
    )?;
    if iperf_done {
        let what = "iperf3, one connection";
        section
            .rows
            .extend(rows(&batches, &variants, "iperf3", what, Unit::MIB_PER_SECOND)?);
    }

    let wrk_done = each(
        context,
        &peers,
        servers::nginx(context),
        "wrk",
        &mut section,
        |stage, program| {
            take(stage, &mut batches, rounds.div_ceil(2), |way| {
                loads::wrk(way, program, 20, true)
            })
        },
    )?;
    if wrk_done {
        section.rows.extend(wrk_rows(&batches, &variants, "keep-alive")?);
    }
    section.note(
        "all take turns in one run; every ratio is against native in the same run; 'native again' shows the noise",
    );
    section.note(
        "docker: two containers on a bridge of their own (a network namespace and a veth pair each, an image of the machine's own programs, no \
         published port); systemd-socket-proxyd: a native server behind a relay; proxychains4: a native client with libc's connect(3) \
         interposed, reaching the server directly",
    );
    section.note("isolation: native, imsup, systemd and proxychains4: a process; docker: namespaces, cgroups, seccomp and capabilities");
    Ok(section)
}

/// Has a guest on each way take turns: its role, then the server's address, then the rest of its arguments.
pub fn guests(
    ways: &[Way<'_>],
    batches: &mut Batches,
    context: &Context,
    role: &str,
    more: &[&str],
    count: usize,
    rounds: usize,
) -> Result<()> {
    let start = |way: &Way<'_>| {
        let mut client = way.client(&context.this);
        client.args(["guest", role]).arg(way.address.to_string()).args(more);
        Subject::start(client)
    };
    let mut clients = ways.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut turns: Vec<_> = ways
        .iter()
        .zip(&mut clients)
        .map(|(way, client)| Turn::new(way.name, move || client.batch(count)))
        .collect();
    batches.interleave(&mut turns, 1, rounds)
}

fn others(variants: &[&'static str]) -> Vec<&'static str> {
    variants.iter().copied().filter(|name| *name != NATIVE).collect()
}

/// Measures with a server and a client program, where both are installed; otherwise the gap is named.
pub fn each(
    context: &Context,
    peers: &Peers,
    server: Result<Server>,
    client: &str,
    section: &mut Section,
    measure: impl FnOnce(&Stage<'_>, &Path) -> Result<()>,
) -> Result<bool> {
    let program = find(client).with_context(|| format!("{client} is not installed (Debian: {})", package(client)));
    let (server, program) = match server.and_then(|server| Ok((server, program?))) {
        Ok(both) => both,
        Err(why) => {
            section.gap(client, format!("{why:#}"));
            return Ok(false);
        }
    };
    let measured = Stage::set(context, peers, &server).and_then(|stage| measure(&stage, &program));
    interrupt::check()?;
    Ok(measured.map_err(|why| section.gap(client, format!("{why:#}"))).is_ok())
}

fn package(program: &str) -> &str {
    match program {
        "redis-benchmark" => "redis-tools",
        other => other,
    }
}

/// Has all ways take turns with one load.
pub fn take(
    stage: &Stage<'_>,
    batches: &mut Batches,
    rounds: usize,
    load: impl Fn(&Way<'_>) -> Result<Vec<Series>>,
) -> Result<()> {
    let ways = stage.ways()?;
    let load = &load;
    let mut turns: Vec<_> = ways.iter().map(|way| Turn::new(way.name, move || load(way))).collect();
    batches.interleave(&mut turns, 1, rounds)
}

/// One series of all ways against native.
pub fn rows(batches: &Batches, variants: &[&'static str], series: &str, what: &str, unit: Unit) -> Result<Vec<Row>> {
    let native = batches.measured(NATIVE, series, unit)?;
    let row = |variant| {
        let measured = batches.measured(variant, series, unit)?;
        let row = Row::compare(format!("{what}: {variant}"), unit, &native, &measured);
        Ok(if variant == IMSUP {
            row.expect(Bound::Ratio(1.0))
        } else {
            row
        })
    };
    others(variants).into_iter().map(row).collect()
}

/// wrk's rate and latency of all ways against native.
pub fn wrk_rows(batches: &Batches, variants: &[&'static str], kind: &str) -> Result<Vec<Row>> {
    let mut found = rows(
        batches,
        variants,
        &format!("wrk {kind} rate"),
        &format!("wrk on nginx, {kind}, rate"),
        Unit::REQUESTS_PER_SECOND,
    )?;
    let unit = Unit::MICROSECONDS;
    let latency = |variant| {
        let of = |figure| anyhow::Ok(batches.of(variant, &format!("wrk {kind} {figure}"))?.concat());
        Measured::reported(&of("p50")?, &of("p99")?, unit)
    };
    let native = latency(NATIVE)?;
    for variant in others(variants) {
        found.push(Row::compare(
            format!("wrk on nginx, {kind}, latency: {variant}"),
            unit,
            &native,
            &latency(variant)?,
        ));
    }
    Ok(found)
}
