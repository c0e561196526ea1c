//! Whole clusters: the time until they serve, from nothing and after a member's death.

mod etcd;
mod zookeeper;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{NATIVE, native};
use crate::command;
use crate::context::{Context, repository};
use crate::interrupt;
use crate::project::Project;
use crate::report::{Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;

const IMSUP: &str = "hosts";
const MEMBERS: usize = 3;
/// No step here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most time for one question; a question that waits for a new leader is repeated.
const QUESTION: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// The measured step, and the beginning of its line.
const NOTHING: (&str, &str) = ("nothing", "from nothing until the first member serves");
const FOLLOWER: (&str, &str) = ("follower", "a follower is killed, until it serves again");
const LEADER: (&str, &str) = ("leader", "the leader is killed, until that member serves again");

/// A command for each member.
type Commands = [Vec<String>; MEMBERS];

/// A cluster of `examples/`.
struct Cluster {
    /// The name of the cluster.
    what: &'static str,
    /// Its example.
    example: &'static str,
    /// The members' hosts.
    hosts: [&'static str; MEMBERS],
    /// The port for clients.
    port: u16,
    /// The reason why the cluster cannot be measured.
    missing: Option<&'static str>,
    /// The commands of the same members outside imsup, at these addresses.
    commands: fn(&Context, [Ipv4Addr; MEMBERS]) -> Result<Commands>,
    /// A member's own role, if it serves.
    role: fn(SocketAddrV4) -> Option<Role>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Leader,
    Follower,
}

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    for cluster in [zookeeper::cluster(), etcd::cluster()] {
        let measured = match cluster.missing {
            Some(missing) => bail_missing(missing),
            None => measure(context, &cluster),
        };
        match measured.and_then(|batches| rows(&cluster, &batches)) {
            Ok(rows) => section.rows.extend(rows),
            Err(error) => {
                interrupt::check()?;
                section.gap(cluster.what, format!("{error:#}"));
            }
        }
    }
    section.note("natively: all three started at the same moment; one that was killed is started again at once, as if by hand without any delay");
    section.note("hosts: a client connects to the first member, and nothing runs; one that was killed is booted by the next connection, of a peer or of the client that asks whether it serves");
    section.note("times include what the members themselves take: a JVM's start, elections, etcd's second for each peer that does not answer yet");
    Ok(section)
}

fn bail_missing(missing: &str) -> Result<Batches> {
    bail!("{missing}")
}

fn rows(cluster: &Cluster, batches: &Batches) -> Result<Vec<Row>> {
    let unit = Unit::MILLISECONDS;
    let row = |(series, what): (&str, &str)| {
        let [native, imsup] = [NATIVE, IMSUP].map(|variant| batches.measured(variant, series, unit));
        Ok(Row::compare(
            format!("{}: {what}", cluster.what),
            unit,
            &native?,
            &imsup?,
        ))
    };
    [NOTHING, FOLLOWER, LEADER].into_iter().map(row).collect()
}

fn measure(context: &Context, cluster: &Cluster) -> Result<Batches> {
    let directory = context.sandbox.directory();
    let compose = repository().join("examples").join(cluster.example).join("compose.yaml");
    let killed: String = cluster
        .hosts
        .map(|host| format!("  {host}: {{stop_signal: SIGKILL}}\n"))
        .concat();
    let ends = directory.join(format!("{}-ends.yaml", cluster.example));
    command::write_file(&ends, &format!("services:\n{killed}"))?;
    let data = directory.join(format!("{}-data", cluster.example));
    let project = Project::up_files(&context.sandbox, &[&compose, &ends], &[("DATA", &data)])?;
    let mut hosts = Hosts::new(&project, cluster)?;
    let mut natives = Natives::new(context, cluster)?;
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(NATIVE, || batch(cluster, &mut natives)),
        Turn::new(IMSUP, || batch(cluster, &mut hosts)),
    ];
    batches.interleave(&mut turns, 1, context.count(10, 2))?;
    Ok(batches)
}

/// The members, natively or as hosts.
trait Members {
    fn addresses(&self) -> [SocketAddrV4; MEMBERS];
    /// Ends all.
    fn end_all(&mut self) -> Result<()>;
    /// Brings the cluster into existence again; for hosts a connection may still be needed.
    fn begin_all(&mut self) -> Result<()>;
    /// Kills a member, starts it again unless a connection does, and returns the moment of the
    /// kill.
    fn kill(&mut self, member: usize) -> Result<Instant>;
}

