//! docs/conformance.md: the coverage of the cases, measured while they run natively
//! (testdata/guests/conformance/cover.c).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;

use crate::common::{Project, guest};
use crate::document::compare_with_file;
use crate::ports::{Ports, while_none_is_tried};
use crate::running::begin;
use crate::{LIMIT, OWN, for_each, list};

const HEAD: &str = "# Conformance

Each case is a small use of sockets (`testdata/guests/conformance`), which the test `conformance` runs natively and under imsup: both must print the same,
but for the [deviations](deviations.md). `conformance list` lists the cases; `conformance CASE PORT` runs one.

What follows is measured while the cases run natively. Made by `IMSUP_REGENERATE=1 cargo test -p imsup --test conformance`; do not edit.
";

const KINDS: &[&str] = &["tcp4", "tcp6", "tcp6only", "udp4", "udp6", "udp6only", "unix", "other"];
const ADDRESSES: &[&str] = &[
    "wildcard",
    "localhost",
    "own",
    "elsewhere",
    "port 0",
    "AF_UNSPEC",
    "other family",
];
const WAITS: &[&str] = &["blocking", "nonblocking"];

/// The calls that must be made on each kind of socket: all on all, except calls that concern
/// connections or descriptors alone.
fn is_required(call: &str, kind: &str) -> bool {
    let of_streams = ["listen", "accept", "accept4", "shutdown"].contains(&call);
    let of_descriptors = call.starts_with("dup");
    match kind {
        "tcp4" => true,
        // A socket bound to an IPv6 address proper counts as IPv6 only (net/ipv6/af_inet6.c,
        // __inet6_bind).
        "tcp6" => !of_descriptors,
        "udp4" | "udp6" => !of_streams && !of_descriptors,
        "tcp6only" | "udp6only" => matches!(call, "bind" | "getsockname"),
        _ => false,
    }
}

/// The steps of one case: call, kind of socket, blocking or not, kind of address.
type Noted = BTreeMap<(String, String, String, String), BTreeSet<String>>;

fn measure(project: &Project, cases: &[&str]) -> Noted {
    let (ports, noted) = (Mutex::new(Ports::new()), Mutex::new(Noted::new()));
    // Cases of several programs, cases with invalid descriptors and pointers, and cases whose
    // result depends on privileges.
    let left_out = |case: &str| {
        ["hosts/", "inherited/", "hostile_", "foreign_", "address_transparent"]
            .iter()
            .any(|prefix| case.starts_with(prefix))
    };
    let cases: Vec<&str> = cases.iter().copied().filter(|case| !left_out(case)).collect();
    for_each(&cases, |case| {
        let range = ports.lock().unwrap().next();
        let mut command = project.command(guest("conformance"), &["cover", case, &range.base.to_string()]);
        command.env("CONFORMANCE_OWN", OWN);
        let text = begin(command).finish(LIMIT).expect_success(case);
        let mut noted = noted.lock().unwrap();
        for line in text.lines() {
            let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let key: [String; 4] = fields.try_into().unwrap_or_else(|_| panic!("{case}: {line}"));
            noted.entry(key.into()).or_default().insert(case.to_owned());
        }
    });
    noted.into_inner().unwrap()
}

/// The number of cases that do what `wanted` says.
fn count(noted: &Noted, wanted: impl Fn(&str, &str, &str, &str) -> bool) -> usize {
    let fitting = noted
        .iter()
        .filter(|((call, kind, waits, address), _)| wanted(call, kind, waits, address));
    fitting.flat_map(|(_, cases)| cases).collect::<BTreeSet<_>>().len()
}

fn table(text: &mut String, title: &str, rows: &[&str], columns: &[&str], cell: impl Fn(&str, &str) -> usize) {
    writeln!(
        text,
        "\n## {title}\n\n| | {} |\n|---|{}",
        columns.join(" | "),
        "---|".repeat(columns.len())
    )
    .unwrap();
    for row in rows {
        let cells = columns.iter().map(|column| match cell(row, column) {
            0 => String::new(),
            count => count.to_string(),
        });
        writeln!(text, "| `{row}` | {} |", cells.collect::<Vec<_>>().join(" | ")).unwrap();
    }
}

/// The cases by the axes of their matrices; cases written one by one by their subject.
fn axes(text: &mut String, cases: &[&str]) {
    let mut matrices: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    let mut single: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases {
        let mut parts = case.split('/');
        let first = parts.next().unwrap_or_default();
        let values: Vec<&str> = parts.collect();
        if values.is_empty() {
            *single.entry(first.split('_').next().unwrap_or_default()).or_default() += 1;
        } else {
            matrices.entry(first).or_default().push(values);
        }
    }
    writeln!(text, "\n## Combinations\n\n| cases | how many | axes |\n|---|---|---|").unwrap();
    for (name, combinations) in matrices {
        let axis = |position: usize| {
            let mut seen: Vec<&str> = Vec::new();
            for value in combinations.iter().map(|values| values[position]) {
                if !seen.contains(&value) {
                    seen.push(value);
                }
            }
            seen.join(", ")
        };
        let axes: Vec<String> = (0..combinations[0].len()).map(axis).collect();
        writeln!(text, "| `{name}/` | {} | {} |", combinations.len(), axes.join(" × ")).unwrap();
    }
    let single: Vec<String> = single
        .iter()
        .map(|(subject, count)| format!("{subject} {count}"))
        .collect();
    writeln!(text, "\nAnd one by one: {}.", single.join(", ")).unwrap();
}

#[test]
fn the_document_of_coverage_is_current_and_nothing_is_left_out() {
    let project = Project::new("coverage", "services: {}\n");
    let list = while_none_is_tried(|| list(&project));
    let cases: Vec<&str> = list.lines().collect();
    let noted = measure(&project, &cases);
    while_none_is_tried(|| drop(project));
    let mut calls: Vec<&str> = Vec::new();
    for (call, ..) in noted.keys() {
        if !calls.contains(&call.as_str()) {
            calls.push(call);
        }
    }
    let mut text = HEAD.to_owned();
    axes(&mut text, &cases);
    let of_kind = |call: &str, kind: &str| count(&noted, |c, k, _, _| c == call && k == kind);
    table(
        &mut text,
        "Calls, and how many cases make them on which sockets",
        &calls,
        KINDS,
        of_kind,
    );
    let waiting = |call: &str, waits: &str| count(&noted, |c, _, w, _| c == call && w == waits);
    table(
        &mut text,
        "Calls on sockets that block, and that do not",
        &calls,
        WAITS,
        waiting,
    );
    let with_address = ["bind", "connect", "sendto", "sendmsg", "sendmmsg"];
    let of_address = |call: &str, address: &str| count(&noted, |c, _, _, a| c == call && a == address);
    table(&mut text, "Calls with an address", &with_address, ADDRESSES, of_address);
    compare_with_file("docs/conformance.md", &text);
    let missing: Vec<String> = calls
        .iter()
        .flat_map(|call| KINDS.iter().map(move |kind| (*call, *kind)))
        .filter(|(call, kind)| {
            is_required(call, kind) && of_kind(call, kind) + of_kind(call, &format!("{kind}only")) == 0
        })
        .map(|(call, kind)| format!("{call} on {kind}"))
        .collect();
    assert!(missing.is_empty(), "no case covers: {}", missing.join(", "));
}
