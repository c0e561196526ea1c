//! The lines of a suite as tables: one for each question, and one for single lines.

use super::cells::{self, grid, number};
use crate::report::{Row, Variants};
use crate::stats::Summary;

/// All lines; `columns` are the names of the compared variants if the lines have none.
pub fn all(rows: &[Row], columns: [&str; 2]) -> String {
    let together = |a: &Row, b: &Row| match (a.variants, b.variants) {
        (Some(_), Some(_)) => a.what == b.what && a.unit.name == b.unit.name,
        (None, None) => a.base.is_some() == b.base.is_some(),
        _ => false,
    };
    let mut text = String::new();
    for group in rows.chunk_by(together) {
        text += &match group.first() {
            Some(first) if first.variants.is_some() => question(group),
            _ => pairs(group, columns),
        };
        text.push('\n');
    }
    text
}

/// One line of a question's table.
#[derive(Default)]
struct Line<'a> {
    name: &'static str,
    summary: Option<Summary>,
    /// The line against its base.
    row: Option<&'a Row>,
    /// imsup against this line.
    beaten: Option<&'a Row>,
}

/// A question: variants as lines, the base first.
fn question(rows: &[Row]) -> String {
    let mut lines = Vec::<Line<'_>>::new();
    let mut first = "";
    for row in rows {
        let Some(Variants { found, base }) = row.variants else {
            continue;
        };
        if first.is_empty() {
            first = base;
        }
        let known = lines.iter().any(|line| line.name == found && line.row.is_some());
        match lines.iter_mut().find(|line| line.name == base) {
            Some(line) if known => {
                line.beaten = Some(row);
                continue;
            }
            Some(_) => {}
            None => lines.push(Line {
                name: base,
                summary: row.base,
                ..Line::default()
            }),
        }
        lines.push(Line {
            name: found,
            summary: Some(row.found),
            row: Some(row),
            ..Line::default()
        });
    }
    let of = |line: &Line<'_>, cell: fn(&Row) -> String| {
        let text = line.row.map_or_else(String::new, cell);
        match line.row.and_then(|row| row.variants) {
            Some(variants) if variants.base != first && !text.is_empty() => format!("{text} of {}", variants.base),
            _ => text,
        }
    };
    let Some(unit) = rows.first().map(|row| row.unit) else {
        return String::new();
    };
    let cells = |line: &Line<'_>| {
        let value = |pick: fn(Summary) -> f64| line.summary.map_or_else(String::new, |found| number(pick(found), unit));
        let runs = line.summary.map_or_else(String::new, runs);
        // An expectation is of one or the other.
        let judged = line.row.filter(|row| row.expected.is_some()).or(line.beaten);
        vec![
            line.name.to_owned(),
            value(|found| found.p50),
            value(|found| found.p99),
            of(line, cells::ratio),
            of(line, cells::tail),
            of(line, cells::difference),
            line.beaten.map_or_else(String::new, cells::times),
            judged.map_or_else(String::new, cells::expected),
            judged.map_or_else(String::new, cells::met),
            runs,
        ]
    };
    let against = format!("against {first} (95 %)");
    let headers = [
        "",
        "p50",
        "p99",
        &against,
        "p99 (95 %)",
        "difference",
        "imsup against it: times better (95 %)",
        "expected",
        "met",
        RUNS,
    ];
    let lines: Vec<_> = lines.iter().map(cells).collect();
    let what = rows.first().map_or("", |row| row.what.as_str());
    format!("**{what}** ({})\n\n{}", unit.name, grid(&headers, &lines, 1))
}

const RUNS: &str = "samples/batches";

fn runs(summary: Summary) -> String {
    format!("{}/{}", summary.samples, summary.batches)
}

/// Lines that name their own variants, or compare none.
fn pairs(rows: &[Row], [left, right]: [&str; 2]) -> String {
    let compared = rows.iter().any(|row| row.base.is_some());
    let name = |side: &str, figure: &str| match compared {
        true => format!("{side} {figure}"),
        false => figure.to_owned(),
    };
    let (base_p50, p50) = (name(left, "p50"), name(right, "p50"));
    let (base_p99, p99) = (name(left, "p99"), name(right, "p99"));
    let headers = [
        "what",
        "unit",
        &base_p50,
        &p50,
        "ratio (95 %)",
        "difference",
        &base_p99,
        &p99,
        "ratio (95 %)",
        "expected",
        "met",
        RUNS,
    ];
    let cells = |row: &Row| {
        let unit = row.unit;
        let of_base = |pick: fn(Summary) -> f64| row.base.map_or_else(String::new, |found| number(pick(found), unit));
        vec![
            row.what.clone(),
            unit.name.to_owned(),
            of_base(|found| found.p50),
            number(row.found.p50, unit),
            cells::ratio(row),
            cells::difference(row),
            of_base(|found| found.p99),
            number(row.found.p99, unit),
            cells::tail(row),
            cells::expected(row),
            cells::met(row),
            runs(row.found),
        ]
    };
    let lines: Vec<_> = rows.iter().map(cells).collect();
    grid(&headers, &lines, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bound, Goal, Question};
    use crate::stats::{Measured, Unit};

    #[test]
    fn a_question_is_a_table_with_a_line_for_each_variant() {
        let unit = Unit::MICROSECONDS;
        let of = |name, value| (name, Measured::of(&vec![vec![value]; 5], unit).unwrap());
        let question = Question {
            what: "ping".to_owned(),
            unit,
            variants: vec![of("native", 1_000), of("imsup", 2_000), of("docker", 8_000)],
        };
        let rows = question.judged("native again", |variants| {
            (variants.base == "docker").then_some((Bound::Times(5.0), Goal::PathBesideDocker))
        });
        let text = all(&rows, ["a", "b"]);
        let line = |name: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(&format!("| {name} ")));
            let found = lines.next().unwrap_or_else(|| panic!("no {name} in {text}"));
            assert_eq!(lines.next(), None);
            found.split('|').map(str::trim).collect::<Vec<_>>()
        };
        assert!(text.starts_with("**ping** (µs)\n"), "{text}");
        assert_eq!(line("native")[2..5], ["1.0", "1.0", ""]);
        assert_eq!(line("imsup")[4], "2.00 (2.00 to 2.00)");
        assert_eq!(line("docker")[4], "8.00 (8.00 to 8.00)");
        assert_eq!(
            line("docker")[6..9],
            ["4.00 (4.00 to 4.00)", "≥ 5 times better", "**no**"]
        );
    }

    #[test]
    fn a_value_alone_has_no_empty_columns() {
        let unit = Unit::KIB;
        let measured = Measured::of(&[vec![2048]], unit).unwrap();
        let text = all(&[Row::alone("memory", unit, &measured)], ["a", "b"]);
        let header: Vec<_> = text.lines().next().unwrap().split('|').map(str::trim).collect();
        assert_eq!(header, ["", "what", "unit", "p50", "p99", RUNS, ""]);
    }
}
