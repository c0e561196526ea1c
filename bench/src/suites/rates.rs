//! Connections a second, from several threads at once.

use anyhow::Result;

use super::{BOTH, CLIENT, CONTROL, NATIVE, PEER, SERVER, native_peer, peer};
use crate::context::Context;
use crate::project::Project;
use crate::report::{Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit;
use crate::subject;

const THREADS: [usize; 3] = [1, 2, 8];
/// Connections of a batch, over all its threads.
const CONNECTIONS: usize = 2_000;

pub fn run(context: &Context) -> Result<Section> {
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let project = Project::up(&context.sandbox, &[peer(context, &[])])?;
        project.wake(PEER)?;
        let host = project.address(PEER)?.to_string();
        let (first, _first) = native_peer(context, 0, &[])?;
        let (second, _second) = native_peer(context, 1, &[])?;
        let (first, second) = (first.to_string(), second.to_string());
        for threads in THREADS {
            let number = threads.to_string();
            let client = |address: &str, supervised: bool| {
                let arguments = ["rate", address, "--threads", &number];
                match supervised {
                    true => subject::supervised(context, project.supervised(None), &arguments),
                    false => subject::native(context, &arguments),
                }
            };
            let mut clients = [
                (NATIVE, client(&first, false)?),
                (CONTROL, client(&second, false)?),
                (SERVER, client(&host, false)?),
                (CLIENT, client(&first, true)?),
                (BOTH, client(&host, true)?),
            ];
            let mut turns: Vec<Turn<'_>> = clients
                .iter_mut()
                .map(|(variant, client)| {
                    Turn::new(variant, move || {
                        let named = |(name, samples)| (format!("{name}, {threads}"), samples);
                        Ok(client.batch(CONNECTIONS / threads)?.into_iter().map(named).collect())
                    })
                })
                .collect();
            batches.interleave(&mut turns, 1, context.count(12, 4))?;
        }
    }
    let mut section = Section::default();
    let unit = Unit::CONNECTIONS_PER_SECOND;
    for threads in THREADS {
        let name = format!("connect+close, {threads}");
        let native = batches.measured(NATIVE, &name, unit)?;
        for variant in [CONTROL, SERVER, CLIENT, BOTH] {
            let imsup = batches.measured(variant, &name, unit)?;
            let threads = if threads == 1 {
                "1 thread".to_owned()
            } else {
                format!("{threads} threads")
            };
            section
                .rows
                .push(Row::compare(format!("{threads}: {variant}"), unit, &native, &imsup));
        }
    }
    section.note(format!(
        "{runs} runs, in each of which all processes are started anew; a sample is the rate of {CONNECTIONS} connections; \
         nothing is pinned to a processor"
    ));
    section.note(
        "the server accepts and closes in one thread: 'server a host' is the rate at which a host accepts; accept(2) is not trapped; the client waits for the end",
    );
    section.note("the client resets its connections (SO_LINGER 0), so that no ports in TIME_WAIT are measured");
    Ok(section)
}
