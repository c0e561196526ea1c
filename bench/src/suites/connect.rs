//! Connecting, closing and accepting.

use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context as _, Result};

use super::{BOTH, CLIENT, CONTROL, NATIVE, PEER, SERVER, clients, native, native_peer, peer, turns};
use crate::affinity;
use crate::compose::Service;
use crate::context::Context;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit;
use crate::subject::{self, Subject};

const ACCEPTOR: &str = "acceptor";
const ACCEPTOR_PORT: u16 = 7600;
/// Connections made before they are accepted: all fit the listener's backlog.
const CROWD: usize = 100;

/// The processors of client and server.
pub(super) struct Placement {
    pub(super) name: &'static str,
    pub(super) client: Option<usize>,
    pub(super) server: Option<usize>,
}

/// Both on one processor, and each on its own if there are two.
pub(super) fn placements(section: &mut Section) -> Vec<Placement> {
    // Left to the scheduler, a pair is sometimes on one processor and sometimes on two, which takes
    // twice as long: no comparison.
    let mut placements = vec![Placement {
        name: "together",
        client: Some(0),
        server: Some(0),
    }];
    match affinity::pair() {
        Some((client, server)) => placements.push(Placement {
            name: "apart",
            client: Some(client),
            server: Some(server),
        }),
        None => section.gap("client and server apart", "there is one processor only"),
    }
    placements
}

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section::default();
    let placements = placements(&mut section);
    let runs = context.count(4, 1);
    let rounds = context.count(12, 4);
    let mut batches = Batches::default();
    for _ in 0..runs {
        for placement in &placements {
            connects(context, placement, rounds, &mut batches)?;
        }
        accepts(context, rounds, &mut batches)?;
    }
    for placement in &placements {
        connect_rows(&batches, placement.name, &mut section)?;
    }
    let unit = Unit::MICROSECONDS;
    let (native, imsup) = (
        batches.measured(NATIVE, "accept", unit)?,
        batches.measured(SERVER, "accept", unit)?,
    );
    section
        .rows
        .push(Row::compare("accept: server a host", unit, &native, &imsup).expect(Bound::Ratio(1.0)));
    notes(&mut section, runs);
    Ok(section)
}

fn connects(context: &Context, placement: &Placement, rounds: usize, batches: &mut Batches) -> Result<()> {
    let options = |cpu: Option<usize>| cpu.map_or_else(Vec::new, |cpu| vec!["--cpu".to_owned(), cpu.to_string()]);
    let (of_client, of_server) = (options(placement.client), options(placement.server));
    let of_server: Vec<&str> = of_server.iter().map(String::as_str).collect();
    let project = Project::up(&context.sandbox, &[peer(context, &of_server)])?;
    project.wake(PEER)?;
    let (first, _first) = native_peer(context, 0, &of_server)?;
    let (second, _second) = native_peer(context, 1, &of_server)?;
    let at = [first, second, project.address(PEER)?];
    let mut clients = clients(context, &project, at, |address| {
        ["connect".to_owned(), address]
            .into_iter()
            .chain(of_client.clone())
            .collect()
    })?;
    let named = |name| format!("{name}, {}", placement.name);
    let mut turns = turns(&mut clients, 60, &named);
    batches.interleave(&mut turns, 1, rounds)
}

fn accepts(context: &Context, rounds: usize, batches: &mut Batches) -> Result<()> {
    // Booted by 'imsup run' below, not by the broker.
    let acceptor = Service::new(ACCEPTOR, ["false"], [ACCEPTOR_PORT]);
    let project = Project::up(&context.sandbox, &[acceptor])?;
    let address = native::address(2);
    let mut native = subject::native(context, &["accept", &format!("{address}:{ACCEPTOR_PORT}")])?;
    let at = format!("0.0.0.0:{ACCEPTOR_PORT}");
    let mut host = subject::supervised(context, project.supervised(Some(ACCEPTOR)), &["accept", &at])?;
    let host_address = project.address(ACCEPTOR)?;
    let mut turns = [
        Turn::new(NATIVE, || crowd(&mut native, address)),
        Turn::new(SERVER, || crowd(&mut host, host_address)),
    ];
    batches.interleave(&mut turns, 1, rounds)
}

/// Has a guest accept connections that all exist beforehand.
fn crowd(guest: &mut Subject, address: Ipv4Addr) -> Result<Vec<crate::rounds::Series>> {
    let connect = |_| TcpStream::connect((address, ACCEPTOR_PORT)).with_context(|| format!("connecting to {address}"));
    let clients = (0..CROWD).map(connect).collect::<Result<Vec<_>>>()?;
    let batch = guest.batch(CROWD);
    drop(clients);
    batch
}

fn connect_rows(batches: &Batches, placement: &str, section: &mut Section) -> Result<()> {
    let unit = Unit::MICROSECONDS;
    let series: [(&str, &str, &[&'static str]); 6] = [
        (
            "connect+close-blocking",
            "connect and close, blocking",
            &[CONTROL, SERVER, CLIENT, BOTH],
        ),
        (
            "connect+close-non-blocking",
            "connect and close, non-blocking",
            &[CONTROL, SERVER, CLIENT, BOTH],
        ),
        (
            "first-connect+close-blocking",
            "connect and close, blocking, another port each time",
            &[CLIENT, BOTH],
        ),
        (
            "first-connect+close-non-blocking",
            "connect and close, non-blocking, another port each time",
            &[CLIENT, BOTH],
        ),
        ("connect-blocking", "connect alone, blocking", &[CLIENT, BOTH]),
        ("connect-non-blocking", "connect alone, non-blocking", &[CLIENT, BOTH]),
    ];
    for (name, what, variants) in series {
        let name = format!("{name}, {placement}");
        let native = batches.measured(NATIVE, &name, unit)?;
        for variant in variants {
            let imsup = batches.measured(variant, &name, unit)?;
            let row = Row::compare(format!("{what}, {placement}: {variant}"), unit, &native, &imsup);
            let judged = *variant != CONTROL && name.contains("close");
            section
                .rows
                .push(if judged { row.expect(Bound::Ratio(1.25)) } else { row });
        }
    }
    Ok(())
}

fn notes(section: &mut Section, runs: usize) {
    section.note(format!("{runs} runs, in each of which all processes are started anew"));
    section.note(
        "the client closes, after the server has accepted and sent a byte; making the socket and waiting for the byte are not in the \
         times, non-blocking connects include poll and SO_ERROR",
    );
    section.note(
        "'both' is one host that connects to another: a trapped call with a source address; 'client supervised' connects to an address \
         that is no host's, which imsup leaves to the kernel",
    );
    section.note(
        "'another port each time': a supervisor remembers endpoints that answered lately; here it never knows the one that is asked for",
    );
    section.note(
        "'together': client and server stay on one processor; 'apart': on one each; the supervisor goes where the scheduler puts it",
    );
}
