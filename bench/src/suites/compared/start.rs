//! The first reply of a host that is not running.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::IMSUP;
use crate::baselines::systemd::Systemd;
use crate::compose::Service;
use crate::context::Context;
use crate::docker::{Docker, Network};
use crate::interrupt;
use crate::project::Project;
use crate::report::{Bound, Goal, Plot, Question, Section, Variants};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::boot::{self, LOOK, PATIENCE, Started, connected, first_byte};
use crate::suites::programs::{self, Program, Words};
use crate::suites::{CONTROL, NATIVE, docker, native};

const DOCKER: &str = "docker run";
const ACTIVATE: &str = "systemd-socket-activate";
/// The available baselines.
struct Baselines {
    systemd: Option<Systemd>,
    docker: Option<RefCell<Docker>>,
}

/// The hosts of the chain, first to last.
const CHAIN: [&str; 4] = ["first", "second", "third", "fourth"];
const CHAIN_PORT: u16 = 17_010;

pub fn run(context: &Context) -> Result<Section> {
    // Or each pause of 20 µs takes 70.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("setting the timer slack")?;
    let mut section = Section::default();
    let systemd = Systemd::find(context)
        .map_err(|why| section.gap(ACTIVATE, format!("{why:#}")))
        .ok();
    let docker = docker(context, &mut section, DOCKER, Network::Machine)?;
    let baselines = Baselines { systemd, docker };
    let (programs, missing) = programs::all(context);
    for (what, why) in missing {
        section.gap(what, why);
    }
    let services: Vec<_> = programs.iter().map(Program::service).collect();
    let project = Project::up(&context.sandbox, &services)?;
    for program in &programs {
        let measured = one(context, &project, &baselines, program, &mut section);
        interrupt::check()?;
        if let Err(error) = measured {
            section.gap(program.what, format!("{error:#}"));
        }
    }
    drop(project);
    section.rows.extend(chain(context)?.rows(CONTROL));
    section.note(
        "who booted a host, which events tell, is asked of the kernel while the host starts, and the kernel walks its whole table of connections for that: \
         0.4 ms on one processor, 4 ms with 30,000 connections in TIME_WAIT, for which a program that starts there may have to wait; this suite \
         runs before those that leave so many",
    );
    section.note(
        "native: from just before the fork to the first byte, by a client that tries to connect every 30 µs or so",
    );
    section.note("imsup: from just before connect(2) to the host's address; docker run: from just before the command, an image that is there, \
                  on the machine's network, by a client that tries to connect as natively");
    section.note("systemd-socket-activate: from just before connect(2); it hands the listening socket over as descriptor 3. node takes it \
                  by listen({fd: 3}), Go by net.FileListener, python by twelve lines \
                  that stand for -m http.server and look up no name, the C server by an option");
    section.note("the chain natively: all are started at once, and asked when all listen; starting each only when it is asked would be slower");
    section.note("isolation: native, imsup, systemd: a process; docker: namespaces, cgroups, seccomp and capabilities, which is what it \
                  takes its time for");
    Ok(section)
}

fn one(
    context: &Context,
    project: &Project<'_>,
    baselines: &Baselines,
    program: &Program,
    section: &mut Section,
) -> Result<()> {
    let address = SocketAddrV4::new(project.address(program.name)?, program.port);
    let mut batches = Batches::default();
    let native = || {
        let series = boot::native(context, program)?;
        Ok(series.into_iter().filter(|(name, _)| name == "byte").collect())
    };
    let mut turns = vec![
        Turn::new(NATIVE, native),
        Turn::new(CONTROL, native),
        Turn::new(IMSUP, || {
            let series = boot::imaginary(program, address)?;
            project.stop(program.name)?;
            Ok(series)
        }),
    ];
    if let Some(systemd) = &baselines.systemd {
        match &program.activation {
            Ok(words) => turns.push(Turn::baseline(ACTIVATE, || activated(systemd, words, program))),
            Err(why) => section.gap(&format!("{}: {ACTIVATE}", program.what), why),
        }
    }
    if let Some(docker) = &baselines.docker {
        turns.push(Turn::baseline(DOCKER, || contained(docker, program)));
    }
    let variants: Vec<_> = turns.iter().map(|turn| turn.variant).collect();
    batches.interleave(&mut turns, 1, context.count(15, 5))?;
    section.gaps_of(program.what, &turns);
    drop(turns);
    let unit = Unit::MILLISECONDS;
    let question = Question::of(&batches, &variants, "byte", program.what, unit)?;
    section
        .rows
        .extend(question.judged(CONTROL, |variants| judge(program, variants)));
    section.plots.push(Plot::of(
        format!("start-{}", program.name),
        format!("the first reply of {}, not running", program.what),
        unit,
        &batches,
        "byte",
        &variants,
    )?);
    Ok(())
}

fn judge(program: &Program, variants: Variants) -> Option<(Bound, Goal)> {
    match (variants.found, variants.base) {
        (IMSUP, NATIVE) => Some((Bound::More(1.0), Goal::Boot)),
        (IMSUP, DOCKER) if program.name == "redis" => Some((Bound::Times(15.0), Goal::BootBesideDocker)),
        _ => None,
    }
}

/// Asks as soon as a socket listens there.
fn polled(address: SocketAddrV4, program: &Program, start: Instant) -> Result<()> {
    first_byte(listening(address, start)?, program)
}

/// Connects as soon as a socket listens there.
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

/// By the process that listens for the server until the first connection.
fn activated(systemd: &Systemd, words: &Words, program: &Program) -> Result<Vec<Series>> {
    let port = program.activated_port();
    let at = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let _waits = systemd.activate(at, &words(port))?;
    boot::imaginary(program, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// Four servers, each of which asks the next.
fn chain(context: &Context) -> Result<Question> {
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
    batches.interleave(&mut turns, 1, context.count(15, 5))?;
    drop(turns);
    let what = "a chain of 4, each of which asks the next";
    Question::of(&batches, &[NATIVE, IMSUP], "byte", what, Unit::MILLISECONDS)
}
