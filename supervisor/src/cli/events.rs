//! `imsup events`: what happened, and what happens.

use std::io::Write;

use anyhow::{Result, bail};
use imsup_wire::{Event, HostName, Request, Response};
use jiff::tz::TimeZone;

use super::connection;
use super::human;
use super::output::{self, DIM, event_style, paint};
use super::project::ProjectAndFileArgs;
use super::table::{Format, FormatArgs};

/// Show what happened since 'up': allocate, boot, ready, exit, fail
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Stay and show what happens
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    format: FormatArgs,
    /// Only these hosts [default: all]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, or no such host.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let selected = connection::select(&project, &args.hosts)?;
    let lines = Lines::for_hosts(&match selected.as_slice() {
        [] => connection::hosts(&project)?.into_iter().map(|host| host.name).collect(),
        selected => selected.to_vec(),
    });
    let request = Request::Events {
        follow: args.follow,
        hosts: selected,
    };
    let mut out = output::stdout();
    for answer in connection::ask(&project, request)? {
        match (answer?, args.format.format) {
            (Response::Event(event), Format::Table) => writeln!(out, "{}", lines.line(&event))?,
            (Response::Event(event), Format::Json) => writeln!(out, "{}", imsup_broker::events::to_json(&event))?,
            (other, _) => bail!("the broker answered something else than events: {other:?}"),
        }
    }
    Ok(())
}

/// How events are written for people: aligned, with the local time of day.
pub struct Lines {
    zone: TimeZone,
    width: usize,
}

impl Lines {
    /// Aligned for these hosts.
    pub fn for_hosts(hosts: &[HostName]) -> Self {
        Self::new(hosts, TimeZone::system())
    }

    fn new(hosts: &[HostName], zone: TimeZone) -> Self {
        let width = hosts.iter().map(|host| host.as_str().len()).max().unwrap_or(0);
        Self { zone, width }
    }

    /// One event: `12:00:01.234  web  ready      14.2 ms  connection to port 80 by 127.0.0.1:5123`.
    pub fn line(&self, event: &Event) -> String {
        let time = paint(DIM, human::time_of_day(event.time_us, &self.zone));
        let kind = paint(event_style(event.kind), format_args!("{:<8}", event.kind));
        let took = event.duration.map(human::duration).unwrap_or_default();
        let why = [event.detail.clone().unwrap_or_default(), human::cause(event)];
        let why: Vec<String> = why.into_iter().filter(|part| !part.is_empty()).collect();
        let line = format!(
            "{time}  {:<width$}  {kind}  {took:>11}  {}",
            event.host,
            why.join(", "),
            width = self.width
        );
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use imsup_wire::{Cause, CauseKind, EventKind};

    use super::*;

    #[test]
    fn lines_are_aligned() {
        let hosts: Vec<HostName> = ["web", "cache"].map(|name| name.parse().unwrap()).to_vec();
        let lines = Lines::new(&hosts, TimeZone::UTC);
        let mut event = Event {
            time_us: 43_201_234_567,
            host: hosts[0].clone(),
            kind: EventKind::Allocate,
            cause: Some(Cause {
                kind: CauseKind::Connection,
                by: Some("127.0.0.1:5123".to_owned()),
                port: Some(80),
            }),
            duration: None,
            detail: None,
        };
        let plain = |event: &Event| anstream::adapter::strip_str(&lines.line(event)).to_string();
        assert_eq!(
            plain(&event),
            "12:00:01.234  web    allocate               connection to port 80 by 127.0.0.1:5123"
        );
        event.host = hosts[1].clone();
        event.kind = EventKind::Fail;
        event.cause = None;
        event.duration = Some(Duration::from_micros(14_230));
        event.detail = Some("exited with status 3 before it listened".to_owned());
        assert_eq!(
            plain(&event),
            "12:00:01.234  cache  fail          14.2 ms  exited with status 3 before it listened"
        );
    }
}
