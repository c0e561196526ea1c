//! `imsup up`: makes every host of a compose file exist.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use imsup_wire::{Event, HostName, HostState, HostStatus};

use imsup_broker::{BrokerError, Ended};

use super::apply;
use super::await_started::await_started;
use super::background::{self, AlreadyUp};
use super::broker;
use super::cluster::ClusterArgs;
use super::connection;
use super::events::Lines;
use super::logging;
use super::logs;
use super::output::{self, BOLD, DIM, paint};
use super::project::Project;
use super::ps;
use super::readiness;
use super::screen::Screen;

/// Make every host of a compose file exist; the first connection boots it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    apply: apply::RecreateArgs,
    /// Return when the hosts exist, and leave the broker in the background
    #[arg(short, long)]
    detach: bool,
    /// No difference
    #[arg(long, hide = true)]
    no_build: bool,
    #[arg(long, hide = true)]
    no_color: bool,
    #[arg(short, long, hide = true)]
    yes: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    menu: Option<Option<bool>>,
    /// Return when what starts with `up` runs, is healthy or has completed; implies -d
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    wait_timeout: Option<u64>,
}

/// Runs the verb.
///
/// # Errors
/// The compose file, the machine, or a broker that runs already is in the way.
pub fn run(args: &Args) -> Result<()> {
    if args.detach || args.wait {
        return in_background(args);
    }
    in_foreground(args)
}

fn in_background(args: &Args) -> Result<()> {
    let project = match background::start_at_last(&args.cluster.to_arguments()) {
        Ok(name) => {
            let project = Project::named(name);
            introduce(&project)?;
            project
        }
        Err(error) if error.is::<AlreadyUp>() => apply::apply(&args.cluster, &args.apply)?,
        Err(error) => return Err(error),
    };
    match args.wait {
        true => await_started(&project, args.wait_timeout.map(Duration::from_secs)),
        false => Ok(()),
    }
}

/// Runs the broker, and shows events and the output of programs, until Ctrl-C takes the project
/// down.
fn in_foreground(args: &Args) -> Result<()> {
    logging::start("warn");
    let cluster = args.cluster.load_to_serve(|warning| {
        output::warning(warning);
        Ok(())
    })?;
    let project = Project::named(cluster.project.as_str());
    let names: Vec<HostName> = cluster.hosts.iter().map(|host| host.name.clone()).collect();
    let lines = Lines::for_hosts(&names);
    let followed = names.clone();
    let on_ready = move || {
        readiness::notify_systemd()?;
        // Before any boot: output from before the thread runs is shown, too.
        let logs = logs::from_now(&project);
        // A client like any other, beside the broker, which must not wait for the terminal.
        thread::Builder::new()
            .name("programs".to_owned())
            .spawn(move || {
                if let Err(error) = introduce(&project).and_then(|()| logs::follow_all(logs?, &names)) {
                    tracing::warn!("what the programs print is not shown: {error:#}");
                }
            })
            .context("starting the thread that shows what the programs print")?;
        Ok(())
    };
    let (screen, written) = Screen::start()?;
    let on_event = move |event: &Event| screen.show(lines.line(event));
    let served = broker::serve(cluster, broker::How::KEPT, on_ready, Some(Box::new(on_event)));
    written.wait();
    match served {
        Ok(Ended::Down) => Ok(()),
        Ok(Ended::HandedOver) => {
            output::note("another `imsup up` has changed the project, which goes on in the background");
            Ok(())
        }
        Err(error) if matches!(error.downcast_ref(), Some(BrokerError::AlreadyUp { .. })) => {
            let project = apply::apply(&args.cluster, &args.apply)?;
            output::note("the project was up, and stays up when this ends");
            logs::follow_all(logs::from_now(&project)?, &followed)
        }
        Err(error) => Err(error),
    }
}

/// Prints the hosts that exist now.
fn introduce(project: &Project) -> Result<()> {
    let hosts = connection::hosts(project)?;
    let mut lines = output::Lines::to_stdout();
    for line in summary(&project.name, &hosts).lines() {
        lines.add(line)?;
    }
    lines.write()?;
    Ok(())
}

/// The summary of `up` when all hosts are ready: a line for the project, a line for each host.
fn summary(project: &str, hosts: &[HostStatus]) -> String {
    let asleep = hosts.iter().filter(|host| host.state == HostState::Suspended).count();
    let awake = |host: &&HostStatus| host.pid.is_some() && host.state != HostState::Suspended;
    let running = hosts.iter().filter(awake).count();
    let count = match hosts.len() {
        1 => "1 host exists".to_owned(),
        count => format!("{count} hosts exist"),
    };
    let mut adopted = match running {
        0 => "none runs".to_owned(),
        1 => "1 runs".to_owned(),
        running => format!("{running} run"),
    };
    match asleep {
        0 => {}
        1 => adopted += ", 1 sleeps",
        asleep => adopted += &format!(", {asleep} sleep"),
    }
    let width = hosts.iter().map(|host| host.name.as_str().len()).max().unwrap_or(0);
    let mut text = format!("{}: {count}, {adopted}\n", paint(BOLD, project));
    for host in hosts {
        let line = format!(
            "  {:<width$}  {:<15}  {}",
            host.name,
            host.address,
            paint(DIM, ps::ports_text(host))
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::host;

    #[test]
    fn the_summary_lists_names_addresses_and_ports() {
        let mut cache = host("cache", 12);
        cache.pid = Some(1);
        let plain = |hosts: &[HostStatus]| anstream::adapter::strip_str(&summary("shop", hosts)).to_string();
        let text = plain(&[host("web", 7), cache.clone()]);
        assert_eq!(
            text,
            "shop: 2 hosts exist, 1 runs\n  web    127.77.5.7       80/tcp\n  cache  127.77.5.12      80/tcp\n"
        );
        cache.state = HostState::Suspended;
        let text = plain(&[cache]);
        assert!(text.starts_with("shop: 1 host exists, none runs, 1 sleeps\n"), "{text}");
    }
}
