//! `imsup up --wait`: waits until what `up` starts runs, is healthy or has completed.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use imsup_protocol::Request;
use imsup_wire::{Health, HostName, HostState, HostStatus};

use super::connection;
use super::failure::hinted;
use super::project::Project;

/// How far one of the hosts is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    There,
    OnTheWay,
    Failed(String),
}

/// Waits for the hosts that run or are about to.
///
/// # Errors
/// A host ends without success, is unhealthy, or takes longer than `limit`.
pub fn await_started(project: &Project, limit: Option<Duration>) -> Result<()> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let events = events(project)?;
    let mut started = BTreeSet::new();
    loop {
        let hosts = connection::hosts(project)?;
        let is_started = |host: &&HostStatus| host.state != HostState::Imaginary || host.boots > 0;
        started.extend(hosts.iter().filter(is_started).map(|host| host.name.clone()));
        let pending = look(&hosts, &started)?;
        if pending.is_empty() {
            return Ok(());
        }
        if !waited(&events, deadline)? {
            let error = anyhow!("not ready in time: {}", pending.join(", "));
            return Err(hinted(error, "`imsup why HOST` says what a host waits for".to_owned()));
        }
    }
}

/// One message for each event of the project, from now on.
fn events(project: &Project) -> Result<Receiver<()>> {
    let request = Request::Events {
        follow: true,
        hosts: Vec::new(),
    };
    let events = connection::ask(project, request)?;
    let (sender, receiver) = channel();
    let tell = move || events.map_while(Result::ok).all(|_| sender.send(()).is_ok());
    let thread = thread::Builder::new().name("events".to_owned()).spawn(tell);
    thread.context("starting the thread that hears events")?;
    Ok(receiver)
}

/// Waits for events; false if none came in time.
fn waited(events: &Receiver<()>, deadline: Option<Instant>) -> Result<bool> {
    let ended = "the broker has ended";
    match deadline {
        None => events.recv().context(ended)?,
        Some(deadline) => match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(error) => return Err(error).context(ended),
        },
    }
    // Many events are one reason to look.
    while events.try_recv().is_ok() {}
    Ok(true)
}

/// The hosts that are on their way.
fn look(hosts: &[HostStatus], started: &BTreeSet<HostName>) -> Result<Vec<String>> {
    let mut pending = Vec::new();
    let mut failed = Vec::new();
    for host in hosts.iter().filter(|host| started.contains(&host.name)) {
        match progress(host) {
            Progress::There => {}
            Progress::OnTheWay => pending.push(format!("host '{}'", host.name)),
            Progress::Failed(why) => failed.push(format!("host '{}' {why}", host.name)),
        }
    }
    match failed.is_empty() {
        true => Ok(pending),
        false => bail!("{}; `imsup logs` shows what it printed", failed.join("; ")),
    }
}

fn progress(host: &HostStatus) -> Progress {
    let detail = || host.detail.clone().unwrap_or_else(|| "is not healthy".to_owned());
    match (host.state, host.health) {
        (HostState::Failed, _) => Progress::Failed(format!("could not be started: {}", detail())),
        (HostState::Imaginary, _) if host.detail.is_some() => Progress::Failed(detail()),
        (_, Some(Health::Unhealthy)) => Progress::Failed("is unhealthy".to_owned()),
        (_, Some(Health::Starting)) => Progress::OnTheWay,
        // A program without a port says nothing more.
        (HostState::Booting, None) if host.pid.is_some() => Progress::There,
        (HostState::Booting, _) => Progress::OnTheWay,
        _ => Progress::There,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::host;

    #[test]
    fn a_host_is_there_when_it_runs_and_is_healthy_or_has_done_its_work() {
        let with = |state, health, detail: Option<&str>| {
            let mut host = host("web", 7);
            (host.state, host.health, host.detail) = (state, health, detail.map(str::to_owned));
            progress(&host)
        };
        for state in [
            HostState::Running,
            HostState::Suspended,
            HostState::Completed,
            HostState::Imaginary,
        ] {
            assert_eq!(with(state, None, None), Progress::There, "{state}");
        }
        assert_eq!(with(HostState::Running, Some(Health::Healthy), None), Progress::There);
        assert_eq!(
            with(HostState::Running, Some(Health::Starting), None),
            Progress::OnTheWay
        );
        assert_eq!(with(HostState::Booting, None, Some("waits for db")), Progress::OnTheWay);
        for (state, health) in [
            (HostState::Imaginary, None),
            (HostState::Failed, None),
            (HostState::Running, Some(Health::Unhealthy)),
        ] {
            let seen = with(state, health, Some("exited with status 1"));
            assert!(matches!(seen, Progress::Failed(_)), "{state}: {seen:?}");
        }
    }
}
