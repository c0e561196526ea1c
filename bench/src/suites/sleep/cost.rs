//! The cost of sleep: for a host that is awake the observation, and redis's throughput; for a
//! sleeper the ticks.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::server::{self, Server};
use super::{BY_COMMAND, one};
use crate::command;
use crate::context::Context;
use crate::process;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit;
use crate::suites::{CONTROL, NATIVE, native, redis};

/// The default, written out for readers.
const BY_DEFAULT: &str = "idle_after: 5s";
/// The native redis that ticks are compared with, and the loaded one.
const ADDRESSES: [u8; 2] = [8, 9];

const NEVER_SLEEPS: &str = "server a host that never sleeps";
const MAY_SLEEP: &str = "server a host that may sleep";
const ASLEEP: &str = "asleep";

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let benchmark = command::find("redis-benchmark").context("redis-benchmark is not installed (Debian: redis-tools)");
    match server::redis().and_then(|redis| Ok((redis, benchmark?))) {
        Ok((redis, benchmark)) => {
            let benchmark = benchmark.to_string_lossy();
            observing(context, &redis, &benchmark, &mut section)?;
            ticking(context, &redis, &mut section)?;
            throughput(context, &redis, &benchmark, &mut section)?;
        }
        Err(why) => section.gap("redis", format!("{why:#}")),
    }
    Ok(section)
}

fn watched(context: &Context) -> Duration {
    Duration::from_secs(context.count(5, 2) as u64)
}

/// A load, ended on drop.
struct Load(Child);

impl Load {
    fn start(benchmark: &str, server: &Server, ip: Ipv4Addr, clients: usize) -> Result<Self> {
        let child = Command::new(benchmark)
            .args(["-h", &ip.to_string(), "-p", &server.port.to_string()])
            .args(["-c", &clients.to_string(), "-t", "get", "-l", "-q"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting redis-benchmark")?;
        Ok(Self(child))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processor time of supervisors whose hosts are awake.
fn observing(context: &Context, redis: &Server, benchmark: &str, section: &mut Section) -> Result<()> {
    let echo = server::echo(context);
    let named = |name: &str, settings| {
        let mut service = echo.service(settings);
        name.clone_into(&mut service.name);
        service
    };
    let services = [
        redis.service(BY_DEFAULT),
        named("kept", "keep_awake: true"),
        named("idle", BY_COMMAND),
    ];
    let project = Project::up(&context.sandbox, &services)?;
    project.wake_all()?;
    let ip = project.address(redis.name)?;
    let watch = |host: &str| process::cpu_share(&[project.supervisor(host)?], watched(context));
    let watch_loaded = |clients| {
        let _load = Load::start(benchmark, redis, ip, clients)?;
        watch(redis.name)
    };
    let mut measures: [(&str, &mut dyn FnMut() -> Result<u64>); 4] = [
        ("redis with 50 clients that ask all the time", &mut || watch_loaded(50)),
        ("redis with 1,000 clients that ask all the time", &mut || {
            watch_loaded(1_000)
        }),
        ("an idle host that is kept awake", &mut || watch("kept")),
        ("an idle host that would sleep in an hour", &mut || watch("idle")),
    ];
    let mut batches = Batches::default();
    let mut turns: Vec<Turn<'_>> = measures
        .iter_mut()
        .map(|(what, measure)| Turn::new(what, || Ok(vec![one("cpu", measure()?)])))
        .collect();
    batches.interleave(&mut turns, 0, context.count(5, 1))?;
    let whats: Vec<&'static str> = turns.iter().map(|turn| turn.variant).collect();
    for what in whats {
        let measured = batches.measured(what, "cpu", Unit::SHARE)?;
        let row = Row::alone(
            format!("processor time of the supervisor of {what}"),
            Unit::SHARE,
            &measured,
        );
        section.rows.push(row.expect(Bound::Value(0.1)));
    }
    section.note(format!(
        "processor time: over {} s each; redis has 'idle_after: 5s', the default",
        watched(context).as_secs()
    ));
    Ok(())
}

/// The processor time of an idle redis, whose cron runs ten times a second: asleep it ticks once in
/// a second.
fn ticking(context: &Context, redis: &Server, section: &mut Section) -> Result<()> {
    let address = native::address(ADDRESSES[0]);
    let listens = SocketAddrV4::new(address, redis.port);
    let server = native::Server::start(context, &redis.command(address), listens)?;
    let project = Project::up(&context.sandbox, &[redis.service(BY_COMMAND)])?;
    project.wake_all()?;
    project.suspend(&[redis.name])?;
    let supervisor = project.supervisor(redis.name)?;
    let mut asleep = process::descendants(supervisor)?;
    asleep.push(supervisor);
    let cpu = |processes: &[u32]| Ok(vec![one("cpu", process::cpu_share(processes, watched(context))?)]);
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(NATIVE, || cpu(&[server.pid()])),
        Turn::new(ASLEEP, || cpu(&asleep)),
    ];
    batches.interleave(&mut turns, 0, context.count(5, 1))?;
    let of = |variant| batches.measured(variant, "cpu", Unit::SHARE);
    section.rows.push(Row::compare(
        "processor time of an idle redis: native, against asleep and ticking, supervisor included",
        Unit::SHARE,
        &of(NATIVE)?,
        &of(ASLEEP)?,
    ));
    Ok(())
}

/// Whether being observed slows redis down.
fn throughput(context: &Context, redis: &Server, benchmark: &str, section: &mut Section) -> Result<()> {
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let mut never = redis.service("idle_after: never");
        "never".clone_into(&mut never.name);
        let project = Project::up(&context.sandbox, &[redis.service(BY_DEFAULT), never])?;
        project.wake_all()?;
        let hosts = [project.address(redis.name)?, project.address("never")?];
        let mut servers = Vec::new();
        for number in ADDRESSES {
            let address = native::address(number);
            let listens = SocketAddrV4::new(address, redis.port);
            servers.push((
                address,
                native::Server::start(context, &redis.command(address), listens)?,
            ));
        }
        for (name, options, requests) in redis::LOADS {
            let load = |address| redis::load(Command::new(benchmark), address, name, options, requests);
            let mut turns = [
                Turn::new(NATIVE, || load(servers[0].0)),
                Turn::new(MAY_SLEEP, || load(hosts[0])),
                Turn::new(NEVER_SLEEPS, || load(hosts[1])),
                Turn::new(CONTROL, || load(servers[1].0)),
            ];
            batches.interleave(&mut turns, 0, context.count(4, 2))?;
        }
    }
    let variants = [NATIVE, CONTROL, NEVER_SLEEPS, MAY_SLEEP];
    let questions = redis::questions(&batches, &variants, &redis::LOADS)?;
    section.rows.extend(redis::rows(&questions));
    section.note(format!(
        "rates and latencies: {runs} runs with new servers; each sample is one run of redis-benchmark, latencies are its own p50 and p99"
    ));
    Ok(())
}
