//! `imsup usage`: the usage of hosts since `up`.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use imsup_protocol::control::HostUsage;
use imsup_protocol::{Request, Response};
use imsup_wire::HostState;
use serde::Serialize;

use super::connection;
use super::human;
use super::output;
use super::project::ProjectAndFileArgs;
use super::table::Table;

/// Show what hosts have used since 'up': time in each state, CPU, memory times time, boots, wakes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// How to write it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
    /// Only these hosts [default: all]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people: aligned columns.
    #[default]
    Table,
    /// For programs: one JSON object a line.
    Json,
    /// For spreadsheets: a line of names, then a line for each host.
    Csv,
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, or no such host.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let hosts = connection::select(&project, &args.hosts)?;
    let used: Vec<HostUsage> = connection::ask(&project, Request::Usage { hosts })?
        .map(|answer| match answer? {
            Response::Usage(used) => Ok(used),
            other => bail!("the broker answered something else than usage: {other:?}"),
        })
        .collect::<Result<_>>()?;
    match args.format {
        Format::Table => table(&used).print(),
        Format::Json => {
            let mut out = output::stdout();
            used.iter()
                .try_for_each(|used| output::json_line(&mut out, &Row::of(used)))
        }
        Format::Csv => {
            output::stdout().write_all(csv(&used).as_bytes())?;
            Ok(())
        }
    }
}

/// The states that have columns, in the order of the columns.
const STATES: [HostState; 5] = [
    HostState::Imaginary,
    HostState::Booting,
    HostState::Running,
    HostState::Suspended,
    HostState::Failed,
];

fn table(used: &[HostUsage]) -> Table {
    let mut table = Table::new([
        "NAME",
        "IMAGINARY",
        "BOOTING",
        "RUNNING",
        "SUSPENDED",
        "FAILED",
        "CPU",
        "MEMORY",
        "BOOTS",
        "WAKES",
    ]);
    for used in used {
        let [imaginary, booting, running, suspended, failed] = STATES.map(|state| match time_in(used, state) {
            Duration::ZERO => "-".to_owned(),
            time => human::duration(time),
        });
        let row = [
            used.host.to_string(),
            imaginary,
            booting,
            running,
            suspended,
            failed,
            human::duration(used.cpu),
            human::memory_time(used.memory_byte_ms),
            used.boots.to_string(),
            used.wakes.to_string(),
        ];
        table.row(row.map(|cell| (cell, None)));
    }
    table
}

fn time_in(used: &HostUsage, state: HostState) -> Duration {
    let times = used.states.iter().filter(|(known, _)| *known == state);
    times.map(|(_, time)| *time).sum()
}

/// A host's usage, as JSON: times in seconds, to the millisecond.
#[derive(Debug, Serialize)]
struct Row<'a> {
    host: &'a str,
    since: String,
    imaginary_s: f64,
    booting_s: f64,
    running_s: f64,
    suspended_s: f64,
    failed_s: f64,
    cpu_s: f64,
    memory_mib_s: f64,
    boots: u64,
    wakes: u64,
}

impl<'a> Row<'a> {
    fn of(used: &'a HostUsage) -> Self {
        let [imaginary_s, booting_s, running_s, suspended_s, failed_s] =
            STATES.map(|state| human::seconds(time_in(used, state)));
        Self {
            host: used.host.as_str(),
            since: human::rfc3339(used.since_us),
            imaginary_s,
            booting_s,
            running_s,
            suspended_s,
            failed_s,
            cpu_s: human::seconds(used.cpu),
            memory_mib_s: (human::mebibyte_seconds(used.memory_byte_ms) * 1e3).round() / 1e3,
            boots: used.boots,
            wakes: used.wakes,
        }
    }
}

/// The same as CSV (RFC 4180); neither names nor numbers need quotes.
fn csv(used: &[HostUsage]) -> String {
    let mut text =
        "host,since,imaginary_s,booting_s,running_s,suspended_s,failed_s,cpu_s,memory_mib_s,boots,wakes\n".to_owned();
    for used in used {
        let row = Row::of(used);
        text += &format!(
            "{},{},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},{},{}\n",
            row.host,
            row.since,
            row.imaginary_s,
            row.booting_s,
            row.running_s,
            row.suspended_s,
            row.failed_s,
            row.cpu_s,
            row.memory_mib_s,
            row.boots,
            row.wakes
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> HostUsage {
        HostUsage {
            host: "web".parse().unwrap(),
            since_us: 1_000_000,
            states: vec![
                (HostState::Suspended, Duration::from_micros(185_000_400)),
                (HostState::Running, Duration::from_micros(2_346_700)),
                (HostState::Booting, Duration::from_micros(7_350)),
                (HostState::Imaginary, Duration::from_secs(20)),
            ],
            cpu: Duration::from_micros(14_230),
            memory_byte_ms: 12 * 1_048_576_000 + 524_288_000,
            boots: 1,
            wakes: 17,
        }
    }

    #[test]
    fn the_table_has_human_units() {
        let text = anstream::adapter::strip_str(&table(&[web()]).render(None)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "NAME  IMAGINARY  BOOTING  RUNNING  SUSPENDED  FAILED  CPU      MEMORY      BOOTS  WAKES",
                "web   20.0 s     7.35 ms  2.35 s   3 min 5 s  -       14.2 ms  12.5 MiB·s  1      17",
            ]
        );
    }

    #[test]
    fn the_json_is_to_the_millisecond() {
        assert_eq!(
            serde_json::to_string(&Row::of(&web())).unwrap(),
            concat!(
                r#"{"host":"web","since":"1970-01-01T00:00:01.000000Z","imaginary_s":20.0,"booting_s":0.007,"#,
                r#""running_s":2.347,"suspended_s":185.0,"failed_s":0.0,"cpu_s":0.014,"memory_mib_s":12.5,"boots":1,"wakes":17}"#
            )
        );
    }

    #[test]
    fn csv_has_the_names_of_the_json() {
        let text = csv(&[web()]);
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap().split(',').collect();
        let json = serde_json::to_value(Row::of(&web())).unwrap();
        assert_eq!(names.len(), json.as_object().unwrap().len());
        assert!(names.iter().all(|name| json.get(name).is_some()), "{names:?}");
        assert_eq!(
            lines.next(),
            Some("web,1970-01-01T00:00:01.000000Z,20.000,0.007,2.347,185.000,0.000,0.014,12.500,1,17")
        );
    }
}
