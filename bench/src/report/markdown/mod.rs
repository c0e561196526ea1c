//! The report as Markdown, which is also shown on the terminal.

mod cells;
mod summary;
mod systems;
mod tables;

pub use cells::{grid, interval, number};

use std::fmt::Write;

use super::{Heading, Report, Section};
use crate::machine::Machine;

/// The file that is committed.
///
/// The pictures are in a directory of the table's name.
pub fn whole(table: &Heading, machine: &Machine, sections: &[&Section]) -> String {
    let mut text = format!(
        "# {}: measured\n\nWritten by `{}`; do not edit.\n",
        table.title, table.command
    );
    if table.beside_others {
        text += "\n## What is compared\n\n";
        text += &systems::table();
        text += "\n## The goals\n\n";
        text += &summary::goals(sections);
        text += "\n## Where imsup loses\n\n";
        text += &summary::losses(sections);
    }
    text += "\n## How to read the numbers\n\n";
    text += READING;
    text += "\n## The machine\n\n";
    text += &self::machine(machine);
    for one in sections {
        text += &section(one);
        for plot in &one.plots {
            let _ = write!(text, "\n![{}]({}/{}.svg)\n", plot.title, table.name, plot.name);
        }
    }
    text
}

/// The last run, even if incomplete.
pub fn latest(report: &Report) -> String {
    let mut text = format!("# The last run{}\n\n", if report.full { "" } else { ", a quick one" });
    text += &machine(&report.machine);
    for one in &report.sections {
        text += &section(one);
    }
    text
}

const READING: &str = "\
* All variants take turns within one run (A B C A B C, who begins rotates), in batches. A ratio or difference is the median over pairs of \
batches of the same round, with the 95 % interval of that median by order statistics, which assumes nothing about how the samples are \
distributed. Where there are fewer than 5 pairs, their number is given instead of an interval, and nothing is judged by them.
* *native again* is a second native instance: how far it is from 1.00 is how far noise goes.
* An expectation counts as missed when the interval lies beyond it wholly. p50 and p99 are of all samples; of rates, p99 is what 99 % of the \
samples exceed. An expectation of a p99 is of that.
";

/// The machine of the measurements.
pub fn machine(machine: &Machine) -> String {
    let mut text = format!(
        "* {} on {} × {}{}, {} MiB, {}; load when it began: {}\n* {}, commit {}\n* frequency governor: {}; cgroups: {}\n",
        machine.time,
        machine.processors,
        machine.processor,
        if machine.virtual_machine {
            " (a virtual machine)"
        } else {
            ""
        },
        machine.memory_mib,
        machine.kernel,
        machine.load,
        machine.imsup,
        machine.commit,
        machine.governor,
        machine.cgroups,
    );
    if let Some(load) = &machine.load_after {
        let _ = writeln!(text, "* load when it ended, these benchmarks included: {load}");
    }
    let list = |pairs: &[(String, String)]| {
        let pairs = pairs.iter().map(|(name, value)| format!("{name}: {value}"));
        pairs.collect::<Vec<_>>().join("; ")
    };
    let _ = writeln!(text, "* mitigations: {}", list(&machine.mitigations));
    for (name, version) in &machine.programs {
        let _ = writeln!(text, "* {name}: {version}");
    }
    text
}

/// One suite.
pub fn section(section: &Section) -> String {
    let mut text = format!("\n## {}\n\n{}.\n\n", section.name, section.about);
    text += &tables::all(&section.rows, section.columns.unwrap_or(["native", "imsup"]));
    let mut list = |mark: &str, items: &[String]| {
        for item in items {
            let _ = writeln!(text, "* {mark}{item}");
        }
    };
    list("", &section.notes);
    list("**not measured**: ", &section.gaps);
    list("**failed**: ", section.failure.as_slice());
    list("", &[format!("this suite took {} s", section.took_s)]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bound, Row};
    use crate::stats::{Measured, Unit};

    #[test]
    fn a_loss_is_said_as_plainly_as_a_win() {
        let unit = Unit::MICROSECONDS;
        let native = Measured::of(&vec![vec![1_000]; 5], unit).unwrap();
        let imsup = Measured::of(&vec![vec![2_000]; 5], unit).unwrap();
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