/// One sample of each; at the end no member runs: the other variant has the machine to itself.
fn batch(cluster: &Cluster, members: &mut impl Members) -> Result<Vec<Series>> {
    let addresses = members.addresses();
    let start = Instant::now();
    members.begin_all()?;
    until_it_serves(cluster, addresses[0])?;
    let mut series = vec![sample(NOTHING, start)];
    for (what, role) in [(FOLLOWER, Role::Follower), (LEADER, Role::Leader)] {
        let member = member_that_is(cluster, addresses, role)?;
        let killed = members.kill(member)?;
        until_it_serves(cluster, addresses[member])?;
        series.push(sample(what, killed));
    }
    members.end_all()?;
    Ok(series)
}

fn sample((name, _): (&str, &str), start: Instant) -> Series {
    let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    (name.to_owned(), vec![elapsed])
}

fn until_it_serves(cluster: &Cluster, address: SocketAddrV4) -> Result<()> {
    until(|| (cluster.role)(address)).with_context(|| format!("{address} does not serve"))?;
    Ok(())
}

/// Waits until all members serve and one leads, and returns such a member.
fn member_that_is(cluster: &Cluster, addresses: [SocketAddrV4; MEMBERS], wanted: Role) -> Result<usize> {
    let found = until(|| {
        let roles = addresses.map(cluster.role);
        let count = |role| roles.iter().filter(|found| **found == Some(role)).count();
        let complete = count(Role::Leader) == 1 && count(Role::Follower) == MEMBERS - 1;
        roles.iter().position(|role| *role == Some(wanted)).filter(|_| complete)
    });
    found.context("the cluster has no leader that all follow")
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {} s", PATIENCE.as_secs());
        }
        interrupt::pause(LOOK)?;
    }
}

/// Asks a question over a connection of its own, and returns the reply; `None` without a timely
/// reply.
fn ask(address: SocketAddrV4, question: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(QUESTION)).ok()?;
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

struct Natives<'a> {
    context: &'a Context,
    commands: Commands,
    addresses: [SocketAddrV4; MEMBERS],
    running: [Option<native::Server>; MEMBERS],
}

impl<'a> Natives<'a> {
    fn new(context: &'a Context, cluster: &Cluster) -> Result<Self> {
        let addresses = [5, 6, 7].map(native::address);
        Ok(Self {
            context,
            commands: (cluster.commands)(context, addresses)?,
            addresses: addresses.map(|address| SocketAddrV4::new(address, cluster.port)),
            running: [const { None }; MEMBERS],
        })
    }
}

impl Members for Natives<'_> {
    fn addresses(&self) -> [SocketAddrV4; MEMBERS] {
        self.addresses
    }

    fn end_all(&mut self) -> Result<()> {
        self.running = [const { None }; MEMBERS];
        Ok(())
    }

    fn begin_all(&mut self) -> Result<()> {
        for (running, command) in self.running.iter_mut().zip(&self.commands) {
            *running = Some(native::Server::spawn(self.context, command)?);
        }
        Ok(())
    }

    fn kill(&mut self, member: usize) -> Result<Instant> {
        let killed = Instant::now();
        self.running[member] = None;
        self.running[member] = Some(native::Server::spawn(self.context, &self.commands[member])?);
        Ok(killed)
    }
}

struct Hosts<'a> {
    project: &'a Project<'a>,
    names: [&'static str; MEMBERS],
    addresses: [SocketAddrV4; MEMBERS],
}

impl<'a> Hosts<'a> {
    fn new(project: &'a Project<'a>, cluster: &Cluster) -> Result<Self> {
        let mut addresses = [SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, cluster.port); MEMBERS];
        for (address, host) in addresses.iter_mut().zip(cluster.hosts) {
            address.set_ip(project.address(host)?);
        }
        Ok(Self {
            project,
            names: cluster.hosts,
            addresses,
        })
    }
}

impl Members for Hosts<'_> {
    fn addresses(&self) -> [SocketAddrV4; MEMBERS] {
        self.addresses
    }

    fn end_all(&mut self) -> Result<()> {
        self.project.stop_all()
    }

    fn begin_all(&mut self) -> Result<()> {
        Ok(())
    }

    fn kill(&mut self, member: usize) -> Result<Instant> {
        let name = self.names[member];
        let host = self.project.hosts()?.into_iter().find(|host| host.name == name);
        let pid = host
            .and_then(|host| host.pid)
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let killed = Instant::now();
        kill_process(pid.context("a member does not run")?, Signal::KILL).context("killing a member")?;
        Ok(killed)
    }
}

/// A directory for the state of a native member.
fn directory(context: &Context, cluster: &str, member: usize) -> Result<PathBuf> {
    let path = context.sandbox.directory().join(format!("{cluster}-native-{member}"));
    std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// A shell's command line as a command; standard error goes to a file, as a host's does.
fn shell(line: &str) -> Vec<String> {
    ["sh", "-c", line].map(str::to_owned).to_vec()
}
