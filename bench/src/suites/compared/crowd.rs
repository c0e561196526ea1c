//! Many clients at once at one sleeper.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};

use super::IMSUP;
use crate::baselines::systemd::Systemd;
use crate::context::Context;
use crate::docker::{Docker, Network};
use crate::project::Project;
use crate::report::{Plot, Question, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::sleep::crowd::at_once;
use crate::suites::sleep::server::{Client, Server, echo};
use crate::suites::{CONTROL, NATIVE, docker, native};

const ACTIVATE: &str = "systemd-socket-activate";
const DOCKER: &str = "docker unpause";
const AWAKE: &str = "imsup, awake";
const CROWDS: [usize; 2] = [300, 1_000];

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let systemd = Systemd::find(context)
        .map_err(|why| section.gap(ACTIVATE, format!("{why:#}")))
        .ok();
    let docker = docker(context, &mut section, DOCKER, Network::Machine)?;
    let server = echo(context);
    let project = Project::up(&context.sandbox, &[server.service("idle_after: 1h")])?;
    project.wake(server.name)?;
    let host = project.address(server.name)?;
    let start = |ip: Ipv4Addr| {
        let listens = SocketAddrV4::new(ip, server.port);
        native::Server::start(context, &server.command(ip), listens)
    };
    let (first, second) = (native::address(40), native::address(41));
    let _servers = [start(first)?, start(second)?];
    let contained = native::address(42);
    if let Some(docker) = &docker {
        let listens = SocketAddrV4::new(contained, server.port);
        docker.borrow_mut().run("crowd", &server.command(contained), listens)?;
    }
    let activated = native::address(43);
    let mut batches = Batches::default();
    for crowd in CROWDS {
        let crowded = |ip| crowded(&server, ip, crowd);
        let mut turns = vec![
            Turn::new(NATIVE, || crowded(first)),
            Turn::new(CONTROL, || crowded(second)),
            Turn::new(AWAKE, || {
                project.resume(&[server.name])?;
                crowded(host)
            }),
            Turn::new(IMSUP, || {
                project.suspend(&[server.name])?;
                crowded(host)
            }),
        ];
        if let Some(systemd) = &systemd {
            turns.push(Turn::baseline(ACTIVATE, || {
                let at = SocketAddrV4::new(activated, server.port);
                let _waits = systemd.activate(at, &server.command(activated))?;
                crowded(activated)
            }));
        }
        if let Some(docker) = &docker {
            turns.push(Turn::baseline(DOCKER, || unpaused(docker, || crowded(contained))));
        }
        batches.interleave(&mut turns, 1, context.count(15, 2))?;
        section.gaps_of(&format!("{crowd} clients"), &turns);
        let unit = Unit::MILLISECONDS;
        let variants: Vec<_> = turns.iter().map(|turn| turn.variant).collect();
        drop(turns);
        section.plots.push(Plot::of(
            format!("crowd-{crowd}"),
            format!("{crowd} clients at once at one server: each reply"),
            unit,
            &batches,
            &format!("reply, {crowd}"),
            &variants,
        )?);
        for (series, what) in [("reply", "each reply"), ("last", "the last reply")] {
            let series = format!("{series}, {crowd}");
            let what = format!("{crowd} clients, {what}");
            let question = Question::of(&batches, &variants, &series, what, unit)?;
            section.rows.extend(question.rows(CONTROL));
        }
    }
    section.note(
        "from the common start to each client's reply, on a new connection; the clients are threads of one process",
    );
    section.note("native: awake; 'native again': the noise; docker: unpause by the API is sent at the start by one who knows that the server \
                  sleeps, the clients are not the ones who wake it");
    section
        .note("systemd-socket-activate starts the server anew, which is more than waking it: systemd does not suspend");
    Ok(section)
}

fn crowded(server: &Server, ip: Ipv4Addr, crowd: usize) -> Result<Vec<Series>> {
    let mut clients: Vec<_> = (0..crowd).map(|_| Client::new_unasked(server, ip)).collect();
    let times = at_once(&mut clients).with_context(|| format!("{crowd} clients at {ip}"))?;
    let last = times.last().copied().unwrap_or_default();
    Ok(vec![
        (format!("reply, {crowd}"), times),
        (format!("last, {crowd}"), vec![last]),
    ])
}

/// Pauses, and unpauses while the crowd comes.
fn unpaused(docker: &RefCell<Docker>, crowd: impl FnOnce() -> Result<Vec<Series>> + Send) -> Result<Vec<Series>> {
    let mut docker = docker.borrow_mut();
    docker.pause("crowd")?;
    let docker: &mut Docker = &mut docker;
    std::thread::scope(|scope| {
        let crowd = scope.spawn(crowd);
        let unpaused = docker.unpause("crowd");
        let series = crowd.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        unpaused.and(series)
    })
}
