//! The data path on raw sockets.

use anyhow::Result;

use super::{BOTH, CLIENT, CONTROL, NATIVE, PEER, SERVER, native_peer, peer};
use crate::affinity;
use crate::context::Context;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit;
use crate::subject::{self, Subject};

/// A variant of the pair, and the start of its clients.
type Clients<'a> = (&'static str, Box<dyn Fn(&[&str]) -> Result<Subject> + 'a>, String);

pub fn run(context: &Context) -> Result<Section> {
    let (client_cpu, server_cpu) = match affinity::pair() {
        Some((client, server)) => (Some(client.to_string()), Some(server.to_string())),
        None => (None, None),
    };
    let pinned = |cpu: &Option<String>| {
        cpu.iter()
            .flat_map(|cpu| ["--cpu".to_owned(), cpu.clone()])
            .collect::<Vec<_>>()
    };
    let (client_options, server_options) = (pinned(&client_cpu), pinned(&server_cpu));
    let on_server: Vec<&str> = server_options.iter().map(String::as_str).collect();
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let project = Project::up(&context.sandbox, &[peer(context, &on_server)])?;
        let host = project.address(PEER)?.to_string();
        let (first, _first) = native_peer(context, 0, &on_server)?;
        let (second, _second) = native_peer(context, 1, &on_server)?;
        let native = || Box::new(|arguments: &[&str]| subject::native(context, arguments));
        let supervised =
            || Box::new(|arguments: &[&str]| subject::supervised(context, project.supervised(None), arguments));
        let variants: [Clients<'_>; 5] = [
            (NATIVE, native(), first.to_string()),
            (CONTROL, native(), second.to_string()),
            (SERVER, native(), host.clone()),
            (CLIENT, supervised(), first.to_string()),
            (BOTH, supervised(), host),
        ];
        // On a single processor no wake-up of another is waited for, so an overhead would show
        // most.
        let loads = [
            ("ping", "one processor", &server_options, 1_000, context.count(20, 6)),
            ("ping", "two processors", &client_options, 300, context.count(20, 6)),
            ("bulk", "two processors", &client_options, 2, context.count(12, 4)),
        ];
        for (role, placement, options, count, rounds) in loads {
            let mut clients = Vec::new();
            for (variant, start, address) in &variants {
                let mut arguments = vec![role, address.as_str()];
                arguments.extend(options.iter().map(String::as_str));
                clients.push((*variant, start(&arguments)?));
            }
            let mut turns: Vec<Turn<'_>> = clients
                .iter_mut()
                .map(|(variant, client)| {
                    Turn::new(variant, move || {
                        let named = |(name, samples)| (format!("{name}, {placement}"), samples);
                        Ok(client.batch(count)?.into_iter().map(named).collect())
                    })
                })
                .collect();
            batches.interleave(&mut turns, 1, rounds)?;
        }
    }
    report(&batches, runs)
}

fn report(batches: &Batches, runs: usize) -> Result<Section> {
    let mut section = Section::default();
    let series = [
        (
            "ping, one processor",
            "1 byte there and back, one processor",
            Unit::MICROSECONDS,
        ),
        (
            "ping, two processors",
            "1 byte there and back, two processors",
            Unit::MICROSECONDS,
        ),
        ("rate, two processors", "bulk, two processors", Unit::MIB_PER_SECOND),
    ];
    for (name, what, unit) in series {
        let native = batches.measured(NATIVE, name, unit)?;
        for variant in [CONTROL, SERVER, CLIENT, BOTH] {
            let imsup = batches.measured(variant, name, unit)?;
            let row = Row::compare(format!("{what}: {variant}"), unit, &native, &imsup);
            section.rows.push(if variant == CONTROL {
                row
            } else {
                row.expect(Bound::Ratio(1.0))
            });
        }
    }
    section.note(format!(
        "{runs} runs, in each of which all processes are started anew; all stay on the processors they are given"
    ));
    section.note("'native again' is a second native pair: what differs there is noise");
    Ok(section)
}
