//! A thousand hosts at once: their cost awake and asleep, and their wakes.

mod rows;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::server::{Client, Connection, Server};
use super::wakes::batch;
use super::{ASLEEP, AWAKE, BY_COMMAND, crowd, one, server};
use crate::context::Context;
use crate::interrupt;
use crate::process::{self, Kernel, Memory};
use crate::project::Project;
use crate::report::Section;
use crate::rounds::{Batches, Series};

/// How many wake at the same moment.
const CROWD: usize = 100;
/// How long the kernel is given to free what was closed: sockets are freed after a grace period of
/// RCU, in the background.
const SETTLE: Duration = Duration::from_millis(500);

/// After this time the start of the last host is over: it listens and has been quiet for 5 s, which
/// imsup watches.
const STARTED: Duration = Duration::from_secs(6);

/// One sleeper, and no other host.
const ALONE: &str = "alone";

pub fn run(context: &Context) -> Result<Section> {
    let hosts = context.count(1_000, 120);
    let runs = context.count(3, 1);
    let server = server::echo(context);
    let mut batches = Batches::default();
    for _ in 0..runs {
        alone(context, &server, &mut batches)?;
        together(context, &server, hosts, &mut batches)?;
    }
    let mut section = Section {
        columns: Some([AWAKE, ASLEEP]),
        ..Section::default()
    };
    section.rows = rows::all(&batches, hosts)?;
    rows::notes(&mut section, runs, hosts, watched(context));
    Ok(section)
}

/// The time of watching the hosts' cost without requests.
pub fn watched(context: &Context) -> Duration {
    Duration::from_secs(context.count(10, 2) as u64)
}

/// One sleeper, and no other.
fn alone(context: &Context, server: &Server, batches: &mut Batches) -> Result<()> {
    let project = Project::up(&context.sandbox, &[server.service(BY_COMMAND)])?;
    project.wake_all()?;
    let ip = project.address(server.name)?;
    for connection in Connection::ALL {
        let mut client = Client::new(server, ip, connection)?;
        for _ in 0..context.count(10, 2) {
            interrupt::check()?;
            let suspend = || project.suspend(&[server.name]);
            batches.add(
                ALONE,
                vec![batch(
                    connection.what(),
                    context.count(50, 10),
                    &mut client,
                    suspend,
                    || Ok(()),
                )?],
            );
        }
    }
    Ok(())
}

/// A project of many hosts, and the state before it.
struct Many<'a> {
    context: &'a Context,
    server: &'a Server,
    project: Project<'a>,
    before: Kernel,
    names: Vec<String>,
    addresses: Vec<Ipv4Addr>,
}

fn together(context: &Context, server: &Server, hosts: usize, batches: &mut Batches) -> Result<()> {
    let many = Many::up(context, server, hosts)?;
    interrupt::pause(STARTED)?;
    batches.add(AWAKE, many.cost()?);
    many.suspend(&many.all())?;
    batches.add(ASLEEP, many.cost()?);
    many.wakes(batches)?;
    many.crowds(batches)
}

/// The cost of this many sleepers.
///
/// # Errors
/// The hosts do not sleep.
pub fn asleep(context: &Context, server: &Server, hosts: usize) -> Result<Vec<Series>> {
    let many = Many::up(context, server, hosts)?;
    if !context.quick {
        interrupt::pause(STARTED)?;
    }
    many.suspend(&many.all())?;
    many.cost()
}

impl<'a> Many<'a> {
    /// So many, all awake.
    fn up(context: &'a Context, server: &'a Server, hosts: usize) -> Result<Self> {
        interrupt::pause(SETTLE)?;
        let before = process::kernel()?;
        let service = |number| {
            let mut service = server.service(BY_COMMAND);
            service.name = format!("host-{number}");
            service
        };
        let services: Vec<_> = (1..=hosts).map(service).collect();
        let project = Project::up(&context.sandbox, &services)?;
        project.wake_all()?;
        let listed = project.hosts()?;
        Ok(Self {
            context,
            server,
            project,
            before,
            addresses: listed.iter().map(|host| host.address).collect(),
            names: listed.into_iter().map(|host| host.name).collect(),
        })
    }

