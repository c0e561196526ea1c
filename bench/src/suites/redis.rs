//! The data path of redis.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{BOTH, CONTROL, NATIVE, SERVER, native};
use crate::command;
use crate::compose::Service;
use crate::context::Context;
use crate::project::Project;
use crate::report::{Bound, Question, Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::{Measured, Unit};

const PORT: u16 = 6379;

/// A load of redis: its name, the options of redis-benchmark, and its number of requests.
pub type Load = (&'static str, &'static [&'static str], usize);

/// The loads of an ordinary run.
pub const LOADS: [Load; 3] = [
    ("1 client", &["-c", "1"], 4_000),
    ("20 clients", &["-c", "20"], 12_000),
    ("20 clients, pipelines of 16", &["-c", "20", "-P", "16"], 100_000),
];

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let (Some(server), Some(benchmark)) = (command::find("redis-server"), command::find("redis-benchmark")) else {
        section.gap(
            "redis",
            "redis-server or redis-benchmark is not installed (Debian: redis-server)",
        );
        return Ok(section);
    };
    let server = server.to_string_lossy().into_owned();
    let runs = context.count(4, 1);
    let rounds = context.count(4, 2);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let host = Service::new("redis", arguments(&server, "*"), [PORT]);
        let project = Project::up(&context.sandbox, &[host])?;
        project.wake("redis")?;
        let host = project.address("redis")?;
        let (first, _first) = native_server(context, &server, 3)?;
        let (second, _second) = native_server(context, &server, 4)?;
        for (name, options, requests) in LOADS {
            let native = |address| load(Command::new(&benchmark), address, name, options, requests);
            let supervised = |address| {
                let mut command = project.supervised(None);
                command.arg(&benchmark);
                load(command, address, name, options, requests)
            };
            let mut turns = [
                Turn::new(NATIVE, || native(first)),
                Turn::new(SERVER, || native(host)),
                Turn::new(BOTH, || supervised(host)),
                Turn::new(CONTROL, || native(second)),
            ];
            batches.interleave(&mut turns, 0, rounds)?;
        }
    }
    section.rows = rows(&questions(&batches, &[NATIVE, CONTROL, SERVER, BOTH], &LOADS)?);
    section.note(format!(
        "{runs} runs with new servers; each sample is one run of redis-benchmark, latencies are its own p50 and p99"
    ));
    section.note("'native again' is a second native server with a native client: what differs there is noise");
    Ok(section)
}

fn arguments(server: &str, bind: &str) -> Vec<String> {
    let port = PORT.to_string();
    let words = [
        server,
        "--port",
        &port,
        "--bind",
        bind,
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
    ];
    words.map(str::to_owned).to_vec()
}

fn native_server(context: &Context, server: &str, number: u8) -> Result<(Ipv4Addr, native::Server)> {
    let address = native::address(number);
    let words = arguments(server, &address.to_string());
    let server = native::Server::start(context, &words, SocketAddrV4::new(address, PORT))?;
    Ok((address, server))
}

/// Runs redis-benchmark once; a batch has one sample of each of its figures.
pub fn load(
    mut command: Command,
    address: Ipv4Addr,
    name: &str,
    options: &[&str],
    requests: usize,
) -> Result<Vec<Series>> {
    command
        .args([
            "-h",
            &address.to_string(),
            "-p",
            &PORT.to_string(),
            "-t",
            "set,get",
            "--csv",
        ])
        .args(["-n", &requests.to_string()])
        .args(options);
    let text = command::output(&mut command)?;
    let mut series = Vec::new();
    for (test, figures) in parse(&text)? {
        for (figure, value) in figures {
            series.push((format!("{test} {name} {figure}"), vec![value]));
        }
    }
    Ok(series)
}

/// redis-benchmark's CSV (redis 6.2 and later): requests a second, and latencies that become
/// nanoseconds.
fn parse(text: &str) -> Result<BTreeMap<String, [(&'static str, u64); 3]>> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines();
    let words = |line: &str| {
        line.split(',')
            .map(|word| word.trim_matches('"').to_owned())
            .collect::<Vec<_>>()
    };
    let header = words(lines.next().unwrap_or_default());
    let column = |name: &str| {
        let position = header.iter().position(|word| word == name);
        position.with_context(|| format!("redis-benchmark reports no '{name}': redis 6.2 or later is needed"))
    };
    let (rate, p50, p99) = (column("rps")?, column("p50_latency_ms")?, column("p99_latency_ms")?);
    for line in lines {
        let line = words(line);
        let value = |column: usize, scale: f64| -> Result<u64> {
            let word = line.get(column).context("a line of redis-benchmark is short")?;
            let number: f64 = word.parse().with_context(|| format!("redis-benchmark said '{word}'"))?;
            Ok((number * scale).round() as u64)
        };
        let figures = [
            ("rate", value(rate, 1.0)?),
            ("p50", value(p50, 1e6)?),
            ("p99", value(p99, 1e6)?),
        ];
        found.insert(line[0].clone(), figures);
    }
    Ok(found)
}

/// Rates and latencies of these variants.
///
/// # Errors
/// A variant was not measured.
pub fn questions(batches: &Batches, variants: &[&'static str], loads: &[Load]) -> Result<Vec<Question>> {
    let mut all = Vec::new();
    for (name, _, _) in loads {
        for test in ["GET", "SET"] {
            let series = |figure: &str| format!("{test} {name} {figure}");
            let what = |figure: &str| format!("{test}, {name}, {figure}");
            all.push(Question::of(
                batches,
                variants,
                &series("rate"),
                what("rate"),
                Unit::REQUESTS_PER_SECOND,
            )?);
            let unit = Unit::MICROSECONDS;
            let there = variants.iter().filter(|variant| batches.has(variant, &series("p50")));
            let latency = |variant: &'static str| {
                let p50s = batches.of(variant, &series("p50"))?.concat();
                let p99s = batches.of(variant, &series("p99"))?.concat();
                anyhow::Ok((variant, Measured::reported(&p50s, &p99s, unit)?))
            };
            all.push(Question {
                what: what("latency"),
                unit,
                variants: there.copied().map(latency).collect::<Result<_>>()?,
            });
        }
    }
    Ok(all)
}

/// Each variant against native; imsup's are expected to be no worse.
pub fn rows(questions: &[Question]) -> Vec<Row> {
    let mut rows = Vec::new();
    for Question { what, unit, variants } in questions {
        let Some(((_, native), others)) = variants.split_first() else {
            continue;
        };
        rows.extend(others.iter().map(|(variant, found)| {
            let row = Row::compare(format!("{what}: {variant}"), *unit, native, found);
            match *variant {
                CONTROL => row,
                _ => row.expect(Bound::Ratio(1.0)),
            }
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_of_redis_7_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\
                    \"max_latency_ms\"\n\"SET\",\"40000.00\",\"0.020\",\"0.008\",\"0.023\",\"0.031\",\"0.055\",\"0.487\"\n";
        let found = parse(text).unwrap();
        assert_eq!(found["SET"], [("rate", 40_000), ("p50", 23_000), ("p99", 55_000)]);
        assert!(parse("SET: 40000.00 requests per second\n").is_err());
    }
}
