//! Asking a project's broker.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow, bail};
use imsup_broker::client::{Client, ClientError, Responses};
use imsup_protocol::{Request, Response};
use imsup_wire::{HostName, HostStatus};

use super::failure::hinted;
use super::project::Project;
use super::selection;

/// Sends a request, and returns the answers as they come.
///
/// # Errors
/// No broker runs for the project, or the broker hung up.
pub fn ask(project: &Project, request: Request) -> Result<Responses, ClientError> {
    Client::connect(&project.name, &project.paths)?.request(request)
}

/// Sends a request without an answer other than success.
///
/// # Errors
/// As [`ask`], or the request failed.
pub fn order(project: &Project, request: Request) -> Result<(), ClientError> {
    ask(project, request)?.try_for_each(|answer| answer.map(drop))
}

/// All hosts, in the order of their addresses.
///
/// # Errors
/// As [`ask`].
pub fn hosts(project: &Project) -> Result<Vec<HostStatus>> {
    ask(project, Request::Hosts)?
        .map(|answer| match answer? {
            Response::Host(host) => Ok(host),
            other => bail!("the broker answered something else than hosts: {other:?}"),
        })
        .collect()
}

/// All names and their addresses.
///
/// # Errors
/// As [`ask`].
pub fn names(project: &Project) -> Result<Vec<(String, Ipv4Addr)>> {
    addresses(ask(project, Request::Names)?)
}

/// The names in these answers.
///
/// # Errors
/// As the answers.
pub fn addresses(answers: Responses) -> Result<Vec<(String, Ipv4Addr)>> {
    answers
        .map(|answer| match answer? {
            Response::Name { name, address } => Ok((name, address)),
            other => bail!("the broker answered something else than names: {other:?}"),
        })
        .collect()
}

/// The hosts with these names; none if no name is given.
///
/// # Errors
/// As [`ask`], or a name is no host's.
pub fn select(project: &Project, asked: &[String]) -> Result<Vec<HostName>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    selection::hosts(asked, &hosts(project)?, &names(project)?).with_context(|| format!("project '{}'", project.name))
}

/// The replica of a service with this number, from 1 on.
///
/// # Errors
/// As [`select`], or there are not as many replicas.
pub fn replica(project: &Project, service: &str, index: u32) -> Result<HostName> {
    let hosts = select(project, &[service.to_owned()])?;
    let number = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
    let found = number.and_then(|number| hosts.get(number)).cloned();
    found.ok_or_else(|| anyhow!("service '{service}' has no replica {index}: there are {}", hosts.len()))
}

/// The only host with this name.
///
/// # Errors
/// As [`select`], or the name stands for several hosts.
pub fn select_one(project: &Project, asked: &str) -> Result<HostName> {
    let mut hosts = select(project, &[asked.to_owned()])?;
    if let [_, second, ..] = hosts.as_slice() {
        return Err(hinted(
            anyhow!("'{asked}' is the name of {} hosts", hosts.len()),
            format!("name one of them, for example '{second}'"),
        ));
    }
    hosts.pop().context("the broker knows no such host")
}