    fn all(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// Suspends these, and makes sure that no host is awake.
    fn suspend(&self, hosts: &[&str]) -> Result<()> {
        self.project.suspend(hosts)?;
        let awake = self.project.hosts()?.into_iter().find(|host| host.state != "suspended");
        ensure!(awake.is_none(), "{awake:?} is not suspended");
        Ok(())
    }

    /// Processor time of all hosts, and memory for each.
    fn cost(&self) -> Result<Vec<Series>> {
        interrupt::pause(SETTLE)?;
        let now = process::kernel()?;
        let broker = self.project.broker()?;
        let supervisors = self
            .names
            .iter()
            .map(|name| self.project.supervisor(name))
            .collect::<Result<Vec<_>>>()?;
        let mut programs = Vec::new();
        for supervisor in &supervisors {
            programs.extend(process::descendants(*supervisor)?);
        }
        let memory =
            |processes: &[u32]| -> Result<Vec<Memory>> { processes.iter().map(|pid| process::memory(*pid)).collect() };
        let private = |processes: &[Memory]| processes.iter().map(|memory| memory.private).collect();
        let all = |processes: &[Memory]| processes.iter().map(|memory| memory.proportional).sum::<u64>();
        let count = self.names.len() as u64;
        let of_kernel = |part: fn(&Kernel) -> u64| part(&now).saturating_sub(part(&self.before)) / count;
        let of = (process::memory(broker)?, memory(&supervisors)?, memory(&programs)?);
        let processes = (of.0.proportional + all(&of.1) + all(&of.2)) / count;
        let mut series = vec![
            ("supervisor".to_owned(), private(&of.1)),
            ("program".to_owned(), private(&of.2)),
            one("broker", of.0.private / count),
            one("processes", processes),
            one("all", processes + of_kernel(Kernel::whole)),
            one("slab", of_kernel(|kernel| kernel.slab)),
            one("percpu", of_kernel(|kernel| kernel.percpu)),
            one("kernel", of_kernel(Kernel::whole)),
            one("available", self.before.available.saturating_sub(now.available) / count),
        ];
        let everyone: Vec<u32> = [broker].into_iter().chain(supervisors).chain(programs).collect();
        series.push(one("cpu", process::cpu_share(&everyone, watched(self.context))?));
        Ok(series)
    }

    /// One host among all sleepers.
    fn wakes(&self, batches: &mut Batches) -> Result<()> {
        let (rounds, count) = (self.context.count(10, 2), self.context.count(50, 10));
        let (name, ip) = (self.names[0].as_str(), self.addresses[0]);
        for connection in Connection::ALL {
            let mut client = Client::new(self.server, ip, connection)?;
            for _ in 0..rounds {
                interrupt::check()?;
                let suspend = || self.project.suspend(&[name]);
                batches.add(
                    ASLEEP,
                    vec![batch(connection.what(), count, &mut client, suspend, || Ok(()))?],
                );
            }
        }
        self.suspend(&[name])?;
        // Each of the others once, and before each the same command as above.
        for (names, addresses) in self.names[1..].chunks(count).zip(self.addresses[1..].chunks(count)) {
            interrupt::check()?;
            let mut times = Vec::with_capacity(names.len());
            for ip in addresses {
                self.project.resume(&[name])?;
                let mut client = Client::new_unasked(self.server, *ip);
                times.extend(batch("", 1, &mut client, || Ok(()), || Ok(()))?.1);
            }
            batches.add(ASLEEP, vec![("for long".to_owned(), times)]);
            let names: Vec<&str> = names.iter().map(String::as_str).chain([name]).collect();
            self.suspend(&names)?;
        }
        Ok(())
    }

    /// Many at the same moment.
    fn crowds(&self, batches: &mut Batches) -> Result<()> {
        let count = CROWD.min(self.names.len());
        let names: Vec<&str> = self.names[..count].iter().map(String::as_str).collect();
        for connection in Connection::ALL {
            let clients = self.addresses[..count]
                .iter()
                .map(|ip| Client::new(self.server, *ip, connection));
            let mut clients = clients.collect::<Result<Vec<_>>>()?;
            for _ in 0..self.context.count(10, 3) {
                interrupt::check()?;
                self.suspend(&names)?;
                for variant in [ASLEEP, AWAKE] {
                    let times = crowd::at_once(&mut clients).with_context(|| format!("{count} clients at once"))?;
                    let series = format!("{} at once", connection.what());
                    batches.add(
                        variant,
                        vec![one(format!("{series}, p95"), crowd::p95(&times)), (series, times)],
                    );
                }
            }
            drop(clients);
            self.suspend(&names)?;
        }
        Ok(())
    }
}
