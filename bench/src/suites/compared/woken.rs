//! Many servers that sleep, woken at the same moment.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::IMSUP;
use super::together::address;
use crate::context::Context;
use crate::docker::{Docker, Network};
use crate::project::Project;
use crate::report::{Plot, Question, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::suites::sleep::BY_COMMAND;
use crate::suites::sleep::crowd::{p95, woken_at_once};
use crate::suites::sleep::server::{Client, Connection, Server, echo};
use crate::suites::{CONTROL, NATIVE, docker, native};

const STOPPED: &str = "SIGCONT";
const DOCKER: &str = "docker unpause";

/// All servers, of each variant.
struct Fixture<'a> {
    server: &'a Server,
    names: Vec<String>,
    project: &'a Project<'a>,
    hosts: Vec<Ipv4Addr>,
    natives: Vec<(Ipv4Addr, native::Server)>,
    docker: Option<(Vec<Ipv4Addr>, &'a RefCell<Docker>)>,
}

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let count = context.count(100, 10);
    let docker = docker(context, &mut section, DOCKER, Network::Machine)?;
    let server = echo(context);
    let names: Vec<String> = (1..=count).map(|number| format!("host-{number}")).collect();
    let services: Vec<_> = names
        .iter()
        .map(|name| {
            let mut service = server.service(BY_COMMAND);
            service.name.clone_from(name);
            service
        })
        .collect();
    let project = Project::up(&context.sandbox, &services)?;
    project.wake_all()?;
    let fixture = Fixture {
        server: &server,
        project: &project,
        hosts: project.hosts()?.iter().map(|host| host.address).collect(),
        natives: natives(context, &server, count)?,
        docker: match &docker {
            Some(docker) => Some((contained(&server, &names, docker)?, docker)),
            None => None,
        },
        names,
    };
    let mut batches = Batches::default();
    for connection in Connection::ALL {
        let variants = fixture.measure(context, connection, &mut batches)?;
        let what = connection.what();
        section.plots.push(Plot::of(
            format!("woken-{}", what.replace(' ', "-")),
            format!("{count} servers woken at the same moment, {what}: each reply"),
            Unit::MILLISECONDS,
            &batches,
            &series(connection, "each reply"),
            &variants,
        )?);
        for part in PARTS {
            let series = series(connection, part);
            let title = format!("{count} servers, {series}");
            let question = Question::of(&batches, &variants, &series, title, Unit::MILLISECONDS)?;
            section.rows.extend(question.rows(CONTROL));
        }
    }
    section.note(
        "from the common start to each server's reply, one client for each, threads of one process; native: awake",
    );
    section.note(
        "SIGCONT and docker's unpause are sent one after the other from the common start on, by one who knows that all of them sleep; imsup's \
         hosts are woken by what the clients send",
    );
    Ok(section)
}

/// The notes on each crowd.
const PARTS: [&str; 4] = [
    "first reply",
    "each reply",
    "95th percentile of each crowd",
    "first to last",
];

fn series(connection: Connection, part: &str) -> String {
    format!("{}: {part}", connection.what())
}

fn natives(context: &Context, server: &Server, count: usize) -> Result<Vec<(Ipv4Addr, native::Server)>> {
    let start = |number| {
        let ip = address(number);
        let listens = SocketAddrV4::new(ip, server.port);
        Ok((ip, native::Server::start(context, &server.command(ip), listens)?))
    };
    (0..count).map(start).collect()
}

fn contained(server: &Server, names: &[String], docker: &RefCell<Docker>) -> Result<Vec<Ipv4Addr>> {
    let start = |(number, name): (usize, &String)| {
        let ip = address(names.len() + number);
        let listens = SocketAddrV4::new(ip, server.port);
        docker.borrow_mut().run(name, &server.command(ip), listens)?;
        Ok(ip)
    };
    names.iter().enumerate().map(start).collect()
}

impl Fixture<'_> {
    fn clients(
        &self,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
        connection: Connection,
    ) -> Result<Vec<Client<'_>>> {
        let client = |ip| Client::new(self.server, ip, connection);
        addresses.into_iter().map(client).collect()
    }

    /// Gives all variants turns; returns their names.
    fn measure(&self, context: &Context, connection: Connection, batches: &mut Batches) -> Result<Vec<&'static str>> {
        let native = || self.clients(self.natives.iter().map(|(ip, _)| *ip), connection);
        let (mut awake, mut stopped) = (native()?, native()?);
        let mut hosts = self.clients(self.hosts.iter().copied(), connection)?;
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut turns = vec![
            Turn::new(NATIVE, || crowd(&mut awake, connection, || Ok(()))),
            Turn::new(IMSUP, || {
                self.project.suspend(&names)?;
                crowd(&mut hosts, connection, || Ok(()))
            }),
            Turn::new(STOPPED, || {
                self.natives.iter().try_for_each(|(_, server)| server.stop())?;
                crowd(&mut stopped, connection, || {
                    self.natives.iter().try_for_each(|(_, server)| server.go_on())
                })
            }),
        ];
        if let Some((addresses, docker)) = &self.docker {
            let mut clients = self.clients(addresses.iter().copied(), connection)?;
            turns.push(Turn::new(DOCKER, move || {
                let mut docker = docker.borrow_mut();
                for name in &self.names {
                    docker.pause(name)?;
                }
                crowd(&mut clients, connection, || {
                    self.names.iter().try_for_each(|name| docker.unpause(name))
                })
            }));
        }
        batches.interleave(&mut turns, 1, context.count(9, 3))?;
        Ok(turns.iter().map(|turn| turn.variant).collect())
    }
}

fn crowd(clients: &mut [Client<'_>], connection: Connection, wake: impl FnOnce() -> Result<()>) -> Result<Vec<Series>> {
    let times = woken_at_once(clients, wake)?;
    let (first, last) = (times.first().copied().unwrap_or(0), times.last().copied().unwrap_or(0));
    let samples = [vec![first], times.clone(), vec![p95(&times)], vec![last - first]];
    Ok(PARTS.iter().map(|part| series(connection, part)).zip(samples).collect())
}
