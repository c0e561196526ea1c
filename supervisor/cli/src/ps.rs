//! `imsup ps`: all hosts, sleepers included.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use imsup_wire::{Endpoint, Health, HostState, HostStatus, Transport};
use serde::Serialize;

use super::connection;
use super::human;
use super::output::{self, DIM, state_style};
use super::project::ProjectAndFileArgs;
use super::table::{Format, FormatArgs, Table};

/// List the hosts of a project
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    #[command(flatten)]
    format: FormatArgs,
    /// Print only the names
    #[arg(short, long)]
    quiet: bool,
    /// No difference: all hosts are listed
    #[arg(short, long, hide = true)]
    all: bool,
    /// Only hosts in this state: imsup's word, or docker's (created, paused, exited)
    #[arg(long, value_name = "STATE", value_parser = status)]
    status: Vec<Wanted>,
    /// Only what this is true of: status=STATE
    #[arg(long, value_name = "status=STATE", value_parser = filter)]
    filter: Vec<Wanted>,
    /// Only these hosts [default: all]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

/// States that are asked for.
type Wanted = &'static [HostState];

fn status(text: &str) -> Result<Wanted> {
    Ok(match text {
        "imaginary" | "created" => &[HostState::Imaginary],
        "booting" | "restarting" => &[HostState::Booting],
        "running" => &[HostState::Running],
        "suspended" | "paused" => &[HostState::Suspended],
        "failed" | "dead" => &[HostState::Failed],
        "completed" => &[HostState::Completed],
        "exited" => &[HostState::Failed, HostState::Completed],
        "removing" => &[],
        _ => bail!("there is no state '{text}'"),
    })
}

fn filter(text: &str) -> Result<Wanted> {
    let state = text.strip_prefix("status=");
    status(state.context("hosts are filtered by status=STATE only")?)
}

/// Runs the verb.
///
/// # Errors
/// No project, or none that is up.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let mut hosts = connection::hosts(&project)?;
    if !args.hosts.is_empty() {
        let wanted = connection::select(&project, &args.hosts)?;
        hosts.retain(|host| wanted.contains(&host.name));
    }
    let asked = args.status.iter().chain(&args.filter);
    let states: Vec<HostState> = asked.clone().copied().flatten().copied().collect();
    if asked.count() > 0 {
        hosts.retain(|host| states.contains(&host.state));
    }
    let mut out = output::stdout();
    if args.quiet {
        for host in &hosts {
            use std::io::Write;
            writeln!(out, "{}", host.name)?;
        }
        return Ok(());
    }
    match args.format.format {
        Format::Json => hosts
            .iter()
            .try_for_each(|host| output::json_line(&mut out, &Row::of(host))),
        Format::Table => {
            drop(out);
            table(&hosts, SystemTime::now()).print()
        }
    }
}

/// The table of these hosts.
pub fn table(hosts: &[HostStatus], now: SystemTime) -> Table {
    let mut table = Table::new([
        "NAME", "ADDRESS", "STATE", "PID", "PORTS", "BOOTS", "WAKES", "SINCE", "NEXT", "DETAIL",
    ]);
    for host in hosts {
        let next = host.next_deadline_us.map(|deadline| human::until(deadline, now));
        let detail = host.detail.clone().unwrap_or_default();
        let failed = (host.state == HostState::Failed).then(|| state_style(host.state));
        table.row([
            (host.name.to_string(), None),
            (host.address.to_string(), None),
            (state_text(host), Some(state_style(host.state))),
            (host.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()), None),
            (ports_text(host), None),
            (host.boots.to_string(), None),
            (host.wakes.to_string(), None),
            (human::ago(human::since(host.since_us, now)), Some(DIM)),
            (
                next.map_or_else(String::new, |next| format!("in {}", human::span(next))),
                None,
            ),
            (detail, failed.or(Some(DIM))),
        ]);
    }
    table
}

/// The state, with the health where checks tell it: `running (healthy)`, as docker shows it.
fn state_text(host: &HostStatus) -> String {
    match host.health {
        Some(health) => format!("{} ({health})", host.state),
        None => host.state.to_string(),
    }
}

/// One host as JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    address: Ipv4Addr,
    state: HostState,
    pid: Option<u32>,
    ports: Vec<String>,
    published: Vec<Published>,
    boots: u64,
    wakes: u64,
    since: String,
    next_deadline: Option<String>,
    detail: Option<&'a str>,
    command: &'a [String],
    declared: bool,
    health: Option<Health>,
}

/// A port of the machine as JSON.
#[derive(Debug, Serialize)]
struct Published {
    machine: SocketAddr,
    port: u16,
    transport: Transport,
}

