//! Many servers started at the same moment.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::IMSUP;
use crate::context::Context;
use crate::docker::Network;
use crate::project::Project;
use crate::report::{Plot, Question, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::boot::{Started, connected};
use crate::suites::sleep::server::{Server, echo};
use crate::suites::{CONTROL, NATIVE, docker, native};

const DOCKER: &str = "docker start";
/// The interval between two checks of one of many clients.
const LOOK: Duration = Duration::from_millis(1);

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let count = context.count(100, 10);
    let docker = docker(context, &mut section, DOCKER, Network::Machine)?;
    let server = echo(context);
    let names: Vec<String> = (1..=count).map(|number| format!("host-{number}")).collect();
    let services: Vec<_> = names
        .iter()
        .map(|name| {
            let mut service = server.service("idle_after: never");
            service.name.clone_from(name);
            service
        })
        .collect();
    let project = Project::up(&context.sandbox, &services)?;
    let hosts: Vec<Ipv4Addr> = project.hosts()?.iter().map(|host| host.address).collect();
    let addresses: Vec<Ipv4Addr> = (0..count).map(address).collect();
    let contained: Vec<Ipv4Addr> = (0..count).map(|number| address(count + number)).collect();
    if let Some(docker) = &docker {
        let mut docker = docker.borrow_mut();
        for (name, ip) in names.iter().zip(&contained) {
            docker.create(name, &server.command(*ip))?;
        }
    }
    let mut batches = Batches::default();
    let mut turns = vec![
        Turn::new(NATIVE, || {
            at_once(&server, &addresses, || {
                let all: Result<Vec<_>> = addresses
                    .iter()
                    .map(|ip| Started::exec(context, &server.command(*ip)))
                    .collect();
                all
            })
        }),
        Turn::new(IMSUP, || {
            let series = at_once(&server, &hosts, || Ok(()))?;
            for name in &names {
                project.stop(name)?;
            }
            Ok(series)
        }),
    ];
    if let Some(docker) = &docker {
        turns.push(Turn::baseline(DOCKER, || {
            let mut docker = docker.borrow_mut();
            let series = at_once(&server, &contained, || {
                names.iter().try_for_each(|name| docker.begin(name))
            })?;
            names.iter().try_for_each(|name| docker.kill(name))?;
            Ok(series)
        }));
    }
    batches.interleave(&mut turns, 1, context.count(5, 1))?;
    section.gaps_of("starting all", &turns);
    let variants: Vec<_> = turns.iter().map(|turn| turn.variant).collect();
    drop(turns);
    let unit = Unit::MILLISECONDS;
    section.plots.push(Plot::of(
        "together",
        format!("{count} servers started at the same moment: each reply"),
        unit,
        &batches,
        "reply",
        &variants,
    )?);
    for (series, what) in [
        ("first", "the first reply"),
        ("reply", "each reply"),
        ("last", "the last reply"),
    ] {
        let what = format!("{count} servers, {what}");
        let question = Question::of(&batches, &variants, series, what, unit)?;
        section.rows.extend(question.rows(CONTROL));
    }
    section.note("from the common start to each server's reply, one client for each, threads of one process");
    section.note("native: fork and exec of all, the clients try to connect until they can; docker: containers that were made before, started one \
                  after the other by the API; imsup: the clients' own connections are what starts the hosts");
    section.note("a hundred that are woken at the same moment are in 'woken'");
    Ok(section)
}

/// Addresses outside the planes, of this process alone.
pub(super) fn address(number: usize) -> Ipv4Addr {
    let [_, _, hi, _] = native::address(0).octets();
    // Neither 0 nor 255 at the end, which are no host's.
    let [above, below] = [number / 250, number % 250 + 1].map(|part| u8::try_from(part).unwrap_or(0));
    Ipv4Addr::new(127, 190 + above, hi, below)
}

/// A client asks each server while `start` starts them; the result of `start` is kept until all
/// have answered.
fn at_once<T>(server: &Server, addresses: &[Ipv4Addr], start: impl FnOnce() -> Result<T>) -> Result<Vec<Series>> {
    let began = Instant::now();
    let ask = |ip: Ipv4Addr| -> Result<u64> {
        let mut stream = connected(SocketAddrV4::new(ip, server.port), began, LOOK, || Ok(()))?;
        server.ask(&mut stream)?;
        Ok(u64::try_from(began.elapsed().as_nanos())?)
    };
    let mut times = thread::scope(|scope| {
        let clients: Vec<_> = addresses.iter().map(|ip| scope.spawn(move || ask(*ip))).collect();
        let _kept = start()?;
        let join = |client: thread::ScopedJoinHandle<'_, Result<u64>>| {
            client.join().map_err(|_| anyhow!("a client panicked"))?
        };
        clients.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    times.sort_unstable();
    let (first, last) = (times.first().copied(), times.last().copied());
    let one = |name: &str, time: Option<u64>| (name.to_owned(), time.into_iter().collect());
    Ok(vec![
        one("first", first),
        one("last", last),
        ("reply".to_owned(), times),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_an_address_of_its_own() {
        let addresses: std::collections::HashSet<_> = (0..600).map(address).collect();
        assert_eq!(addresses.len(), 600);
    }
}
