//! The second way to a program's sockets and memory: where pidfd_getfd(2) and process_vm_readv(2)
//! are refused, as by Docker's default profile.

use anyhow::Result;

use super::{NATIVE, PEER, native_peer, peer};
use crate::affinity;
use crate::context::Context;
use crate::project::Project;
use crate::report::{Row, Section};
use crate::rounds::{Batches, Turn};
use crate::stats::Unit;
use crate::subject;

const SUPERVISED: &str = "as ever";
const WITHOUT: &str = "without";
/// Makes imsup do without these, as its own tests do.
const ENVIRONMENT: (&str, &str) = ("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv");

/// A guest, its batch, and its series.
type Load = (&'static str, usize, &'static [(&'static str, &'static str)]);

const LOADS: [Load; 3] = [
    (
        "trapped",
        100,
        &[
            ("socket", "socket and close"),
            ("continue", "connect to a missing Unix socket: trapped and continued"),
            ("getsockname", "getsockname: trapped and answered"),
        ],
    ),
    (
        "connect",
        40,
        &[
            ("connect+close-blocking", "connect and close, blocking"),
            ("connect+close-non-blocking", "connect and close, non-blocking"),
        ],
    ),
    (
        "datagrams",
        100,
        &[
            ("sendto", "datagram there and back: sendto with an address"),
            ("send", "datagram there and back: send on a connected socket"),
        ],
    ),
];

pub fn run(context: &Context) -> Result<Section> {
    let on = affinity::pair().map_or_else(Vec::new, |(cpu, _)| vec!["--cpu".to_owned(), cpu.to_string()]);
    let on: Vec<&str> = on.iter().map(String::as_str).collect();
    let runs = context.count(4, 1);
    let mut batches = Batches::default();
    for _ in 0..runs {
        let project = Project::up(&context.sandbox, &[peer(context, &on)])?;
        project.wake(PEER)?;
        let host = project.address(PEER)?.to_string();
        let (native, _native) = native_peer(context, 0, &on)?;
        let native = native.to_string();
        for (role, count, _) in LOADS {
            let arguments = |address: &str| {
                let mut words = vec![role.to_owned()];
                if role != "trapped" {
                    words.push(address.to_owned());
                    words.extend(on.iter().map(|word| (*word).to_owned()));
                }
                words
            };
            let (to_native, to_host) = (arguments(&native), arguments(&host));
            fn words(of: &[String]) -> Vec<&str> {
                of.iter().map(String::as_str).collect()
            }
            let mut without = project.supervised(None);
            without.env(ENVIRONMENT.0, ENVIRONMENT.1);
            let mut clients = [
                (NATIVE, subject::native(context, &words(&to_native))?),
                (
                    SUPERVISED,
                    subject::supervised(context, project.supervised(None), &words(&to_host))?,
                ),
                (WITHOUT, subject::supervised(context, without, &words(&to_host))?),
            ];
            let mut turns: Vec<Turn<'_>> = clients
                .iter_mut()
                .map(|(variant, client)| Turn::new(variant, move || client.batch(count)))
                .collect();
            batches.interleave(&mut turns, 1, context.count(12, 4))?;
        }
    }
    let mut section = Section::default();
    let unit = Unit::MICROSECONDS;
    for (name, what) in LOADS.iter().flat_map(|(_, _, series)| series.iter()) {
        let native = batches.measured(NATIVE, name, unit)?;
        for variant in [SUPERVISED, WITHOUT] {
            let imsup = batches.measured(variant, name, unit)?;
            section
                .rows
                .push(Row::compare(format!("{what}: {variant}"), unit, &native, &imsup));
        }
    }
    section.note(format!(
        "{runs} runs, in each of which all processes are started anew; client and server on one processor; the supervised connect from one host to another"
    ));
    section.note(format!(
        "'without': {}={}, the way that is taken in a container with Docker's default seccomp profile; socket(2) is trapped there, and the \
         supervisor makes the socket",
        ENVIRONMENT.0, ENVIRONMENT.1
    ));
    Ok(section)
}
