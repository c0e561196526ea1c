//! A day of requests, replayed fast: the savings of sleep, and its cost to the requests.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Exp, Zipf};
use serde::Deserialize;

use super::IMSUP;
use crate::context::Context;
use crate::interrupt;
use crate::project::Project;
use crate::report::{Plot, Question, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::sleep::server::{Server, echo};

const ALWAYS_ON: &str = "always on";
const SEED: u64 = 20_261_121;
/// The factor by which the replay is faster.
const SPEED: u32 = 1_440;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Requests of the day, over all hosts, on average.
const REQUESTS: f64 = 4_000.0;
/// The exponent of the hosts' popularity: the n-th host gets 1/n^ZIPF of the first host's requests.
const ZIPF: f64 = 1.1;
/// The most clients that wait at the same time: a request waits for a client, never the other way
/// round.
const CLIENTS: usize = 16;
/// 5 minutes and half an hour of the day.
const SLEEPS: &str = "idle_after: 208ms, terminate_after: 1250ms, timer_slack: 100ms";
const NEVER: &str = "idle_after: never";

/// A request: when after the start of the replay, and to which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    at: Duration,
    host: usize,
}

/// The day's requests in their order: arrivals are a Poisson process, each goes to a host by Zipf's
/// law.
fn trace(hosts: usize, day: Duration, requests: f64) -> Result<Vec<Request>> {
    let mut random = StdRng::seed_from_u64(SEED);
    let replayed = day / SPEED;
    let gaps = Exp::new(requests / replayed.as_secs_f64()).context("a rate that is none")?;
    let popularity = Zipf::new(hosts as f64, ZIPF).context("an exponent that is none")?;
    let mut at = 0.0;
    let mut all = Vec::new();
    loop {
        at += gaps.sample(&mut random);
        if at >= replayed.as_secs_f64() {
            return Ok(all);
        }
        all.push(Request {
            at: Duration::from_secs_f64(at),
            host: (popularity.sample(&mut random) as usize).clamp(1, hosts) - 1,
        });
    }
}

pub fn run(context: &Context) -> Result<Section> {
    let hosts = context.count(100, 20);
    let (day, requests) = match context.quick {
        false => (DAY, REQUESTS),
        true => (DAY / 8, REQUESTS / 8.0),
    };
    let trace = trace(hosts, day, requests)?;
    let server = echo(context);
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(ALWAYS_ON, || replay(context, &server, hosts, &trace, NEVER)),
        Turn::new(IMSUP, || replay(context, &server, hosts, &trace, SLEEPS)),
    ];
    batches.interleave(&mut turns, 0, context.count(2, 1))?;
    drop(turns);
    let mut section = Section::default();
    for (series, what, unit) in [
        ("memory", "memory times time, of all hosts", Unit::MIB_SECONDS),
        ("cpu", "processor time, of all hosts", Unit::CPU_SECONDS),
        ("reply", "each reply, on a new connection", Unit::MILLISECONDS),
    ] {
        let question = Question::of(&batches, &[ALWAYS_ON, IMSUP], series, what, unit)?;
        section.rows.extend(question.rows(ALWAYS_ON));
    }
    section.plots.push(Plot::of(
        "day",
        "a day's requests: each reply",
        Unit::MILLISECONDS,
        &batches,
        "reply",
        &[ALWAYS_ON, IMSUP],
    )?);
    section.note(format!(
        "{} requests to {hosts} hosts, replayed {SPEED} times as fast as they came: arrivals are a Poisson process, hosts are chosen by Zipf's \
         law with the exponent {ZIPF}, seed {SEED}",
        trace.len()
    ));
    section.note(format!(
        "the settings are as much shorter ({SLEEPS}: 5 minutes and half an hour of the day); the waking and booting are not, so that what \
         they cost weighs {SPEED} times as much as in a day: the savings are a lower bound"
    ));
    section.note("memory and processor time are imsup's own accounts ('imsup usage') of the programs; a suspended host keeps its memory, one that \
                  was terminated has none; the supervisors are not in them (see 'memory' and 'sleep-many')");
    section.note("always on: the same hosts and clients, booted before the first request, never suspended");
    Ok(section)
}

/// One replay: the resources used meanwhile, and the duration of each request.
fn replay(
    context: &Context,
    server: &Server,
    hosts: usize,
    trace: &[Request],
    settings: &'static str,
) -> Result<Vec<Series>> {
    let services: Vec<_> = (1..=hosts)
        .map(|number| {
            let mut service = server.service(settings);
            service.name = format!("host-{number}");
            service
        })
        .collect();
    let project = Project::up(&context.sandbox, &services)?;
    if settings == NEVER {
        project.wake_all()?;
    }
    let addresses: Vec<Ipv4Addr> = project.hosts()?.iter().map(|host| host.address).collect();
    let before = Usage::of(&project)?;
    let replies = requests(server, &addresses, trace)?;
    let after = Usage::of(&project)?;
    interrupt::check()?;
    let thousandths = |after: f64, before: f64| ((after - before).max(0.0) * 1e3).round() as u64;
    Ok(vec![
        (
            "memory".to_owned(),
            vec![thousandths(after.memory_mib_s, before.memory_mib_s)],
        ),
        ("cpu".to_owned(), vec![thousandths(after.cpu_s, before.cpu_s)]),
        ("reply".to_owned(), replies),
    ])
}

/// Sends each request when it is due, and returns the time from then until its reply.
fn requests(server: &Server, addresses: &[Ipv4Addr], trace: &[Request]) -> Result<Vec<u64>> {
    let (due, todo) = crossbeam_channel::unbounded::<(Instant, Ipv4Addr)>();
    thread::scope(|scope| {
        let client = || -> Result<Vec<u64>> {
            let mut times = Vec::new();
            loop {
                let Ok((at, ip)) = todo.recv() else {
                    return Ok(times);
                };
                server.ask(&mut server.connect(ip)?)?;
                times.push(u64::try_from(at.elapsed().as_nanos())?);
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let start = Instant::now();
        for request in trace {
            let at = start + request.at;
            if interrupt::pause(at.saturating_duration_since(Instant::now())).is_err() {
                break;
            }
            if due.send((at, addresses[request.host])).is_err() {
                break;
            }
        }
        drop(due);
        let mut all = Vec::with_capacity(trace.len());
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(all)
    })
}

/// The output of `imsup usage --format json`, summed over all hosts.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Usage {
    cpu_s: f64,
    memory_mib_s: f64,
}

impl Usage {
    fn of(project: &Project<'_>) -> Result<Self> {
        let text = project.usage()?;
        let parse =
            |line: &str| serde_json::from_str::<Self>(line).with_context(|| format!("reading 'imsup usage': {line}"));
        text.lines().map(parse).try_fold(Self::default(), |sum, one| {
            let one = one?;
            Ok(Self {
                cpu_s: sum.cpu_s + one.cpu_s,
                memory_mib_s: sum.memory_mib_s + one.memory_mib_s,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_same_each_time_and_in_order() {
        let one = trace(100, DAY, 2_000.0).unwrap();
        assert_eq!(one, trace(100, DAY, 2_000.0).unwrap());
        assert!(one.is_sorted());
        assert!((1_800..2_200).contains(&one.len()), "{}", one.len());
        assert!(one.iter().all(|request| request.host < 100 && request.at < DAY / SPEED));
        let of = |host| one.iter().filter(|request| request.host == host).count();
        assert!(of(0) > 4 * of(9), "the first is asked for most");
    }
}
