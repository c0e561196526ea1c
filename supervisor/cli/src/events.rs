//! `imsup events`: past and new events.

use std::io::Write;

use anyhow::{Result, bail};
use imsup_protocol::{Request, Response};
use imsup_wire::{Event, HostName};
use jiff::tz::TimeZone;

use super::cascade;
use super::connection;
use super::follow::Broker;
use super::human;
use super::output::{self, DIM, event_style, paint};
use super::project::{Project, ProjectAndFileArgs};
use super::table::{Format, FormatArgs};
use super::tree;

/// Show what happened since 'up': allocate, boot, ready, suspend, wake, tick, reclaim, terminate,
/// exit, fail, unmet
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Stay and show what happens
    #[arg(long)]
    follow: bool,
    /// Show who booted and woke whom as trees, with times; of the hosts named, the trees they are
    /// in
    #[arg(long, conflicts_with = "follow")]
    tree: bool,
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
    if args.tree {
        return trees(&project, &selected, args.format.format);
    }
    let broker = if args.follow { Some(Broker::of(&project)?) } else { None };
    let lines = Lines::for_hosts(&match selected.as_slice() {
        [] => connection::hosts(&project)?.into_iter().map(|host| host.name).collect(),
        selected => selected.to_vec(),
    });
    let request = Request::Events {
        follow: args.follow,
        hosts: selected,
    };
    let mut out = output::Lines::to_stdout();
    let mut answers = connection::ask(&project, request)?;
    loop {
        if !answers.has_next() {
            out.write()?;
        }
        match (answers.next(), args.format.format) {
            (Some(Ok(Response::Event(event))), Format::Table) => out.add(&lines.line(&event))?,
            (Some(Ok(Response::Event(event))), Format::Json) => out.add(&imsup_broker::events::to_json(&event))?,
            (Some(Ok(other)), _) => bail!("the broker answered something else than events: {other:?}"),
            (Some(Err(error)), _) => {
                out.write()?;
                return match broker {
                    Some(broker) => broker.hung_up(&project, error),
                    None => Err(error.into()),
                };
            }
            (None, _) => return Ok(out.write()?),
        }
    }
}

/// Shows the cascades with these hosts; all cascades if no host is named.
fn trees(project: &Project, selected: &[HostName], format: Format) -> Result<()> {
    let request = Request::Events {
        follow: false,
        // Other hosts may be the cause of the requested events.
        hosts: Vec::new(),
    };
    let events: Vec<Event> = connection::ask(project, request)?
        .map(|answer| match answer? {
            Response::Event(event) => Ok(event),
            other => bail!("the broker answered something else than events: {other:?}"),
        })
        .collect::<Result<_>>()?;
    let mut cascades = cascade::of(&events);
    if !selected.is_empty() {
        cascades.retain(|cascade| selected.iter().any(|host| cascade.has(host)));
    }
    let mut out = output::stdout();
    match format {
        Format::Table => out.write_all(tree::text(&cascades, &TimeZone::system()).as_bytes())?,
        Format::Json => {
            for cascade in &cascades {
                output::json_line(&mut out, &tree::json(cascade))?;
            }
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
        let kind = paint(event_style(event.kind), format_args!("{:<9}", event.kind));
        let took = event.duration.map(human::duration).unwrap_or_default();
        let cause = event.cause.as_ref().map(human::cause);
        let why: Vec<String> = [cause, event.detail.clone()].into_iter().flatten().collect();
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
    use imsup_wire::{CauseKind, EventKind};

    use super::*;
    use crate::fixture::{caused, event, lasting};

    #[test]
    fn lines_are_aligned() {
        let hosts: Vec<HostName> = ["web", "cache"].map(|name| name.parse().unwrap()).to_vec();
        let lines = Lines::new(&hosts, TimeZone::UTC);
        let plain = |event: &Event| anstream::adapter::strip_str(&lines.line(event)).to_string();
        let allocate = event(1_234_567, "web", EventKind::Allocate);
        assert_eq!(
            plain(&caused(
                allocate,
                CauseKind::Connection,
                Some("127.0.0.1:5123"),
                Some(80)
            )),
            "12:00:01.234  web    allocate                connection to port 80 by 127.0.0.1:5123"
        );
        let mut fail = lasting(event(1_234_567, "cache", EventKind::Fail), 14_230);
        fail.detail = Some("exited with status 3 before it listened".to_owned());
        assert_eq!(
            plain(&fail),
            "12:00:01.234  cache  fail           14.2 ms  exited with status 3 before it listened"
        );
        let mut wake = lasting(event(1_234_567, "web", EventKind::Wake), 96);
        wake.detail = Some("slept 3.2 s, 3 ticks".to_owned());
        assert_eq!(
            plain(&caused(wake, CauseKind::Data, Some("cache"), Some(80))),
            "12:00:01.234  web    wake             96 µs  data on port 80 by cache, slept 3.2 s, 3 ticks"
        );
    }
}
