//! The first reply of what does not run.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::IMSUP;
use crate::compose::Service;
use crate::context::Context;
use crate::docker::{Docker, Network};
use crate::interrupt;
use crate::peers::systemd::Systemd;
use crate::project::Project;
use crate::report::{Bound, Plot, Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::boot::{self, LOOK, PATIENCE, Started, connected, first_byte};
use crate::suites::programs::{self, Program};
use crate::suites::sleep::server::{Server, echo};
use crate::suites::{NATIVE, docker, native};

const DOCKER: &str = "docker run";
const ACTIVATE: &str = "systemd-socket-activate";
/// The hosts of the chain, first to last.
const CHAIN: [&str; 4] = ["first", "second", "third", "fourth"];
const CHAIN_PORT: u16 = 17_010;

pub fn run(context: &Context) -> Result<Section> {
    // Or each pause of 20 µs takes 70.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("setting the timer slack")?;
    let mut section = Section::default();
    let docker = docker(context, &mut section, DOCKER, Network::Machine)?;
    let (programs, missing) = programs::all(context);
    for (what, why) in missing {
        section.gap(what, why);
    }
    let services: Vec<_> = programs.iter().map(Program::service).collect();
    let project = Project::up(&context.sandbox, &services)?;
    for program in &programs {
        let measured = one(context, &project, docker.as_ref(), program, &mut section);
        interrupt::check()?;
        match measured {
            Ok(rows) => section.rows.extend(rows),
            Err(error) => section.gap(program.what, format!("{error:#}")),
        }
    }
    drop(project);
    match Systemd::find() {
        Ok(systemd) => section.rows.extend(activated(context, &systemd)?),
        Err(why) => section.gap(ACTIVATE, format!("{why:#}")),
    }
    section.rows.extend(chain(context)?);
    section.note(
        "native: from just before the fork to the first byte, by a client that tries to connect every 30 µs or so",
    );
    section.note("imsup: from just before connect(2) to the host's address; docker run: from just before the command, an image that is there, \
                  on the machine's network, by a client that tries to connect as natively");
    section.note("systemd-socket-activate hands the listening socket to a program that knows sd_listen_fds(3): of these servers only \
                  this crate's own does, so it alone is compared; redis, nginx and node would need a relay before them");
    section.note("isolation: native, imsup, systemd: a process; docker: namespaces, cgroups, seccomp and capabilities, which is what it \
                  takes its time for");
    Ok(section)
}

fn one(
    context: &Context,
    project: &Project<'_>,
    docker: Option<&RefCell<Docker>>,
    program: &Program,
    section: &mut Section,
) -> Result<Vec<Row>> {
    let address = SocketAddrV4::new(project.address(program.name)?, program.port);
    let mut batches = Batches::default();
    let mut turns = vec![
        Turn::new(NATIVE, || {
            let series = boot::native(context, program)?;
            Ok(series.into_iter().filter(|(name, _)| name == "byte").collect())
        }),
        Turn::new(IMSUP, || {
            let series = boot::imaginary(program, address)?;
            project.stop(program.name)?;
            Ok(series)
        }),
    ];
    if let Some(docker) = docker {
        turns.push(Turn::new(DOCKER, || contained(docker, program)));
    }
    let count = turns.len();
    batches.interleave(&mut turns, 1, context.count(15, 2))?;
    drop(turns);
    let unit = Unit::MILLISECONDS;
    let native = batches.measured(NATIVE, "byte", unit)?;
    let imsup = batches.measured(IMSUP, "byte", unit)?;
    let mut variants = vec![NATIVE, IMSUP];
    variants.extend((count > 2).then_some(DOCKER));
    let title = format!("the first reply of {}, not running", program.what);
    let name = format!("start-{}", program.name);
    section
        .plots
        .push(Plot::of(name, title, unit, &batches, "byte", &variants)?);
    let what = |way| format!("{}: {way}", program.what);
    let mut rows = vec![Row::compare(what(IMSUP), unit, &native, &imsup).expect(Bound::More(1.0))];
    if count > 2 {
        let docker = batches.measured(DOCKER, "byte", unit)?;
        rows.push(Row::compare(what(DOCKER), unit, &native, &docker));
        let beaten = Row::compare(what("imsup against docker run"), unit, &docker, &imsup);
        rows.push(match program.name {
            "redis" => beaten.expect(Bound::Times(15.0)),
            _ => beaten,
        });
    }
    Ok(rows)
}

/// Asks as soon as somebody listens there.
fn polled(address: SocketAddrV4, program: &Program, start: Instant) -> Result<()> {
    first_byte(listening(address, start)?, program)
}

/// Connects as soon as somebody listens there.
fn listening(address: SocketAddrV4, start: Instant) -> Result<TcpStream> {
    connected(address, start, LOOK, || Ok(()))
}

fn contained(docker: &RefCell<Docker>, program: &Program) -> Result<Vec<Series>> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, program.native_port());
    if TcpStream::connect(address).is_ok() {
        bail!("something listens on {address} already");
    }
    let words = program.command(program.native_port());
    let name = format!("start-{}", program.name);
    let took = {
        let docker = docker.borrow();
        let docker: &Docker = &docker;
        thread::scope(|scope| {
            let start = Instant::now();
            let command = scope.spawn(|| docker.run_by_command(&name, &words));
            let answered = polled(address, program, start);
            let took = start.elapsed();
            command.join().map_err(|_| anyhow::anyhow!("docker run panicked"))??;
            answered.map(|()| took)
        })
    };
    docker.borrow_mut().remove(&name)?;
    Ok(vec![boot::series("byte", took?)])
}

