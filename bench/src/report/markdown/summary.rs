//! The summary: the goals, and where imsup loses.

use std::fmt::Write;

use super::cells::{expected, finding, grid, met, number, ratio, tail};
use crate::report::{Goal, Row, Section};

/// The number of lines of a goal that are listed even if all are met.
const FEW: usize = 6;

fn rows<'a>(sections: &'a [&Section]) -> impl Iterator<Item = (&'static str, &'a Row)> {
    sections
        .iter()
        .flat_map(|section| section.rows.iter().map(|row| (section.name, row)))
}

/// Every goal, its measurements, and whether it was met; then all other expectations that failed.
pub fn goals(sections: &[&Section]) -> String {
    let mut lines = Vec::new();
    for goal in Goal::ALL {
        let of_goal: Vec<_> = rows(sections).filter(|(_, row)| row.goal == Some(goal)).collect();
        let mut line = |measured: String, met: String| lines.push(vec![goal.text().to_owned(), measured, met]);
        if of_goal.is_empty() {
            line("nothing was measured of it".to_owned(), "not measured".to_owned());
        }
        let many = of_goal.len() > FEW;
        if many {
            let good = of_goal.iter().filter(|(_, row)| row.met == Some(true)).count();
            let all = of_goal.len();
            let verdict = if good == all { "yes" } else { "**not all**" };
            line(format!("met in {good} of {all} comparisons"), verdict.to_owned());
        }
        for (suite, row) in of_goal {
            if !many || row.met != Some(true) {
                line(format!("{}: {}", name(suite, row), finding(row)), met(row));
            }
        }
    }
    let mut text = grid(&["goal", "measured", "met"], &lines, 3);
    let others: Vec<_> = rows(sections)
        .filter(|(_, row)| row.goal.is_none() && row.expected.is_some())
        .collect();
    let missed: Vec<_> = others.iter().filter(|(_, row)| row.met == Some(false)).collect();
    let (count, all) = (others.len() - missed.len(), others.len());
    let _ = writeln!(
        text,
        "\nOf what else the suites expect, {count} of {all} are not missed. Missed:\n"
    );
    for (suite, row) in missed {
        let _ = writeln!(
            text,
            "* {}: {}; expected {}",
            name(suite, row),
            finding(row),
            expected(row)
        );
    }
    text
}

fn name(suite: &str, row: &Row) -> String {
    match row.variants {
        Some(variants) => format!("{suite}: {}: {} against {}", row.what, variants.found, variants.base),
        None => format!("{suite}: {}", row.what),
    }
}

/// Every line of imsup's that is surely worse than its base, and how often noise alone is.
pub fn losses(sections: &[&Section]) -> String {
    let line = |(suite, row): (&str, &Row)| {
        let unit = row.unit;
        let (found, base) = row
            .variants
            .map_or(("imsup", "native"), |variants| (variants.found, variants.base));
        vec![
            suite.to_owned(),
            row.what.clone(),
            format!("{found} against {base}"),
            format!("{} {}", number(row.found.p50, unit), unit.name),
            row.base
                .map_or_else(String::new, |base| format!("{} {}", number(base.p50, unit), unit.name)),
            ratio(row),
            tail(row),
        ]
    };
    let imsups = || rows(sections).filter(|(_, row)| row.is_imsups() && row.comparison.is_some());
    let lines: Vec<_> = imsups().filter(|(_, row)| row.is_worse()).map(line).collect();
    let again =
        || rows(sections).filter(|(_, row)| row.variants.is_some_and(|variants| variants.found.ends_with("again")));
    let noise = again().filter(|(_, row)| row.is_worse()).count();
    let text = format!(
        "Every comparison, of {}, in which imsup is worse than native or a baseline by more than the interval; the goals allow some of them. \
         Noise alone does that, too: *native again* is worse than *native* in {noise} of {} comparisons.\n\n",
        imsups().count(),
        again().count()
    );
    if lines.is_empty() {
        return text + "None.\n";
    }
    let headers = [
        "suite",
        "what",
        "who",
        "p50",
        "the other's p50",
        "ratio (95 %)",
        "p99 ratio (95 %)",
    ];
    text + &grid(&headers, &lines, 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bound, Question};
    use crate::stats::{Measured, Unit};

    fn section(imsup: u64) -> Section {
        let unit = Unit::MICROSECONDS;
        let of = |name, value| (name, Measured::of(&vec![vec![value]; 5], unit).unwrap());
        let question = Question {
            what: "ping".to_owned(),
            unit,
            variants: vec![of("native", 1_000), of("imsup", imsup), of("docker", 8_000)],
        };
        let mut section = Section::default().named("wake", "x");
        section.rows = question.judged("native again", |variants| {
            (variants.found == "imsup" && variants.base == "native").then_some((Bound::Ratio(1.0), Goal::Wake))
        });
        section
    }

    #[test]
    fn a_goal_of_which_nothing_was_measured_is_said() {
        let text = goals(&[&section(900)]);
        let of = |goal: Goal| text.lines().find(|line| line.contains(goal.text())).unwrap();
        assert!(of(Goal::Wake).contains("0.90 (0.90 to 0.90)x"), "{text}");
        assert!(of(Goal::Wake).trim_end().ends_with("| yes          |"), "{text}");
        assert!(of(Goal::Memory).contains("not measured"), "{text}");
    }

    #[test]
    fn a_loss_is_listed_and_a_win_is_not() {
        let text = losses(&[&section(2_000)]);
        assert!(text.contains("2.00 (2.00 to 2.00)"), "{text}");
        assert!(!text.contains("8.0"), "{text}");
        assert!(losses(&[&section(900)]).ends_with("None.\n"));
    }
}
