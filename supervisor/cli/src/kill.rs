//! `imsup kill`: a signal for the programs of hosts.

use anyhow::{Context, Result, anyhow};
use imsup_linux::pidfd::open_process;
use imsup_protocol::Request;
use imsup_wire::{HostName, HostState, HostStatus};
use rustix::process::{Signal, pidfd_send_signal};

use super::caller;
use super::connection;
use super::power;
use super::project::ProjectAndFileArgs;

/// Send a signal to the programs of hosts; a host that sleeps wakes by it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL", value_parser = signal)]
    signal: Signal,
    /// Only these hosts [default: all that run]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

fn signal(text: &str) -> Result<Signal> {
    let number = imsup_compose::signal(text).with_context(|| format!("'{text}' is no signal"))?;
    Signal::from_named_raw(number).ok_or_else(|| anyhow!("'{text}' is no signal with a name"))
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, no such host, or a program that cannot be signalled.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let wanted = connection::select(&project, &args.hosts)?;
    let is_wanted = |host: &HostStatus| wanted.is_empty() || wanted.contains(&host.name);
    let mut signalled = Vec::new();
    for host in connection::hosts(&project)?.into_iter().filter(is_wanted) {
        let Some(pid) = host.pid else { continue };
        let process = open_process(pid.cast_signed());
        // The number may have become another process's, unless the host still has it.
        let hosts = connection::hosts(&project)?;
        if let Ok(process) = process
            && hosts.iter().any(|now| now.name == host.name && now.pid == Some(pid))
        {
            pidfd_send_signal(process, args.signal).with_context(|| format!("signalling host '{}'", host.name))?;
            if host.state == HostState::Suspended {
                // Where threads are stopped by ptrace(2), nobody sees that a signal waits.
                let hosts = vec![host.name.clone()];
                let by = caller::name();
                // It may have ended by the signal.
                let _ = connection::order(&project, Request::Resume { hosts, by });
            }
            signalled.push(host.name);
        }
    }
    power::say(&signalled as &[HostName], "signalled");
    Ok(())
}
