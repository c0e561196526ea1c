//! The memory of supervisors.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::programs;
use crate::context::Context;
use crate::interrupt;
use crate::process;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::stats::{Measured, Unit};

/// Copies of each program: pages shared by all supervisors count for none.
const COPIES: usize = 4;

pub fn run(context: &Context) -> Result<Section> {
    let (programs, missing) = programs::all(context);
    let mut section = Section::default();
    for (what, why) in missing {
        section.gap(what, why);
    }
    let name = |program: &programs::Program, copy: usize| format!("{}-{copy}", program.name);
    let mut services = Vec::new();
    for program in &programs {
        for copy in 0..COPIES {
            let mut service = program.service();
            service.name = name(program, copy);
            services.push(service);
        }
    }
    let project = Project::up(&context.sandbox, &services)?;
    let mut all = Vec::new();
    for program in &programs {
        for copy in 0..COPIES {
            let host = name(program, copy);
            interrupt::check()?;
            project.wake(&host)?;
            ask(&project, &host, program).with_context(|| format!("asking {host}"))?;
        }
    }
    let mut shared = Vec::new();
    for program in &programs {
        let mut private = Vec::new();
        for copy in 0..COPIES {
            let memory = process::memory(project.supervisor(&name(program, copy))?)?;
            private.push(vec![memory.private]);
            shared.push(vec![memory.shared]);
        }
        let measured = Measured::of(&private, Unit::KIB)?;
        section.rows.push(
            Row::alone(format!("private, of {}", program.what), Unit::KIB, &measured).expect(Bound::Value(2048.0)),
        );
        all.extend(private);
    }
    let of_all = Measured::of(&all, Unit::KIB)?;
    section
        .rows
        .push(Row::alone("private, of all supervisors", Unit::KIB, &of_all).expect(Bound::Value(2048.0)));
    let shared = Measured::of(&shared, Unit::KIB)?;
    section.rows.push(Row::alone(
        "shared with others (text), of all supervisors",
        Unit::KIB,
        &shared,
    ));
    let broker = Measured::of(&[vec![process::memory(project.broker()?)?.private]], Unit::KIB)?;
    section
        .rows
        .push(Row::alone("private, of the broker", Unit::KIB, &broker));
    section.note(format!(
        "{COPIES} hosts of each program run at once, each has been asked once; Private_* and Shared_* of /proc/PID/smaps_rollup, p99 is the greatest"
    ));
    Ok(section)
}

fn ask(project: &Project<'_>, host: &str, program: &programs::Program) -> Result<()> {
    let mut stream = TcpStream::connect((project.address(host)?, program.port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(program.request)?;
    Ok(stream.read_exact(&mut [0])?)
}
