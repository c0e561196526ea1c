//! The report as Markdown, which is also what the terminal shows.

use std::fmt::Write;

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};

use super::{Bound, Row, Section};
use crate::machine::Machine;
use crate::stats::{Better, Interval, Summary, Unit};

/// The file that is committed.
///
/// `pictures` is the directory of its pictures.
pub fn whole(title: &str, pictures: &str, machine: &Machine, sections: &[&Section]) -> String {
    let mut text = format!(
        "# {title}: measured\n\nWritten by `make bench`; do not edit. Native and imsup take turns within one run. Every ratio and \
         difference is the median over pairs of neighbouring batches, with its 95 % interval; an expectation counts as missed \
         when that interval lies beyond it wholly. Of rates, p99 is what 99 % of the batches exceed. p50 and p99 are of all samples; an \
         expectation of a p99 is of that.\n\n",
    );
    text += &self::machine(machine);
    for one in sections {
        text += &section(one);
        for plot in &one.plots {
            let _ = write!(text, "\n![{}]({pictures}/{}.svg)\n", plot.title, plot.name);
        }
    }
    text
}

/// On what it was measured.
pub fn machine(machine: &Machine) -> String {
    let mut text = format!(
        "* {} on {} × {}, {} MiB, {}; load when it began: {}\n* {}, commit {}\n",
        machine.time,
        machine.processors,
        machine.processor,
        machine.memory_mib,
        machine.kernel,
        machine.load,
        machine.imsup,
        machine.commit
    );
    if let Some(load) = &machine.load_after {
        let _ = writeln!(text, "* load when it ended, these benchmarks included: {load}");
    }
    for (name, version) in &machine.programs {
        let _ = writeln!(text, "* {name}: {version}");
    }
    text
}

/// One suite.
pub fn section(section: &Section) -> String {
    let mut text = format!("\n## {}\n\n{}.\n\n", section.name, section.about);
    if !section.rows.is_empty() {
        text += &table(&section.rows, section.columns.unwrap_or(["native", "imsup"]));
        text.push('\n');
    }
    let mut list = |mark: &str, items: &[String]| {
        for item in items {
            let _ = writeln!(text, "* {mark}{item}");
        }
    };
    list("", &section.notes);
    list("**not measured**: ", &section.gaps);
    list("**failed**: ", section.failure.as_slice());
    text
}

fn table(rows: &[Row], [left, right]: [&str; 2]) -> String {
    let mut builder = Builder::default();
    builder.push_record([
        "what",
        "unit",
        &format!("{left} p50"),
        &format!("{right} p50"),
        "ratio (95 %)",
        "difference",
        &format!("{left} p99"),
        &format!("{right} p99"),
        "ratio (95 %)",
        "samples/batches",
        "expected",
        "met",
    ]);
    for row in rows {
        builder.push_record(cells(row));
    }
    let mut table = builder.build();
    table.with(Style::markdown());
    table.modify(Columns::new(2..10), Alignment::right());
    format!("{table}\n")
}

fn cells(row: &Row) -> [String; 12] {
    let unit = row.unit;
    let number = |value: f64| format!("{value:.*}", unit.decimals);
    let of_native = |pick: fn(Summary) -> f64| row.native.map_or_else(none, |summary| number(pick(summary)));
    let ratio = |found: Option<Interval>| match (found, row.expected) {
        (None, _) => none(),
        (Some(found), Some(Bound::Times(_))) => format!("{} times better", interval(row.better(found), 2)),
        (Some(found), _) => interval(found, 2),
    };
    let comparison = row.comparison;
    [
        row.what.clone(),
        unit.name.to_owned(),
        of_native(|summary| summary.p50),
        number(row.imsup.p50),
        ratio(comparison.and_then(|comparison| comparison.ratio_p50)),
        comparison.map_or_else(none, |comparison| interval(comparison.difference_p50, unit.decimals)),
        of_native(|summary| summary.p99),
        number(row.imsup.p99),
        ratio(comparison.and_then(|comparison| comparison.ratio_p99)),
        format!("{}/{}", row.imsup.samples, row.imsup.batches),
        row.expected.map_or_else(none, |bound| expectation(bound, unit)),
        match row.met {
            Some(true) => "yes".to_owned(),
            Some(false) => "**no**".to_owned(),
            None => none(),
        },
    ]
}

fn none() -> String {
    "-".to_owned()
}

fn interval(interval: Interval, decimals: usize) -> String {
    format!(
        "{:.decimals$} ({:.decimals$} to {:.decimals$})",
        interval.median, interval.low, interval.high
    )
}

fn expectation(bound: Bound, unit: Unit) -> String {
    let sign = if unit.better == Better::Lower { "≤" } else { "≥" };
    match bound {
        Bound::Ratio(limit) => format!("{sign} {limit:.2}x"),
        Bound::Times(least) => format!("≥ {least} times better"),
        Bound::More(limit) => format!("{sign} {limit} {} more", unit.name),
        Bound::MoreAndTail(limit, tail) => {
            format!(
                "{sign} {limit} {unit} more, p99 {sign} {tail} {unit} more",
                unit = unit.name
            )
        }
        Bound::Value(limit) => format!("{sign} {limit} {}", unit.name),
        Bound::Tail(limit) => format!("p99 {sign} {limit} {}", unit.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Measured;

    #[test]
    fn a_loss_is_said_as_plainly_as_a_win() {
        let unit = Unit::MICROSECONDS;
        let native = Measured::of(&[vec![1_000], vec![1_000]], unit).unwrap();
        let imsup = Measured::of(&[vec![2_000], vec![2_000]], unit).unwrap();
        let mut one = Section::default().named("x", "y");
        one.rows
            .push(Row::compare("connect", unit, &native, &imsup).expect(Bound::Ratio(1.25)));
        one.gaps.push("node: it is not installed".to_owned());
        let text = section(&one);
        for part in ["2.00 (2.00 to 2.00)", "≤ 1.25x", "**no**", "**not measured**: node"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
