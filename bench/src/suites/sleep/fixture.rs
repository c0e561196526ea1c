//! One server natively, as a host and in a container, taking turns.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::nanoseconds;
use super::server::{Client, Connection, Server};
use super::wakes::{batch, timed};
use crate::context::Context;
use crate::docker::Docker;
use crate::interrupt;
use crate::project::Project;
use crate::report::Section;
use crate::rounds::{Batches, Turn};
use crate::suites::{CONTROL, NATIVE, native};

pub const IMSUP_AWAKE: &str = "imsup, awake";
pub const IMSUP_ASLEEP: &str = "imsup, asleep";
pub const STOPPED: &str = "SIGSTOP";
pub const DOCKER_AWAKE: &str = "docker, awake";
pub const DOCKER_API: &str = "docker, by the API";
pub const DOCKER_COMMAND: &str = "docker, the command";

/// How long putting to sleep took.
pub const SUSPENDING: &str = "suspending";

/// The needs of all rounds of one server.
pub struct Fixture<'a> {
    server: &'a Server,
    project: &'a Project<'a>,
    host: Ipv4Addr,
    first: (Ipv4Addr, native::Server),
    second: (Ipv4Addr, native::Server),
    docker: Option<(Ipv4Addr, &'a RefCell<Docker>)>,
}

/// The measured step, by its name.
pub fn series(server: &Server, connection: Connection) -> String {
    format!("{}, {}", server.what, connection.what())
}

impl<'a> Fixture<'a> {
    /// Starts the server natively, twice, and in a container; a container that does not start is a
    /// gap of the section.
    pub fn set(
        context: &Context,
        project: &'a Project<'a>,
        server: &'a Server,
        docker: Option<&'a RefCell<Docker>>,
        number: u8,
        section: &mut Section,
    ) -> Result<Self> {
        let start = |address: Ipv4Addr| {
            let listens = SocketAddrV4::new(address, server.port);
            let started = native::Server::start(context, &server.command(address), listens)?;
            anyhow::Ok((address, started))
        };
        let container = |docker: &'a RefCell<Docker>| {
            let address = native::address(12 + number);
            let listens = SocketAddrV4::new(address, server.port);
            docker
                .borrow_mut()
                .run(server.name, &server.command(address), listens)?;
            anyhow::Ok((address, docker))
        };
        Ok(Self {
            server,
            project,
            host: project.address(server.name)?,
            first: start(native::address(8 + number))?,
            second: start(native::address(10 + number))?,
            docker: match docker.map(container).transpose() {
                Ok(container) => container,
                Err(why) => {
                    interrupt::check()?;
                    section.gap(server.what, format!("in a container: {why:#}"));
                    None
                }
            },
        })
    }

    /// Has all take turns; where docker fails, the others go on, and that is a gap of the section.
    pub fn measure(
        &self,
        context: &Context,
        connection: Connection,
        batches: &mut Batches,
        section: &mut Section,
    ) -> Result<()> {
        let series = series(self.server, connection);
        let name = series.as_str();
        let count = context.count(50, 10);
        let client = |ip| Client::new(self.server, ip, connection);
        let (mut native, mut again, mut stopped) =
            (client(self.first.0)?, client(self.second.0)?, client(self.first.0)?);
        let (mut awake, mut asleep) = (client(self.host)?, client(self.host)?);
        let mut container = match self.docker {
            Some((ip, docker)) => Some(([client(ip)?, client(ip)?, client(ip)?], docker)),
            None => None,
        };
        // A suspend is a started command. Variants without one start a command that does as little,
        // and wait for as long: caches are as cold.
        let suspension = Cell::new(Duration::ZERO);
        let idle = || {
            let began = Instant::now();
            self.project.resume(&[self.server.name])?;
            interrupt::pause(suspension.get().saturating_sub(began.elapsed()))
        };
        let at_once = || Ok(());
        let mut turns = vec![
            Turn::new(NATIVE, || Ok(vec![batch(name, count, &mut native, idle, at_once)?])),
            Turn::new(CONTROL, || Ok(vec![batch(name, count, &mut again, idle, at_once)?])),
            Turn::new(STOPPED, || {
                let mut stopping = Vec::new();
                let stop = || idle().and_then(|()| timed(&mut stopping, || self.first.1.stop()));
                let replies = batch(name, count, &mut stopped, stop, || self.first.1.go_on())?;
                Ok(vec![replies, (SUSPENDING.to_owned(), stopping)])
            }),
            Turn::new(IMSUP_AWAKE, || Ok(vec![batch(name, count, &mut awake, idle, at_once)?])),
            Turn::new(IMSUP_ASLEEP, || {
                let mut suspending = Vec::new();
                let suspend = || {
                    let began = Instant::now();
                    timed(&mut suspending, || self.project.suspend(&[self.server.name]))?;
                    suspension.set(began.elapsed());
                    Ok(())
                };
                let replies = batch(name, count, &mut asleep, suspend, at_once)?;
                Ok(vec![replies, (SUSPENDING.to_owned(), suspending)])
            }),
        ];
        if let Some(([awake, api, command], docker)) = &mut container {
            let docker: &RefCell<Docker> = docker;
            let host = self.server.name;
            turns.push(Turn::baseline(DOCKER_AWAKE, move || {
                Ok(vec![batch(name, count, awake, idle, at_once)?])
            }));
            turns.push(Turn::baseline(DOCKER_API, move || {
                let mut pausing = Vec::new();
                let pause = || {
                    pausing.push(nanoseconds(docker.borrow_mut().pause(host)?));
                    Ok(())
                };
                let unpause = || docker.borrow_mut().unpause(host);
                let replies = batch(name, context.count(20, 3), api, pause, unpause)?;
                Ok(vec![replies, (SUSPENDING.to_owned(), pausing)])
            }));
            turns.push(Turn::baseline(DOCKER_COMMAND, move || {
                let pause = || docker.borrow_mut().pause(host).map(drop);
                let unpause = || docker.borrow().unpause_by_command(host);
                Ok(vec![batch(name, context.count(5, 2), command, pause, unpause)?])
            }));
        }
        batches
            .interleave(&mut turns, 1, context.count(20, 4))
            .with_context(|| series.clone())?;
        section.gaps_of(&series, &turns);
        Ok(())
    }
}
