//! `imsup why`: the reasons that keep a host awake, or the events that a sleeping host waits for.

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use imsup_protocol::{Request, Response};
use imsup_wire::sleep::{Reason, ReasonKind, WaitKind, WaitsFor};
use imsup_wire::{HostState, Why};
use serde::Serialize;

use super::connection;
use super::human;
use super::output;
use super::project::ProjectAndFileArgs;
use super::table::{Format, FormatArgs};

/// Descriptors and processes listed for people; JSON has all.
const LISTED: usize = 20;

/// Say what keeps a host awake, or what it waits for and how long it will sleep
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    #[command(flatten)]
    format: FormatArgs,
    /// The host
    #[arg(value_name = "HOST")]
    host: String,
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, or no such host.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let host = connection::select_one(&project, &args.host)?;
    let mut found = None;
    for answer in connection::ask(&project, Request::Why { host })? {
        match answer? {
            Response::Why {
                host,
                state,
                since_us,
                why,
            } => {
                found = Some(WhyReply {
                    host: host.to_string(),
                    state,
                    since_us,
                    why,
                });
            }
            other => bail!("the broker answered something else than why: {other:?}"),
        }
    }
    let answer = found.context("the broker did not say why")?;
    let mut out = output::stdout();
    match args.format.format {
        Format::Table => out.write_all(answer.text(SystemTime::now()).as_bytes())?,
        Format::Json => output::json_line(&mut out, &answer.json())?,
    }
    Ok(())
}

/// The broker's answer.
struct WhyReply {
    host: String,
    state: HostState,
    since_us: u64,
    why: Why,
}

impl WhyReply {
    /// A few lines for people.
    fn text(&self, now: SystemTime) -> String {
        let (host, since) = (&self.host, human::span(human::since(self.since_us, now)));
        match &self.why {
            Why::Absent { detail } => format!(
                "{host} is {}, since {since}: no process of it runs.\n{}\n",
                self.state,
                sentence(detail)
            ),
            Why::Awake {
                reasons,
                idle,
                sleeps_in,
            } => awake(host, reasons, *idle, *sleeps_in),
            Why::Asleep {
                waits,
                deadline_us,
                deadline_of,
                terminates_in,
                not_terminated,
                method,
            } => {
                let mut text = format!("{host} has slept for {since}. Held by: {method}.\nIt waits for:\n");
                text += &list(waits.iter().map(|wait| wait.detail.as_str()));
                text += &match (deadline_us, deadline_of) {
                    (None, _) => "It has no deadline.\n".to_owned(),
                    (Some(at), None) => format!("Next deadline: in {}.\n", human::span(human::until(*at, now))),
                    (Some(at), Some(whose)) => {
                        format!("Next deadline: in {}, {whose}.\n", human::span(human::until(*at, now)))
                    }
                };
                text += &match (terminates_in, not_terminated) {
                    (None, None) => "It is not terminated: terminate_after is not set.\n".to_owned(),
                    (None, Some(why)) => format!("It is not terminated: {why}.\n"),
                    (Some(left), None) => {
                        format!("It is terminated in {} if nothing wakes it.\n", human::span(*left))
                    }
                    (Some(left), Some(why)) => {
                        format!(
                            "It is due to be terminated in {}, but is kept: {why}.\n",
                            human::span(*left)
                        )
                    }
                };
                text
            }
        }
    }

    fn json(&self) -> Json<'_> {
        Json {
            host: &self.host,
            state: self.state,
            since: human::rfc3339(self.since_us),
            why: Flat::of(&self.why),
        }
    }
}

fn awake(host: &str, reasons: &[Reason], idle: Duration, sleeps_in: Option<Duration>) -> String {
    let listed = list(reasons.iter().map(|reason| reason.detail.as_str()));
    let idle = format!("It has been idle for {}", human::span(idle));
    match (sleeps_in, reasons) {
        (Some(left), reasons) => {
            let left = human::span(left);
            let before = if reasons.is_empty() { ".\n" } else { "; before that:\n" };
            format!("{host} is awake, and sleeps in {left} if nothing happens. {idle}{before}{listed}")
        }
        (None, []) => format!("{host} is awake, and stays so. {idle}.\n"),
        (None, _) => format!("{host} is awake, and stays so. {idle}. What keeps it, the strongest first:\n{listed}"),
    }
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!(
        "{}{}.",
        first.unwrap_or_default(),
        letters.as_str().trim_end_matches('.')
    )
}

fn list<'a>(items: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = items.len();
    let mut text: String = items.take(LISTED).map(|item| format!("  {item}\n")).collect();
    if count > LISTED {
        text += &format!("  and {} more (--format json lists them all)\n", count - LISTED);
    }
    text
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    host: &'a str,
    state: HostState,
    since: String,
    why: Flat<'a>,
}

/// Every field is always present; null (or empty) if not applicable to a host in this state.
#[derive(Debug, Default, Serialize)]
struct Flat<'a> {
    detail: Option<&'a str>,
    reasons: Vec<Item<'a, ReasonKind>>,
    idle_s: Option<f64>,
    sleeps_in_s: Option<f64>,
    waits: Vec<Item<'a, WaitKind>>,
    next_deadline: Option<String>,
    deadline_of: Option<&'a str>,
    terminates_in_s: Option<f64>,
    not_terminated: Option<&'a str>,
    method: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Item<'a, K> {
    kind: K,
    detail: &'a str,
    pid: Option<u32>,
}