impl<'a> Row<'a> {
    fn of(host: &'a HostStatus) -> Self {
        Self {
            name: host.name.as_str(),
            address: host.address,
            state: host.state,
            pid: host.pid,
            ports: ports(host).into_iter().map(|(_, text)| text).collect(),
            published: host
                .published
                .iter()
                .map(|published| Published {
                    machine: published.machine,
                    port: published.endpoint.address.port(),
                    transport: published.endpoint.transport,
                })
                .collect(),
            boots: host.boots,
            wakes: host.wakes,
            since: human::rfc3339(host.since_us),
            next_deadline: host.next_deadline_us.map(human::rfc3339),
            detail: host.detail.as_deref(),
            command: &host.command,
            declared: host.declared,
            health: host.health,
        }
    }
}

/// A host's ports, each once: `80/tcp`, and `localhost:6379/tcp` for ports that only the host
/// itself can reach.
fn ports(host: &HostStatus) -> Vec<(Endpoint, String)> {
    let key = |endpoint: &Endpoint| (endpoint.address.port(), endpoint.transport);
    let public = |endpoint: &Endpoint| *endpoint.address.ip() == host.address;
    let mut endpoints = host.ports.clone();
    endpoints.sort_by_key(|endpoint| (key(endpoint), !public(endpoint)));
    endpoints.dedup_by_key(|endpoint| key(endpoint));
    endpoints
        .into_iter()
        .map(|endpoint| {
            let scope = if public(&endpoint) { "" } else { "localhost:" };
            let text = format!("{scope}{}/{}", endpoint.address.port(), endpoint.transport);
            (endpoint, text)
        })
        .collect()
}

/// A host's ports for people, published ports first: `0.0.0.0:8080->80/tcp, 81/tcp`.
pub fn ports_text(host: &HostStatus) -> String {
    let leads_to = |endpoint: &Endpoint| {
        host.published.iter().any(|published| {
            published.endpoint.transport == endpoint.transport
                && published.endpoint.address.port() == endpoint.address.port()
        })
    };
    let published = host.published.iter().map(|published| {
        let endpoint = published.endpoint;
        format!(
            "{}->{}/{}",
            published.machine,
            endpoint.address.port(),
            endpoint.transport
        )
    });
    let others = ports(host)
        .into_iter()
        .filter(|(endpoint, _)| !leads_to(endpoint))
        .map(|(_, text)| text);
    let all: Vec<String> = published.chain(others).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use imsup_wire::PublishedPort;

    use super::*;
    use crate::fixture::host;

    fn web() -> HostStatus {
        let mut web = host("web", 7);
        web.ports = vec![
            Endpoint::tcp(Ipv4Addr::new(127, 78, 5, 7), 6379),
            Endpoint::tcp(web.address, 80),
            Endpoint::tcp(Ipv4Addr::new(127, 79, 5, 7), 80),
            Endpoint::udp(web.address, 53),
        ];
        web.published = vec![PublishedPort {
            machine: "0.0.0.0:8080".parse().unwrap(),
            endpoint: Endpoint::tcp(web.address, 80),
        }];
        web
    }

    #[test]
    fn ports_are_shown_once_and_private_ones_as_such() {
        assert_eq!(ports_text(&web()), "0.0.0.0:8080->80/tcp, 53/udp, localhost:6379/tcp");
    }

    #[test]
    fn the_table_is_as_documented() {
        let mut failed = host("db", 8);
        failed.state = HostState::Failed;
        failed.detail = Some("exited with status 3 before it listened".to_owned());
        let mut asleep = web();
        asleep.state = HostState::Suspended;
        asleep.pid = Some(4711);
        asleep.boots = 1;
        asleep.wakes = 17;
        asleep.next_deadline_us = Some(13_800_000);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(13);
        let text = anstream::adapter::strip_str(&table(&[asleep, failed], now).render(None)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "NAME  ADDRESS     STATE      PID   PORTS                                             BOOTS  WAKES  SINCE     NEXT      DETAIL",
                "web   127.77.5.7  suspended  4711  0.0.0.0:8080->80/tcp, 53/udp, localhost:6379/tcp  1      17     12 s ago  in 0.8 s",
                "db    127.77.5.8  failed     -     80/tcp                                            0      0      12 s ago            exited with status 3 before it listened",
            ]
        );
    }

    #[test]
    fn the_json_is_as_documented() {
        let mut asleep = web();
        asleep.state = HostState::Suspended;
        asleep.next_deadline_us = Some(13_800_000);
        asleep.health = Some(Health::Healthy);
        assert_eq!(
            serde_json::to_string(&Row::of(&asleep)).unwrap(),
            concat!(
                r#"{"name":"web","address":"127.77.5.7","state":"suspended","pid":null,"#,
                r#""ports":["53/udp","80/tcp","localhost:6379/tcp"],"#,
                r#""published":[{"machine":"0.0.0.0:8080","port":80,"transport":"tcp"}],"boots":0,"wakes":0,"#,
                r#""since":"1970-01-01T00:00:01.000000Z","next_deadline":"1970-01-01T00:00:13.800000Z","#,
                r#""detail":null,"command":["server"],"declared":true,"health":"healthy"}"#
            )
        );
    }
}
