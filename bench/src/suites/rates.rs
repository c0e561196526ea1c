//! Connections a second, from several threads at once.

use anyhow::Result;

use super::{BOTH, CLIENT, CONTROL, NATIVE, PEER, SERVER, clients, native_peer, peer, turns};
use crate::context::Context;
use crate::project::Project;
use crate::report::{Row, Section};
use crate::rounds::Batches;
use crate::stats::Unit;

const THREADS: [usize; 3] = [1, 2, 8];
/// Connections of a batch, over all its threads.
const CONNECTIONS: usize = 2_000;

pub fn run(context: &Context) -> Result<Section> {
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let project = Project::up(&context.sandbox, &[peer(context, &[])])?;
        project.wake(PEER)?;
        let (first, _first) = native_peer(context, 0, &[])?;
        let (second, _second) = native_peer(context, 1, &[])?;
        let at = [first, second, project.address(PEER)?];
        for threads in THREADS {
            let mut clients = clients(context, &project, at, |address| {
                ["rate", &address, "--threads", &threads.to_string()]
                    .map(str::to_owned)
                    .to_vec()
            })?;
            let named = |name| format!("{name}, {threads}");
            let mut turns = turns(&mut clients, CONNECTIONS / threads, &named);
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