/// A server that can take a listening socket over.
fn activated(context: &Context, systemd: &Systemd) -> Result<Vec<Row>> {
    let server = echo(context);
    let project = Project::up(&context.sandbox, &[server.service("idle_after: never")])?;
    let host = project.address(server.name)?;
    let mut batches = Batches::default();
    let ask = |server: &Server, ip: Ipv4Addr| -> Result<Vec<Series>> {
        let start = Instant::now();
        server.ask(&mut server.connect(ip)?)?;
        Ok(vec![boot::series("byte", start.elapsed())])
    };
    let mut turns = [
        Turn::new(NATIVE, || {
            let ip = native::address(30);
            let start = Instant::now();
            let _started = Started::exec(context, &server.command(ip))?;
            server.ask(&mut listening(SocketAddrV4::new(ip, server.port), start)?)?;
            Ok(vec![boot::series("byte", start.elapsed())])
        }),
        Turn::new(IMSUP, || {
            let series = ask(&server, host)?;
            project.stop(server.name)?;
            Ok(series)
        }),
        Turn::new(ACTIVATE, || {
            let ip = native::address(31);
            let _waits = systemd.activate(SocketAddrV4::new(ip, server.port), &server.command(ip))?;
            ask(&server, ip)
        }),
    ];
    batches.interleave(&mut turns, 1, context.count(15, 2))?;
    drop(turns);
    let unit = Unit::MILLISECONDS;
    let native = batches.measured(NATIVE, "byte", unit)?;
    let row = |way| {
        let measured = batches.measured(way, "byte", unit)?;
        Ok(Row::compare(
            format!("{}: {way}", server.what),
            unit,
            &native,
            &measured,
        ))
    };
    [IMSUP, ACTIVATE].into_iter().map(row).collect()
}

/// Four servers, each of which asks the next.
fn chain(context: &Context) -> Result<Vec<Row>> {
    let this = context.this.to_string_lossy().into_owned();
    let words = |at: Ipv4Addr, next: Option<String>| {
        let mut words = vec![
            this.clone(),
            "guest".to_owned(),
            "relay".to_owned(),
            format!("{at}:{CHAIN_PORT}"),
        ];
        words.extend(next);
        words
    };
    let service = |(number, name): (usize, &&str)| {
        let next = CHAIN.get(number + 1).map(|next| format!("{next}:{CHAIN_PORT}"));
        Service::new(*name, words(Ipv4Addr::UNSPECIFIED, next), [CHAIN_PORT])
    };
    let services: Vec<_> = CHAIN.iter().enumerate().map(service).collect();
    let project = Project::up(&context.sandbox, &services)?;
    let first = SocketAddrV4::new(project.address(CHAIN[0])?, CHAIN_PORT);
    let ask = |address: SocketAddrV4| -> Result<()> {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0]).context("waiting for the chain's answer")
    };
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(NATIVE, || {
            let address = |number: usize| native::address(32 + number as u8);
            let start = Instant::now();
            let mut started = Vec::new();
            for number in 0..CHAIN.len() {
                let next = (number + 1 < CHAIN.len()).then(|| format!("{}:{CHAIN_PORT}", address(number + 1)));
                started.push(Started::exec(context, &words(address(number), next))?);
            }
            for number in 0..CHAIN.len() {
                listening(SocketAddrV4::new(address(number), CHAIN_PORT), start)?;
            }
            ask(SocketAddrV4::new(address(0), CHAIN_PORT))?;
            Ok(vec![boot::series("byte", start.elapsed())])
        }),
        Turn::new(IMSUP, || {
            let start = Instant::now();
            ask(first)?;
            let took = start.elapsed();
            for name in CHAIN {
                project.stop(name)?;
            }
            Ok(vec![boot::series("byte", took)])
        }),
    ];
    batches.interleave(&mut turns, 1, context.count(15, 2))?;
    drop(turns);
    let unit = Unit::MILLISECONDS;
    Ok(vec![Row::compare(
        "a chain of 4, each of which asks the next: imsup, against starting all at once and asking when all listen",
        unit,
        &batches.measured(NATIVE, "byte", unit)?,
        &batches.measured(IMSUP, "byte", unit)?,
    )])
}
