//! `imsup wake`, `stop`, `restart`: boot hosts, and end their programs, by order.

use anyhow::Result;
use imsup_protocol::Request;
use imsup_wire::{HostName, HostState, HostStatus};

use super::caller;
use super::connection;
use super::output;
use super::project::{Project, ProjectAndFileArgs};

/// Which hosts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Only these hosts [default: all]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

/// `imsup wake`: boots hosts and returns when they are ready.
///
/// # Errors
/// No project that is up, no such host, or a host that cannot be started.
pub fn wake(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let hosts = match args.hosts.as_slice() {
        [] => matching(&project, |_| true)?,
        asked => connection::select(&project, asked)?,
    };
    let request = Request::Wake {
        hosts: hosts.clone(),
        by: caller::name(),
        exec: false,
    };
    connection::order(&project, request)?;
    say(&hosts, "ready");
    warn_of_ports(&project, &hosts)?;
    Ok(())
}

/// Warns of running hosts that listen at wrong ports.
fn warn_of_ports(project: &Project, hosts: &[HostName]) -> Result<()> {
    for host in connection::hosts(project)? {
        if let Some(detail) = host.detail.filter(|_| hosts.contains(&host.name) && runs(host.state)) {
            output::note(&format!("{} {detail}", host.name));
        }
    }
    Ok(())
}

/// `imsup stop`: ends programs; the hosts stay, imaginary.
///
/// # Errors
/// No project that is up, or no such host.
pub fn stop(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let selected = connection::select(&project, &args.hosts)?;
    let stopped = running_among(&project, &selected)?;
    connection::order(&project, Request::Stop { hosts: selected })?;
    say(&stopped, "stopped");
    Ok(())
}

/// `imsup restart`: stops, then wakes the named hosts, or the declared hosts that ran. A host that
/// `imsup run` made cannot be booted again: its broker refuses.
///
/// # Errors
/// As [`wake`] and [`stop`].
pub fn restart(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let selected = connection::select(&project, &args.hosts)?;
    let restarted = match selected.as_slice() {
        [] => matching(&project, |host| host.declared && runs(host.state))?,
        selected => selected.to_vec(),
    };
    let request = Request::Restart {
        hosts: selected,
        by: caller::name(),
    };
    connection::order(&project, request)?;
    say(&restarted, "restarted");
    warn_of_ports(&project, &restarted)?;
    Ok(())
}

/// The selected hosts with a program (of all hosts if none is selected).
fn running_among(project: &Project, selected: &[HostName]) -> Result<Vec<HostName>> {
    let mut hosts = matching(project, |host| runs(host.state))?;
    if !selected.is_empty() {
        hosts.retain(|host| selected.contains(host));
    }
    Ok(hosts)
}

/// Whether a host in this state has a program.
fn runs(state: HostState) -> bool {
    matches!(state, HostState::Booting | HostState::Running | HostState::Suspended)
}

fn matching(project: &Project, wanted: impl Fn(&HostStatus) -> bool) -> Result<Vec<HostName>> {
    let hosts = connection::hosts(project)?;
    let matching = hosts.into_iter().filter(|host| wanted(host));
    Ok(matching.map(|host| host.name).collect())
}

/// Prints the action done for each host.
pub fn say(hosts: &[HostName], what: &str) {
    if hosts.is_empty() {
        output::note(&format!("no host was {what}: none has a program"));
    }
    for host in hosts {
        output::note(&format!("{host} {what}"));
    }
}
