//! Numbers and tables as text.

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::{Alignment, Style};

use crate::report::{Bound, Row};
use crate::stats::{Better, Interval, Unit};

/// A table; columns without any content are left out, and all but the first `left` are aligned
/// right.
pub fn grid(headers: &[&str], lines: &[Vec<String>], left: usize) -> String {
    let used: Vec<usize> = (0..headers.len())
        .filter(|column| {
            lines
                .iter()
                .any(|line| line.get(*column).is_some_and(|cell| !cell.is_empty()))
        })
        .collect();
    let mut builder = Builder::default();
    builder.push_record(used.iter().map(|column| headers[*column]));
    for line in lines {
        builder.push_record(used.iter().map(|column| line.get(*column).map_or("", String::as_str)));
    }
    let mut table = builder.build();
    table.with(Style::markdown());
    let left = used.iter().filter(|column| **column < left).count();
    if left < used.len() {
        table.modify(Columns::new(left..), Alignment::right());
        table.modify(Rows::first(), Alignment::left());
    }
    format!("{table}\n")
}

pub fn number(value: f64, unit: Unit) -> String {
    format!("{value:.*}", unit.decimals)
}

/// A value with its interval, or with the number of pairs if they are too few for an interval.
pub fn interval(found: Interval, decimals: usize) -> String {
    let median = format!("{:.decimals$}", found.median);
    match (found.is_enough(), found.pairs) {
        (true, _) => format!("{median} ({:.decimals$} to {:.decimals$})", found.low, found.high),
        (false, 1) => format!("{median} (1 pair)"),
        (false, pairs) => format!("{median} ({pairs} pairs)"),
    }
}

/// A ratio of medians.
pub fn ratio(row: &Row) -> String {
    let found = row.comparison.and_then(|comparison| comparison.ratio_p50);
    found.map_or_else(String::new, |found| interval(found, 2))
}

/// The same as a factor of improvement.
pub fn times(row: &Row) -> String {
    let found = row.comparison.and_then(|comparison| comparison.ratio_p50);
    found.map_or_else(String::new, |found| interval(row.better(found), 2))
}

/// The ratio of 99th percentiles.
pub fn tail(row: &Row) -> String {
    // The same if each batch is a single sample: then there is no interval.
    let differs = |found: &Interval| {
        row.comparison
            .is_some_and(|comparison| comparison.ratio_p50 != Some(*found))
    };
    let found = row
        .comparison
        .and_then(|comparison| comparison.ratio_p99)
        .filter(differs);
    found.map_or_else(String::new, |found| interval(found, 2))
}

pub fn difference(row: &Row) -> String {
    let found = row.comparison.map(|comparison| comparison.difference_p50);
    found.map_or_else(String::new, |found| interval(found, row.unit.decimals))
}

pub fn expected(row: &Row) -> String {
    let unit = row.unit;
    let sign = if unit.better == Better::Lower { "≤" } else { "≥" };
    let name = unit.name;
    match row.expected {
        None => String::new(),
        Some(Bound::Ratio(limit)) => format!("{sign} {limit:.2}x"),
        Some(Bound::Times(least)) => format!("≥ {least} times better"),
        Some(Bound::More(limit)) => format!("{sign} {limit} {name} more"),
        Some(Bound::TailMore(limit)) => format!("p99 {sign} {limit} {name} more"),
        Some(Bound::Value(limit)) => format!("{sign} {limit} {name}"),
        Some(Bound::Tail(limit)) => format!("p99 {sign} {limit} {name}"),
    }
}

pub fn met(row: &Row) -> String {
    match (row.expected, row.met) {
        (_, Some(true)) => "yes".to_owned(),
        (_, Some(false)) => "**no**".to_owned(),
        (Some(_), None) => "too few runs".to_owned(),
        (None, None) => String::new(),
    }
}

/// The result, in the terms of the expectation.
pub fn finding(row: &Row) -> String {
    let unit = row.unit;
    match row.expected {
        Some(Bound::Times(_)) => format!("{} times better", times(row)),
        Some(Bound::More(_)) => format!("{} {} more", difference(row), unit.name),
        Some(Bound::TailMore(_)) => {
            let tail = row.base.map_or(0.0, |base| row.found.p99 - base.p99);
            format!("p99 {} {} more", number(tail, unit), unit.name)
        }
        Some(Bound::Value(_)) => format!("{} {}", number(row.found.p50, unit), unit.name),
        Some(Bound::Tail(_)) => format!("p99 {} {}", number(row.found.p99, unit), unit.name),
        Some(Bound::Ratio(_)) | None => format!("{}x", ratio(row)),
    }
}