impl<'a> Flat<'a> {
    fn of(why: &'a Why) -> Self {
        match why {
            Why::Absent { detail } => Self {
                detail: Some(detail),
                ..Self::default()
            },
            Why::Awake {
                reasons,
                idle,
                sleeps_in,
            } => Self {
                reasons: reasons.iter().map(Item::from).collect(),
                idle_s: Some(human::seconds(*idle)),
                sleeps_in_s: sleeps_in.map(human::seconds),
                ..Self::default()
            },
            Why::Asleep {
                waits,
                deadline_us,
                deadline_of,
                terminates_in,
                not_terminated,
                method,
            } => Self {
                waits: waits.iter().map(Item::from).collect(),
                next_deadline: deadline_us.map(human::rfc3339),
                deadline_of: deadline_of.as_deref(),
                terminates_in_s: terminates_in.map(human::seconds),
                not_terminated: not_terminated.as_deref(),
                method: Some(method),
                ..Self::default()
            },
        }
    }
}

impl<'a> From<&'a Reason> for Item<'a, ReasonKind> {
    fn from(reason: &'a Reason) -> Self {
        let Reason { kind, detail, pid } = reason;
        Self {
            kind: *kind,
            detail,
            pid: *pid,
        }
    }
}

impl<'a> From<&'a WaitsFor> for Item<'a, WaitKind> {
    fn from(wait: &'a WaitsFor) -> Self {
        let WaitsFor { kind, detail, pid } = wait;
        Self {
            kind: *kind,
            detail,
            pid: *pid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 100;

    fn text(state: HostState, why: Why) -> String {
        answer(state, why).text(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S))
    }

    fn answer(state: HostState, why: Why) -> WhyReply {
        WhyReply {
            host: "web".to_owned(),
            state,
            since_us: NOW_S * 1_000_000 - 3_200_000,
            why,
        }
    }

    fn asleep(waits: usize) -> Why {
        let wait = |number| WaitsFor {
            kind: WaitKind::Listener,
            detail: format!("a connection to port {}/tcp", 8080 + number),
            pid: None,
        };
        Why::Asleep {
            waits: (0..waits).map(wait).collect(),
            deadline_us: Some(NOW_S * 1_000_000 + 800_000),
            deadline_of: Some("redis-server 4711, epoll_wait".to_owned()),
            terminates_in: None,
            not_terminated: None,
            method: "cgroup freezer".to_owned(),
        }
    }

    #[test]
    fn a_sleeper_says_what_it_waits_for_and_until_when() {
        assert_eq!(
            text(HostState::Suspended, asleep(1)),
            "web has slept for 3.2 s. Held by: cgroup freezer.\n\
             It waits for:\n  a connection to port 8080/tcp\n\
             Next deadline: in 0.8 s, redis-server 4711, epoll_wait.\n\
             It is not terminated: terminate_after is not set.\n"
        );
    }

    #[test]
    fn a_long_list_is_cut_for_people_only() {
        let answer = answer(HostState::Suspended, asleep(10_000));
        let text = answer.text(SystemTime::UNIX_EPOCH);
        assert!(text.contains("  and 9980 more (--format json"), "{text}");
        assert_eq!(answer.json().why.waits.len(), 10_000);
    }

    #[test]
    fn an_idle_host_says_when_it_sleeps_and_a_busy_one_why_not() {
        let mut why = Why::Awake {
            reasons: Vec::new(),
            idle: Duration::from_millis(1_900),
            sleeps_in: Some(Duration::from_millis(3_100)),
        };
        assert_eq!(
            text(HostState::Running, why.clone()),
            "web is awake, and sleeps in 3.1 s if nothing happens. It has been idle for 1.9 s.\n"
        );
        if let Why::Awake { reasons, .. } = &mut why {
            reasons.push(Reason {
                kind: ReasonKind::Lease,
                detail: "a keep-awake lease for another 9 min 58 s".to_owned(),
                pid: None,
            });
        }
        assert_eq!(
            text(HostState::Running, why.clone()),
            "web is awake, and sleeps in 3.1 s if nothing happens. It has been idle for 1.9 s; before that:\n  \
             a keep-awake lease for another 9 min 58 s\n"
        );
        if let Why::Awake { sleeps_in, .. } = &mut why {
            *sleeps_in = None;
        }
        assert_eq!(
            text(HostState::Running, why),
            "web is awake, and stays so. It has been idle for 1.9 s. What keeps it, the strongest first:\n  \
             a keep-awake lease for another 9 min 58 s\n"
        );
    }

    #[test]
    fn an_absent_host_says_what_would_boot_it() {
        let detail = "a connection to port 8080/tcp boots it".to_owned();
        assert_eq!(
            text(HostState::Imaginary, Why::Absent { detail }),
            "web is imaginary, since 3.2 s: no process of it runs.\nA connection to port 8080/tcp boots it.\n"
        );
    }

    #[test]
    fn the_json_is_as_documented() {
        assert_eq!(
            serde_json::to_string(&answer(HostState::Suspended, asleep(1)).json()).unwrap(),
            concat!(
                r#"{"host":"web","state":"suspended","since":"1970-01-01T00:01:36.800000Z","why":{"detail":null,"#,
                r#""reasons":[],"idle_s":null,"sleeps_in_s":null,"#,
                r#""waits":[{"kind":"listener","detail":"a connection to port 8080/tcp","pid":null}],"#,
                r#""next_deadline":"1970-01-01T00:01:40.800000Z","deadline_of":"redis-server 4711, epoll_wait","#,
                r#""terminates_in_s":null,"not_terminated":null,"method":"cgroup freezer"}}"#
            )
        );
    }
}
