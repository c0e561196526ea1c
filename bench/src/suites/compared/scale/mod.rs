//! Many idle hosts: imaginary and suspended ones, beside systemd's socket units and docker's
//! containers.

mod containers;
mod imaginary;
mod suspended;
mod units;

use anyhow::Result;

use crate::context::Context;
use crate::docker::Network;
use crate::report::Section;
use crate::suites::docker;

const IMSUP: &str = "imsup";
const SYSTEMD: &str = "systemd, socket units";
const CREATED: &str = "docker create";
const PAUSED: &str = "docker pause";

pub fn run(context: &Context) -> Result<Section> {
    let mut section = Section {
        columns: Some(["beside it", "imsup"]),
        ..Section::default()
    };
    // Each measurement has a daemon of its own: this daemon is only inspected.
    let docker = docker(context, &mut section, "docker create and pause", Network::Machine)?.is_some();
    imaginary::measure(context, docker, &mut section)?;
    suspended::measure(context, docker, &mut section)?;
    section.note("isolation: native, imsup, systemd: a process; docker: namespaces, cgroups, seccomp and capabilities");
    Ok(section)
}
