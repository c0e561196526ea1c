//! The data paths from a client to a server: natively, by imsup, in containers, by a relay, by an
//! interposer.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::servers::Server;
use super::{DOCKER, IMSUP, INTERPOSER, PROXYD};
use crate::baselines::interposer::Interposer;
use crate::baselines::systemd::{Activated, Systemd};
use crate::context::Context;
use crate::docker::{Docker, Network};
use crate::interrupt;
use crate::listening::wait_for;
use crate::project::Project;
use crate::report::Section;
use crate::rounds::{Series, Turn};
use crate::suites::{CONTROL, NATIVE, docker, native};

/// The container in which clients run.
const CLIENT: &str = "client";

/// All data paths, natively first.
pub const DATA_PATHS: [&str; 6] = [NATIVE, CONTROL, IMSUP, PROXYD, INTERPOSER, DOCKER];

/// The available baselines, kept for a whole suite; a missing baseline is a named gap.
pub struct Baselines {
    systemd: Option<Systemd>,
    interposer: Option<Interposer>,
    docker: Option<RefCell<Docker>>,
}

impl Baselines {
    /// Finds and starts the baselines.
    ///
    /// # Errors
    /// A signal came.
    pub fn start(context: &Context, section: &mut Section) -> Result<Self> {
        let systemd = found(section, PROXYD, Systemd::find(context));
        let interposer = found(section, INTERPOSER, Interposer::find(context));
        let docker = docker(context, section, DOCKER, Network::Bridge)?;
        let docker = docker.and_then(|docker| found(section, DOCKER, with_client(docker)));
        interrupt::check()?;
        Ok(Self {
            systemd,
            interposer,
            docker,
        })
    }
}

/// With the container in which clients run.
fn with_client(docker: RefCell<Docker>) -> Result<RefCell<Docker>> {
    let mut inner = docker.borrow_mut();
    inner.create(CLIENT, &["sleep".to_owned(), "infinity".to_owned()])?;
    inner.begin(CLIENT)?;
    drop(inner);
    Ok(docker)
}

fn found<T>(section: &mut Section, what: &str, result: Result<T>) -> Option<T> {
    result.map_err(|error| section.gap(what, format!("{error:#}"))).ok()
}

/// One data path to a server.
pub struct DataPath<'a> {
    /// The variant.
    pub name: &'static str,
    /// The address of the server.
    pub address: Ipv4Addr,
    client: Box<dyn Fn(&Path) -> Command + 'a>,
}

impl DataPath<'_> {
    /// A client program on this data_path.
    pub fn client(&self, program: &Path) -> Command {
        (self.client)(program)
    }

    /// Takes turns on this path; a baseline may fail.
    pub fn turn<'b>(&self, take: impl FnMut() -> Result<Vec<Series>> + 'b) -> Turn<'b> {
        match self.name {
            NATIVE | CONTROL | IMSUP => Turn::new(self.name, take),
            baseline => Turn::baseline(baseline, take),
        }
    }
}

/// One server, started once for each data path.
pub struct Fixture<'a> {
    baselines: &'a Baselines,
    project: Project<'a>,
    server: &'a Server,
    first: Ipv4Addr,
    second: Ipv4Addr,
    relay: Option<(Ipv4Addr, Vec<Activated>)>,
    container: Option<Ipv4Addr>,
    _servers: [native::Server; 2],
}

impl<'a> Fixture<'a> {
    /// Starts the server natively twice, as a host, in a container, and behind a relay; a baseline
    /// that does not is a named gap.
    ///
    /// # Errors
    /// The server does not start natively or as a host, or a signal came.
    pub fn set(
        context: &'a Context,
        baselines: &'a Baselines,
        server: &'a Server,
        section: &mut Section,
    ) -> Result<Self> {
        let (first, second) = (native::address(20), native::address(21));
        let start = |address| {
            let listens = SocketAddrV4::new(address, server.port);
            native::Server::start(context, &server.command(address), listens)
        };
        let servers = [start(first)?, start(second)?];
        let project = Project::up(&context.sandbox, &[server.service()])?;
        project.wake(server.name)?;
        let named = |baseline: &str| format!("{}: {baseline}", server.name);
        let relay = baselines.systemd.as_ref();
        let relay = relay.and_then(|systemd| found(section, &named(PROXYD), relayed(systemd, server, first)));
        let container = baselines.docker.as_ref();
        let container = container.and_then(|docker| found(section, &named(DOCKER), contained(docker, server)));
        interrupt::check()?;
        Ok(Self {
            baselines,
            project,
            server,
            first,
            second,
            relay,
            container,
            _servers: servers,
        })
    }

    /// The server's.
    pub fn server_name(&self) -> &'static str {
        self.server.name
    }

    /// All data paths to the server.
    ///
    /// # Errors
    /// imsup does not know the host.
    pub fn data_paths(&self) -> Result<Vec<DataPath<'_>>> {
        let data_path = |name, address| DataPath {
            name,
            address,
            client: Box::new(|program: &Path| Command::new(program)),
        };
        let mut data_paths = vec![data_path(NATIVE, self.first), data_path(CONTROL, self.second)];
        data_paths.push(DataPath {
            name: IMSUP,
            address: self.project.address(self.server.name)?,
            client: Box::new(|program| {
                let mut command = self.project.supervised(None);
                command.arg(program);
                command
            }),
        });
        if let Some((address, _)) = &self.relay {
            data_paths.push(data_path(PROXYD, *address));
        }
        if let Some(interposer) = &self.baselines.interposer {
            data_paths.push(DataPath {
                name: INTERPOSER,
                address: self.first,
                client: Box::new(|program| interposer.command(program)),
            });
        }
        if let (Some(address), Some(docker)) = (self.container, &self.baselines.docker) {
            data_paths.push(DataPath {
                name: DOCKER,
                address,
                client: Box::new(|program| {
                    let mut command = docker.borrow().exec(CLIENT);
                    command.arg(program);
                    command
                }),
            });
        }
        Ok(data_paths)
    }
}

impl Drop for Fixture<'_> {
    fn drop(&mut self) {
        if let Some(docker) = &self.baselines.docker {
            // A container that never existed is no error. The next fixture may have the same
            // server.
            let _ = docker.borrow_mut().remove(self.server.name);
        }
    }
}

/// In a container, whose address is returned.
fn contained(docker: &RefCell<Docker>, server: &Server) -> Result<Ipv4Addr> {
    let mut docker = docker.borrow_mut();
    docker.create(server.name, &server.command(Ipv4Addr::UNSPECIFIED))?;
    docker.begin(server.name)?;
    docker.address(server.name)
}

/// A relay before each of its ports, on an address of its own.
fn relayed(systemd: &Systemd, server: &Server, to: Ipv4Addr) -> Result<(Ipv4Addr, Vec<Activated>)> {
    let address = native::address(22);
    let ports = [server.port].into_iter().chain(server.more.iter().copied());
    let relays = ports.map(|port| {
        let relay = systemd.relay(SocketAddrV4::new(address, port), SocketAddrV4::new(to, port))?;
        // The first connection starts the relay.
        wait_for(SocketAddrV4::new(address, port)).context("the relay")?;
        anyhow::Ok(relay)
    });
    Ok((address, relays.collect::<Result<_>>()?))
}
