//! How cascades are written: trees for people, nested objects for programs.

use anstyle::Style;
use imsup_wire::{Cause, CauseKind, EventKind};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::cascade::{Hop, HopKind};
use super::human;
use super::output::{BOLD, DIM, event_style, paint};

/// The cascades as text, the columns of each aligned.
pub fn text(cascades: &[Hop], zone: &TimeZone) -> String {
    let mut text = String::new();
    for cascade in cascades {
        let time = paint(DIM, human::time_of_day(cascade.time_us, zone));
        text += &format!("{time} {}\n", paint(BOLD, sender(cascade.cause.as_ref())));
        let mut rows = Vec::new();
        rows_of(std::slice::from_ref(cascade), "", &mut rows);
        let width = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
        let (name, after, took) = (width(|row| &row.name), width(|row| &row.after), width(|row| &row.took));
        for row in &rows {
            let kind = paint(row.style, format_args!("{:<4}", row.kind));
            let line = format!(
                "{:<name$}  {kind}  {:>after$}  {:>took$}  {}",
                row.name, row.after, row.took, row.why
            );
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}

/// The sender or the reason that began a cascade.
fn sender(cause: Option<&Cause>) -> String {
    match cause {
        Some(cause) => match (&cause.by, cause.kind) {
            (Some(by), CauseKind::Wake | CauseKind::Exec) => format!("{by} (imsup)"),
            (Some(by), _) => by.clone(),
            (None, _) => human::signal(cause),
        },
        None => "unknown".to_owned(),
    }
}

struct Row {
    name: String,
    kind: &'static str,
    style: Style,
    after: String,
    took: String,
    why: String,
}

fn rows_of(hops: &[Hop], indent: &str, rows: &mut Vec<Row>) {
    for (position, hop) in hops.iter().enumerate() {
        let (branch, below) = if position + 1 == hops.len() {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let signal = hop.cause.as_ref().map(human::signal);
        let why: Vec<String> = [signal, hop.detail.clone()].into_iter().flatten().collect();
        let (kind, style) = match hop.kind {
            HopKind::Wake => ("wake", event_style(EventKind::Wake)),
            HopKind::Booting => ("boot", event_style(EventKind::Boot)),
            HopKind::Boot => ("boot", event_style(EventKind::Ready)),
            HopKind::Failed => ("fail", event_style(EventKind::Fail)),
        };
        rows.push(Row {
            name: format!("{indent}{branch}{}", hop.host),
            kind,
            style,
            after: format!("+{}", human::duration(hop.after)),
            took: hop.took.map(human::duration).unwrap_or_default(),
            why: why.join(", "),
        });
        rows_of(&hop.children, &format!("{indent}{below}"), rows);
    }
}

/// A hop as JSON: the fields of an event, and `after_us` and `children`.
#[derive(Debug, Serialize)]
pub struct Json<'a> {
    time: String,
    host: &'a str,
    event: EventKind,
    cause: Option<CauseKind>,
    by: Option<&'a str>,
    port: Option<u16>,
    after_us: u128,
    duration_us: Option<u128>,
    detail: Option<&'a str>,
    children: Vec<Json<'a>>,
}

/// A cascade as JSON.
pub fn json(hop: &Hop) -> Json<'_> {
    let cause = hop.cause.as_ref();
    Json {
        time: human::rfc3339(hop.time_us),
        host: hop.host.as_str(),
        event: match hop.kind {
            HopKind::Wake => EventKind::Wake,
            HopKind::Booting => EventKind::Allocate,
            HopKind::Boot => EventKind::Ready,
            HopKind::Failed => EventKind::Fail,
        },
        cause: cause.map(|cause| cause.kind),
        by: cause.and_then(|cause| cause.by.as_deref()),
        port: cause.and_then(|cause| cause.port),
        after_us: hop.after.as_micros(),
        duration_us: hop.took.map(|took| took.as_micros()),
        detail: hop.detail.as_deref(),
        children: hop.children.iter().map(json).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cascade;
    use crate::fixture::{caused, event, lasting};

    fn shop() -> Vec<Hop> {
        let hop = |micros, host, kind, took, by, port| {
            let event = lasting(event(micros, host, kind), took);
            caused(event, CauseKind::Connection, Some(by), Some(port))
        };
        let mut web = hop(1_234_567, "web", EventKind::Wake, 90, "127.0.0.1:40112", 8080);
        web.detail = Some("slept 3.2 s".to_owned());
        cascade::of(&[
            web,
            hop(1_234_777, "app", EventKind::Wake, 100, "web", 8000),
            hop(1_235_467, "prices", EventKind::Wake, 80, "app", 9000),
            hop(1_236_467, "cache", EventKind::Allocate, 0, "app", 6379),
            hop(1_248_867, "cache", EventKind::Ready, 12_400, "app", 6379),
            caused(event(9_000_000, "app", EventKind::Wake), CauseKind::Timer, None, None),
            caused(
                event(9_000_001, "web", EventKind::Wake),
                CauseKind::Wake,
                Some("root"),
                None,
            ),
        ])
    }

    #[test]
    fn a_tree_shows_each_hop_with_its_times() {
        let text = anstream::adapter::strip_str(&text(&shop(), &TimeZone::UTC)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "12:00:01.234 127.0.0.1:40112",
                "└─ web           wake     +0 µs    90 µs  connection to port 8080, slept 3.2 s",
                "   └─ app        wake   +210 µs   100 µs  connection to port 8000",
                "      ├─ prices  wake   +900 µs    80 µs  connection to port 9000",
                "      └─ cache   boot  +1.90 ms  12.4 ms  connection to port 6379",
                "12:00:09.000 timer",
                "└─ app  wake  +0 µs    timer",
                "12:00:09.000 root (imsup)",
                "└─ web  wake  +0 µs    asked for",
            ]
        );
    }

    #[test]
    fn the_json_is_nested() {
        let json = serde_json::to_value(json(&shop()[0])).unwrap();
        assert_eq!(json["event"], "wake");
        assert_eq!(json["by"], "127.0.0.1:40112");
        let cache = &json["children"][0]["children"][1];
        assert_eq!(
            cache.to_string(),
            concat!(
                r#"{"after_us":1900,"by":"app","cause":"connection","children":[],"detail":null,"duration_us":12400,"#,
                r#""event":"ready","host":"cache","port":6379,"time":"1970-01-01T12:00:01.236467Z"}"#
            )
        );
    }
}
