//! Datagrams: every call that names a destination is trapped, calls on a connected socket are not.

use anyhow::Result;

use super::{BOTH, CLIENT, CONTROL, NATIVE, PEER, SERVER, clients, native_peer, peer, turns};
use crate::affinity;
use crate::context::Context;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::Batches;
use crate::stats::Unit;

/// A series, its subject, and whether its calls are never trapped.
const SERIES: [(&str, &str, Unit, bool); 6] = [
    (
        "send",
        "there and back: send on a connected socket",
        Unit::MICROSECONDS,
        true,
    ),
    (
        "sendmsg-connected",
        "there and back: sendmsg with MSG_NOSIGNAL on a connected socket",
        Unit::MICROSECONDS,
        false,
    ),
    (
        "sendto",
        "there and back: sendto with an address",
        Unit::MICROSECONDS,
        false,
    ),
    (
        "sendmsg",
        "there and back: sendmsg with an address",
        Unit::MICROSECONDS,
        false,
    ),
    (
        "rate-sendto",
        "rate: sendto with an address",
        Unit::DATAGRAMS_PER_SECOND,
        false,
    ),
    (
        "rate-sendmmsg",
        "rate: sendmmsg of 16 with addresses",
        Unit::DATAGRAMS_PER_SECOND,
        false,
    ),
];

pub fn run(context: &Context) -> Result<Section> {
    // On a single processor no wake-up of another is waited for, so an overhead shows most.
    let on = affinity::pair().map_or_else(Vec::new, |(cpu, _)| vec!["--cpu".to_owned(), cpu.to_string()]);
    let on: Vec<&str> = on.iter().map(String::as_str).collect();
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let project = Project::up(&context.sandbox, &[peer(context, &on)])?;
        project.wake(PEER)?;
        let (first, _first) = native_peer(context, 0, &on)?;
        let (second, _second) = native_peer(context, 1, &on)?;
        let at = [first, second, project.address(PEER)?];
        let mut clients = clients(context, &project, at, |address| {
            let words = ["datagrams", &address].into_iter().chain(on.iter().copied());
            words.map(str::to_owned).collect()
        })?;
        let mut turns = turns(&mut clients, 200, &|name| name);
        batches.interleave(&mut turns, 1, context.count(12, 4))?;
    }
    let mut section = Section::default();
    for (name, what, unit, untrapped) in SERIES {
        let native = batches.measured(NATIVE, name, unit)?;
        for variant in [CONTROL, SERVER, CLIENT, BOTH] {
            let imsup = batches.measured(variant, name, unit)?;
            let row = Row::compare(format!("{what}: {variant}"), unit, &native, &imsup);
            // The server answers with sendto, which is trapped in a host.
            let judged = untrapped && variant == CLIENT;
            section
                .rows
                .push(if judged { row.expect(Bound::Ratio(1.0)) } else { row });
        }
    }
    section.note(format!(
        "{runs} runs, in each of which all processes are started anew; all on one processor; 64 bytes"
    ));
    section.note("the server answers by sendto: 'server a host' and 'both' have one trapped call in each answer");
    section.note(
        "rates: windows of 128 datagrams, each ended by an answer; a trapped send costs a notification, and the copy of its bytes where \
         it is carried out in the program's place",
    );
    section.note(
        "send(2) on a connected socket is not trapped, sendmsg(2) always is; a BPF program on the cgroup (BPF_CGROUP_UDP4_SENDMSG) \
         could choose the source address in the kernel, but takes root",
    );
    Ok(section)
}
