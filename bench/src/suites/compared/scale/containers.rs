//! Many containers of docker's, that were made and never ran, or that are paused.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::docker::{Docker, Network};
use crate::interrupt;
use crate::listening::wait_for;
use crate::process::{self, Memory};
use crate::rounds::Series;
use crate::suites::hosts;
use crate::suites::sleep::many;
use crate::suites::sleep::server::Server;

/// Outside imsup's planes.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 92, 0, 1);
/// The limit for making them.
const LIMIT: Duration = Duration::from_secs(120);

/// This many created containers, by a daemon of their own: the time, and the memory per container
/// that the daemons and the kernel take more.
pub fn created(context: &Context, server: &Server, count: usize) -> Result<Vec<Series>> {
    let mut docker = Docker::start(context, Network::Machine)?;
    let (before, daemons) = (hosts::settled()?, total(&memories(&docker.processes()?)?));
    let start = Instant::now();
    create(&mut docker, server, count)?;
    let took = start.elapsed();
    let kernel = hosts::settled()?.saturating_sub(before) / count as u64;
    let processes = docker.processes()?;
    let daemons = total(&memories(&processes)?).saturating_sub(daemons) / count as u64;
    Ok(vec![
        one("time", u64::try_from(took.as_nanos())?),
        one("kernel", kernel),
        one("daemons", daemons),
        one("all", kernel + daemons),
        one("cpu", process::cpu_share(&processes, many::watched(context))?),
    ])
}

/// This many paused containers: as [`created`], and the memory of each shim and program.
pub fn paused(context: &Context, server: &Server, count: usize) -> Result<Vec<Series>> {
    let mut docker = Docker::start(context, Network::Machine)?;
    hosts::settled()?;
    let (before, daemons) = (process::kernel()?, docker.processes()?);
    let processes = total(&memories(&daemons)?);
    let names = create(&mut docker, server, count)?;
    for (number, name) in names.iter().enumerate() {
        interrupt::check()?;
        docker.begin(name)?;
        let ip = address(number)?;
        wait_for(SocketAddrV4::new(ip, server.port)).with_context(|| name.clone())?;
    }
    for name in &names {
        interrupt::check()?;
        docker.pause(name)?;
    }
    hosts::settled()?;
    let now = process::kernel()?;
    let all = docker.processes()?;
    let (mut shims, mut programs) = (Vec::new(), Vec::new());
    for pid in all.iter().filter(|pid| is_shim(**pid)) {
        shims.push(process::memory(*pid)?.private);
        for program in process::descendants(*pid)? {
            programs.push(process::memory(program)?.private);
        }
    }
    if shims.len() != count || programs.len() != count {
        bail!(
            "{count} containers have {} shims and {} programs",
            shims.len(),
            programs.len()
        );
    }
    let count = count as u64;
    let processes = total(&memories(&all)?).saturating_sub(processes) / count;
    let kernel = now.whole().saturating_sub(before.whole()) / count;
    Ok(vec![
        ("shim".to_owned(), shims),
        ("program".to_owned(), programs),
        one("processes", processes),
        one("kernel", kernel),
        one("all", processes + kernel),
        one("cpu", process::cpu_share(&all, many::watched(context))?),
    ])
}

fn create(docker: &mut Docker, server: &Server, count: usize) -> Result<Vec<String>> {
    let start = Instant::now();
    let mut names = Vec::with_capacity(count);
    for number in 0..count {
        interrupt::check()?;
        if start.elapsed() > LIMIT {
            bail!("{number} of {count} were made within {} s", LIMIT.as_secs());
        }
        let name = format!("host-{number}");
        docker.create(&name, &server.command(address(number)?))?;
        names.push(name);
    }
    Ok(names)
}

fn address(number: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from(u32::from(FIRST) + u32::try_from(number)?))
}

fn is_shim(pid: u32) -> bool {
    // The kernel keeps 15 bytes: proc_pid_comm(5).
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("containerd-shim"))
}

fn memories(processes: &[u32]) -> Result<Vec<Memory>> {
    processes.iter().map(|pid| process::memory(*pid)).collect()
}

fn total(processes: &[Memory]) -> u64 {
    processes.iter().map(|memory| memory.proportional).sum()
}

fn one(name: &str, value: u64) -> Series {
    (name.to_owned(), vec![value])
}
