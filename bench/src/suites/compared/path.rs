//! The data path: what connections that are there cost.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::servers::{self, Server};
use super::ways::{Peers, Stage, Way};
use super::{DOCKER, IMSUP, loads};
use crate::command::find;
use crate::context::Context;
use crate::interrupt;
use crate::report::{Bound, Goal, Plot, Question, Section, Variants};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::{Measured, Unit};
use crate::subject::Subject;
use crate::suites::redis::{self, Load};
use crate::suites::{CONTROL, NATIVE};

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

    let guest = servers::guest(context);
    let stage = Stage::set(context, &peers, &guest)?;
    let ways = stage.ways()?;
    let variants: Vec<_> = ways.iter().map(|way| way.name).collect();
    guests(&ways, &mut batches, context, "ping", &[], 300, rounds * 2)?;
    drop(ways);
    drop(stage);
    section.plots.push(Plot::of(
        "path",
        "1 byte there and back on a held connection",
        Unit::MICROSECONDS,
        &batches,
        "ping",
        &variants,
    )?);
    let mut questions = vec![Question::of(
        &batches,
        &variants,
        "ping",
        "1 byte there and back",
        Unit::MICROSECONDS,
    )?];

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
        questions.extend(redis::questions(&batches, &variants, &REDIS)?);
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
        questions.push(Question::of(&batches, &variants, "iperf3", what, Unit::MIB_PER_SECOND)?);
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
        questions.extend(wrk(&batches, &variants, "keep-alive")?);
    }
    for question in &questions {
        section.rows.extend(question.judged(CONTROL, judge));
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

/// wrk's rate and latency of all ways.
pub fn wrk(batches: &Batches, variants: &[&'static str], kind: &str) -> Result<[Question; 2]> {
    let rate = Question::of(
        batches,
        variants,
        &format!("wrk {kind} rate"),
        format!("wrk on nginx, {kind}, rate"),
        Unit::REQUESTS_PER_SECOND,
    )?;
    let unit = Unit::MICROSECONDS;
    let latency = |variant: &&'static str| {
        let of = |figure| anyhow::Ok(batches.of(variant, &format!("wrk {kind} {figure}"))?.concat());
        anyhow::Ok((*variant, Measured::reported(&of("p50")?, &of("p99")?, unit)?))
    };
    let latency = Question {
        what: format!("wrk on nginx, {kind}, latency"),
        unit,
        variants: variants.iter().map(latency).collect::<Result<_>>()?,
    };
    Ok([rate, latency])
}

/// As native, and better than docker's bridge.
fn judge(variants: Variants) -> Option<(Bound, Goal)> {
    match (variants.found, variants.base) {
        (IMSUP, NATIVE) => Some((Bound::Ratio(1.0), Goal::Path)),
        (IMSUP, DOCKER) => Some((Bound::Times(1.15), Goal::PathBesideDocker)),
        _ => None,
    }
}
