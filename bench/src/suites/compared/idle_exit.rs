//! systemd's answer to an unused server: systemd-socket-proxyd(8) ends after an idle time, the
//! server with it, and the next connection starts both.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::baselines::manager::Manager;
use crate::baselines::systemd;
use crate::baselines::units::{self, Unit};
use crate::context::Context;
use crate::interrupt;
use crate::project::Project;
use crate::report::{Bound, Plot, Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit as Measure;
use crate::suites::sleep::server::{self, Client, Connection, Server};
use crate::suites::sleep::wakes::batch;
use crate::suites::{NATIVE, native};

const PROXYD: &str = "systemd-socket-proxyd";
const PROXYD_RUNS: &str = "systemd-socket-proxyd, running";
const PROXYD_ENDED: &str = "systemd-socket-proxyd, after its idle exit";
const IMSUP_AWAKE: &str = "imsup, awake";
const IMSUP_ASLEEP: &str = "imsup, suspended";
const IMSUP_ENDED: &str = "imsup, not running";
/// The idle time before the end.
const IDLE: Duration = Duration::from_millis(100);
/// The start takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, its units, and its addresses.
struct Served {
    server: Server,
    proxy: String,
    /// The relay's address.
    at: Ipv4Addr,
    socket: Unit,
    services: [Unit; 2],
}

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section {
        columns: Some(["running", "not running"]),
        ..Section::default()
    };
    let mut servers = vec![(server::echo(context), "")];
    match server::redis() {
        Ok(redis) => servers.push((redis, " --supervised systemd")),
        Err(why) => section.gap("redis", format!("{why:#}")),
    }
    let served: Result<Vec<Served>> = (0..)
        .zip(servers)
        .map(|(number, server)| serve(server, number))
        .collect();
    let started = served.and_then(|served| {
        let services: Vec<Unit> = served.iter().flat_map(|one| one.services.clone()).collect();
        let sockets: Vec<Unit> = served.iter().map(|one| one.socket.clone()).collect();
        let manager = Manager::start(context, &services, &sockets, PATIENCE)?;
        section.note(Manager::version()?);
        Ok((served, manager))
    });
    interrupt::check()?;
    let (served, manager) = match started {
        Ok(started) => started,
        Err(why) => {
            section.gap(PROXYD, format!("{why:#}"));
            return Ok(section);
        }
    };
    let services: Vec<_> = served.iter().map(|one| one.server.service("idle_after: 1h")).collect();
    let project = Project::up(&context.sandbox, &services)?;
    for (number, one) in (0..).zip(&served) {
        measure(context, &manager, &project, one, number, &mut section)?;
    }
    section.gap(
        &format!("{PROXYD}, held connection"),
        "it ends only when it has no connection (systemd-socket-proxyd(8)): while one is held, relay and server go on running",
    );
    notes(&mut section);
    Ok(section)
}

/// systemd's own recipe: EXAMPLES and `--exit-idle-time=` of systemd-socket-proxyd(8).
fn serve((server, more): (Server, &str), number: u8) -> Result<Served> {
    let (at, behind) = (native::address(44 + number), native::address(46 + number));
    let (name, proxy) = (server.name, format!("{}-proxy", server.name));
    let mut words = server.command(behind);
    words.extend(more.split_whitespace().map(str::to_owned));
    let relay = [
        systemd::library(PROXYD)?.to_string_lossy().into_owned(),
        format!("--exit-idle-time={}ms", IDLE.as_millis()),
        format!("{behind}:{}", server.port),
    ];
    let needs = format!("Requires={name}.service {name}.socket\nAfter={name}.service {name}.socket\n");
    Ok(Served {
        at,
        socket: units::socket(name, SocketAddrV4::new(at, server.port), &proxy, None),
        services: [
            units::service(name, "notify", &words, "StopWhenUnneeded=yes\n", None),
            units::service(&proxy, "simple", &relay, &needs, None),
        ],
        proxy,
        server,
    })
}

