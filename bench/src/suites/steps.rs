//! The cost of a supervised connect, step by step: the least possible supervisor
//! (`testdata/guests/floor.c`), which takes one more of imsup's steps each time, and imsup.

use std::process::Command;

use anyhow::{Result, bail};

use super::connect::{Placement, placements};
use super::{NATIVE, PEER, native, native_peer, peer};
use crate::context::Context;
use crate::guest::ports;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::Batches;
use crate::stats::Unit;
use crate::subject::Subject;

const IMSUP: &str = "imsup";
/// The guest's steps, each with all before it, and the name of the last.
const STEPS: [(&str, &str); 7] = [
    ("continue", "the floor: received and left to the kernel"),
    ("poll", "+ poll before it is received"),
    ("read", "+ its address is read"),
    ("duplicate", "+ its socket is duplicated, and closed"),
    ("valid", "+ it is asked whether it still waits"),
    ("inspect", "+ the socket's address and protocol"),
    ("source", "+ a source address is given to it"),
];
/// Steps whose call to a missing Unix socket, which needs no socket, differs.
const ROUND_TRIP: [&str; 3] = ["continue", "poll", "read"];

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section {
        columns: Some(["native", "supervised"]),
        ..Section::default()
    };
    if !context.guests.join("floor").is_file() {
        bail!(
            "there is no {}: 'make guests' makes it",
            context.guests.join("floor").display()
        );
    }
    let (runs, rounds) = (context.count(4, 1), context.count(12, 4));
    let mut batches = Batches::default();
    let placements = placements(&mut section);
    for _ in 0..runs {
        for placement in &placements {
            measure(context, placement, rounds, &mut batches)?;
        }
    }
    let unit = Unit::MICROSECONDS;
    let all = STEPS.map(|(step, _)| step);
    for Placement { name, .. } in &placements {
        for (series, what, steps) in [
            ("round-trip", "connect to a missing Unix socket", &ROUND_TRIP[..]),
            ("connect+close", "connect and close", &all[..]),
            ("whole", "a whole connection", &all[..]),
            ("paced", "connect and close after a pause", &["continue"]),
        ] {
            let series = format!("{series}, {name}");
            let native = batches.measured(NATIVE, &series, unit)?;
            for (step, about) in STEPS.iter().filter(|(step, _)| steps.contains(step)) {
                let measured = batches.measured(step, &series, unit)?;
                let what = format!("{what}, {name}: {about}");
                section.rows.push(Row::compare(what, unit, &native, &measured));
            }
            let whole = Row::compare(
                format!("{what}, {name}: imsup"),
                unit,
                &native,
                &batches.measured(IMSUP, &series, unit)?,
            );
            let judged = !series.starts_with("round-trip");
            section
                .rows
                .push(if judged { whole.expect(Bound::Ratio(1.2)) } else { whole });
        }
    }
    section.note(format!("{runs} runs, in each of which all processes are started anew"));
    section.note(
        "the floor is a supervisor of one page of C that only answers 'continue', with the flags of imsup (synchronous wake-ups, WAIT_KILLABLE_RECV); \
         each line adds one of imsup's steps to those above it; 'imsup' is a host that connects to another, an endpoint that answered lately",
    );
    section.note(
        "'connect and close': the two calls; the client closes after the server has accepted and sent a byte. 'a whole connection': from socket(2) until it \
         is closed, the byte waited for. 'After a pause': 0.1 ms after the connection before",
    );
    section.note(
        "without a pause the server is often still awake from the close before when the next connection comes, natively: it need not be woken. Behind any \
         supervisor the call takes long enough for it to sleep, so the floor's own price is that of its round trip, and the rest is the server's wake-up",
    );
    section.note(
        "'together': client and server stay on one processor; 'apart': on one each; the supervisor goes where the scheduler puts it",
    );
    Ok(section)
}

fn measure(context: &Context, placement: &Placement, rounds: usize, batches: &mut Batches) -> Result<()> {
    let cpu = placement.server.map(|cpu| cpu.to_string());
    let of_server: Vec<&str> = cpu.iter().flat_map(|cpu| ["--cpu", cpu]).collect();
    let project = Project::up(&context.sandbox, &[peer(context, &of_server)])?;
    project.wake(PEER)?;
    let (server, _server) = native_peer(context, 0, &of_server)?;
    let guest = |mut command: Command, step: &str, address: std::net::Ipv4Addr| {
        command.args([step, &address.to_string(), &ports::BLOCKING.to_string()]);
        command.arg(native::address(1).to_string());
        command.args(placement.client.map(|cpu| cpu.to_string()));
        Subject::start(command)
    };
    let floor = context.guests.join("floor");
    let mut clients = vec![(NATIVE, guest(Command::new(&floor), "native", server)?)];
    for (step, _) in STEPS {
        clients.push((step, guest(Command::new(&floor), step, server)?));
    }
    let mut supervised = project.supervised(None);
    supervised.arg(&floor);
    clients.push((IMSUP, guest(supervised, "native", project.address(PEER)?)?));
    let named = |name: String| format!("{name}, {}", placement.name);
    let mut turns = super::turns(&mut clients, 60, &named);
    batches.interleave(&mut turns, 1, rounds)
}
