//! The data path: the cost of established connections.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::data_paths::{Baselines, DATA_PATHS, DataPath, Fixture};
use super::servers::{self, Server};
use super::{DOCKER, IMSUP, loads};
use crate::command::find;
use crate::context::Context;
use crate::interrupt;
use crate::report::{Bound, Goal, Plot, Question, Section, Variants};
use crate::rounds::{Batches, Series};
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
    let baselines = Baselines::start(context, &mut section)?;
    let mut batches = Batches::default();
    let rounds = context.count(6, 5);

    let guest = servers::guest(context);
    let fixture = Fixture::set(context, &baselines, &guest, &mut section)?;
    let ping = Guest {
        role: "ping",
        more: &[],
        count: 300,
    };
    guests(context, &fixture, &mut batches, &ping, rounds * 4, &mut section)?;
    drop(fixture);
    section.plots.push(Plot::of(
        "path",
        "1 byte there and back on a held connection",
        Unit::MICROSECONDS,
        &batches,
        "ping",
        &DATA_PATHS,
    )?);
    let what = "1 byte there and back";
    let mut questions = vec![Question::of(&batches, &DATA_PATHS, "ping", what, Unit::MICROSECONDS)?];

    let redis = servers::redis();
    let done = each(
        context,
        &baselines,
        redis,
        "redis-benchmark",
        &mut section,
        |fixture, program, section| {
            for (name, options, requests) in REDIS {
                let requests = context.count(requests, requests / 4);
                take(fixture, &mut batches, rounds, section, |data_path| {
                    redis::load(data_path.client(program), data_path.address, name, options, requests)
                })?;
            }
            Ok(())
        },
    )?;
    if done {
        questions.extend(redis::questions(&batches, &DATA_PATHS, &REDIS)?);
    }

    let amount = if context.quick { loads::A_LOOK } else { loads::A_SECOND };
    let iperf = servers::iperf();
    let done = each(
        context,
        &baselines,
        iperf,
        "iperf3",
        &mut section,
        |fixture, program, section| {
            take(fixture, &mut batches, rounds, section, |data_path| {
                loads::iperf(data_path, program, amount)
            })
        },
    )?;
    if done {
        let what = "iperf3, one connection";
        questions.push(Question::of(
            &batches,
            &DATA_PATHS,
            "iperf3",
            what,
            Unit::MIB_PER_SECOND,
        )?);
    }

    // No run of wrk is shorter than a second.
    let nginx = servers::nginx(context);
    let done = each(
        context,
        &baselines,
        nginx,
        "wrk",
        &mut section,
        |fixture, program, section| {
            take(fixture, &mut batches, context.count(rounds, 2), section, |data_path| {
                loads::wrk(data_path, program, 20, true)
            })
        },
    )?;
    if done {
        questions.extend(wrk(&batches, &DATA_PATHS, "keep-alive")?);
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

/// A guest that is a client: its role, followed by the server's address, the rest of its arguments,
/// and its samples in a batch.
pub struct Guest<'a> {
    pub role: &'a str,
    pub more: &'a [&'a str],
    pub count: usize,
}

/// Gives such a guest turns on each data path.
pub fn guests(
    context: &Context,
    fixture: &Fixture<'_>,
    batches: &mut Batches,
    guest: &Guest<'_>,
    rounds: usize,
    section: &mut Section,
) -> Result<()> {
    let data_paths = fixture.data_paths()?;
    let turn = |data_path: &DataPath<'_>| {
        let mut client = data_path.client(&context.this);
        client.args(["guest", guest.role]);
        client.arg(data_path.address.to_string()).args(guest.more);
        // Started in the first round, which is not counted.
        let (mut command, mut running) = (Some(client), None);
        data_path.turn(move || {
            if let Some(command) = command.take() {
                running = Some(Subject::start(command)?);
            }
            running.as_mut().context("it did not start")?.batch(guest.count)
        })
    };
    let mut turns: Vec<_> = data_paths.iter().map(turn).collect();
    batches.interleave(&mut turns, 1, rounds)?;
    section.gaps_of(guest.role, &turns);
    Ok(())
}

/// Measures with a server and a client program, if both are installed; otherwise the gap is named.
pub fn each(
    context: &Context,
    baselines: &Baselines,
    server: Result<Server>,
    client: &str,
    section: &mut Section,
    measure: impl FnOnce(&Fixture<'_>, &Path, &mut Section) -> Result<()>,
) -> Result<bool> {
    let program = find(client).with_context(|| format!("{client} is not installed (Debian: {})", package(client)));
    let (server, program) = match server.and_then(|server| Ok((server, program?))) {
        Ok(both) => both,
        Err(why) => {
            section.gap(client, format!("{why:#}"));
            return Ok(false);
        }
    };
    let measured =
        Fixture::set(context, baselines, &server, section).and_then(|fixture| measure(&fixture, &program, section));
    interrupt::check()?;
    Ok(measured.map_err(|why| section.gap(client, format!("{why:#}"))).is_ok())
}

fn package(program: &str) -> &str {
    match program {
        "redis-benchmark" => "redis-tools",
        other => other,
    }
}

/// Gives all data paths turns with one load.
pub fn take(
    fixture: &Fixture<'_>,
    batches: &mut Batches,
    rounds: usize,
    section: &mut Section,
    load: impl Fn(&DataPath<'_>) -> Result<Vec<Series>>,
) -> Result<()> {
    let data_paths = fixture.data_paths()?;
    let load = &load;
    let mut turns: Vec<_> = data_paths
        .iter()
        .map(|data_path| data_path.turn(move || load(data_path)))
        .collect();
    batches.interleave(&mut turns, 1, rounds)?;
    section.gaps_of(fixture.server_name(), &turns);
    Ok(())
}

/// wrk's rate and latency of all data paths.
pub fn wrk(batches: &Batches, variants: &[&'static str], kind: &str) -> Result<[Question; 2]> {
    let rate = Question::of(
        batches,
        variants,
        &format!("wrk {kind} rate"),
        format!("wrk on nginx, {kind}, rate"),
        Unit::REQUESTS_PER_SECOND,
    )?;
    let unit = Unit::MICROSECONDS;
    let there = variants
        .iter()
        .filter(|variant| batches.has(variant, &format!("wrk {kind} p50")));
    let latency = |variant: &'static str| {
        let of = |figure| anyhow::Ok(batches.of(variant, &format!("wrk {kind} {figure}"))?.concat());
        anyhow::Ok((variant, Measured::reported(&of("p50")?, &of("p99")?, unit)?))
    };
    let latency = Question {
        what: format!("wrk on nginx, {kind}, latency"),
        unit,
        variants: there.copied().map(latency).collect::<Result<_>>()?,
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