fn measure(
    context: &Context,
    manager: &Manager,
    project: &Project<'_>,
    served: &Served,
    number: u8,
    section: &mut Section,
) -> Result<()> {
    let server = &served.server;
    let name = server.name;
    let both = [name, served.proxy.as_str()];
    let (first, host) = (native::address(48 + number), project.address(name)?);
    let _native = native::Server::start(context, &server.command(first), SocketAddrV4::new(first, server.port))?;
    let (many, few) = (context.count(20, 5), context.count(5, 2));
    let reply = |count, ip, before: &dyn Fn() -> Result<()>| -> Result<_> {
        let mut client = Client::new_unasked(server, ip);
        Ok(vec![batch("reply", count, &mut client, before, || Ok(()))?])
    };
    let nothing = || Ok(());
    let ended = || manager.wait_until_ended(&both);
    project.wake(name)?;
    let mut turns = [
        Turn::new(NATIVE, || reply(many, first, &nothing)),
        Turn::new(IMSUP_AWAKE, || {
            project.resume(&[name])?;
            reply(many, host, &nothing)
        }),
        Turn::new(IMSUP_ASLEEP, || {
            project.wake(name)?;
            reply(many, host, &|| project.suspend(&[name]))
        }),
        Turn::new(IMSUP_ENDED, || reply(few, host, &|| project.stop(name))),
        Turn::new(PROXYD_RUNS, || {
            // A held connection keeps the relay running.
            let _held = Client::new(server, served.at, Connection::Held)?;
            reply(many, served.at, &nothing)
        }),
        Turn::new(PROXYD_ENDED, || reply(few, served.at, &ended)),
    ];
    let mut batches = Batches::default();
    batches
        .interleave(&mut turns, 1, context.count(15, 2))
        .context(server.what)?;
    drop(turns);
    rows(server, &batches, section)
}

fn rows(server: &Server, batches: &Batches, section: &mut Section) -> Result<()> {
    let unit = Measure::MICROSECONDS;
    let of = |variant| batches.measured(variant, "reply", unit);
    let row = |what: &str, from, to| {
        let what = format!("{}, new connection: {what}", server.what);
        anyhow::Ok(Row::compare(what, unit, &of(from)?, &of(to)?))
    };
    let better = |what: &str, imsup| Ok(row(what, PROXYD_ENDED, imsup)?.expect(Bound::Times(1.0)));
    let rows: [Result<Row>; 6] = [
        row("imsup, suspended", IMSUP_AWAKE, IMSUP_ASLEEP),
        row("imsup, ended", IMSUP_AWAKE, IMSUP_ENDED),
        row("systemd-socket-proxyd, idle exit", PROXYD_RUNS, PROXYD_ENDED),
        row("native, and systemd-socket-proxyd, both running", NATIVE, PROXYD_RUNS),
        better("systemd-socket-proxyd, idle exit, and imsup suspended", IMSUP_ASLEEP),
        better("systemd-socket-proxyd, idle exit, and imsup ended", IMSUP_ENDED),
    ];
    for row in rows {
        section.rows.push(row?);
    }
    section.plots.push(Plot::of(
        format!("idle-exit-{}", server.name),
        format!("the first reply of {}, on a new connection", server.what),
        unit,
        batches,
        "reply",
        &[
            NATIVE,
            IMSUP_AWAKE,
            IMSUP_ASLEEP,
            IMSUP_ENDED,
            PROXYD_RUNS,
            PROXYD_ENDED,
        ],
    )?);
    Ok(())
}

fn notes(section: &mut Section) {
    section.note("from before connect(2) to the reply, on a connection made for it; where a line has two systems, its columns are these in turn");
    section.note(
        "systemd: a whole one, as process 1 of namespaces of its own. A socket unit starts systemd-socket-proxyd, which requires the server's \
         service; that has StopWhenUnneeded=yes and is ready when it says so (Type=notify: redis by '--supervised systemd', this crate's server \
         by sd_notify(3)), or the relay would come too early. Both have ended before each request",
    );
    section.note("imsup, ended: 'imsup stop' before each request, so the connection boots the host");
    section.note("isolation: a process, in both");
}
