//! `imsup suspend`, `resume`, `keep-awake`: sleep by hand.

use std::time::Duration;

use anyhow::Result;
use imsup_compose::{DurationError, parse_duration};
use imsup_protocol::Request;
use imsup_wire::HostName;

use super::caller;
use super::connection;
use super::human;
use super::output;
use super::power;
use super::project::ProjectAndFileArgs;

/// Longest lease: for a longer time there is `keep_awake`.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Which hosts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// These hosts
    #[arg(value_name = "HOST", required = true)]
    hosts: Vec<String>,
}

/// Boot or wake a host, and keep it from sleeping for a time
#[derive(Debug, clap::Args)]
pub struct KeepAwakeArgs {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// The host
    #[arg(value_name = "HOST")]
    host: String,
    /// For how long from now, in place of what was said before: 10m, 1h30m, a year at most; 0s ends
    /// it
    #[arg(long = "for", value_name = "DURATION", value_parser = lease, allow_hyphen_values = true)]
    lease: Duration,
}

fn lease(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text, Duration::ZERO, YEAR)
}

/// `imsup suspend`: suspends hosts and returns when they sleep.
///
/// # Errors
/// No project that is up, no such host, or a host that is absent or busy.
pub fn suspend(args: &Args) -> Result<()> {
    order(args, "suspended", |hosts, by| Request::Suspend { hosts, by })
}

/// `imsup resume`: wakes hosts and returns when they run.
///
/// # Errors
/// No project that is up, no such host, or a host that is absent.
pub fn resume(args: &Args) -> Result<()> {
    order(args, "resumed", |hosts, by| Request::Resume { hosts, by })
}

fn order(args: &Args, done: &str, request: impl FnOnce(Vec<HostName>, String) -> Request) -> Result<()> {
    let project = args.project.find()?;
    let hosts = connection::select(&project, &args.hosts)?;
    connection::order(&project, request(hosts.clone(), caller::name()))?;
    power::say(&hosts, done);
    Ok(())
}

/// `imsup keep-awake`: a lease.
///
/// # Errors
/// No project that is up, no such host, or a host that cannot be started.
pub fn keep_awake(args: &KeepAwakeArgs) -> Result<()> {
    let project = args.project.find()?;
    let host = connection::select_one(&project, &args.host)?;
    let request = Request::KeepAwake {
        host: host.clone(),
        lease: args.lease,
        by: caller::name(),
    };
    connection::order(&project, request)?;
    output::note(&match args.lease {
        Duration::ZERO => format!("{host} may sleep again"),
        lease => format!("{host} stays awake for {}", human::duration(lease)),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_durations_of_a_compose_file() {
        assert_eq!(lease("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(lease("365d"), Ok(YEAR));
        assert_eq!(lease("0s"), Ok(Duration::ZERO));
        for (bad, says) in [
            ("366d", "the longest here is 365d"),
            ("100w", "the longest here is 365d"),
            ("-5m", "a duration is 0s or more"),
            ("10", "write 10s for seconds"),
            ("soon", "such as 1m30s"),
            ("", "such as 1m30s"),
        ] {
            let error = lease(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
