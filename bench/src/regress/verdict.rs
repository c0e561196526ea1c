//! Worse, the same or better.

use super::{AFTER, AGAIN, Line};
use crate::report::markdown::{grid, interval, number};
use crate::report::{Question, Row};
use crate::stats::{Better, Interval};

/// The part by which counts may grow: they hardly vary, but a call more or less does not matter
/// either.
const TOLERANCE: f64 = 0.01;

/// The verdict on one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Surely worse, and by more than noise alone is.
    Worse,
    /// Neither.
    Same,
    /// Surely better, and by more than noise alone is.
    Better,
    /// Too few pairs to tell.
    Unknown,
}

impl Verdict {
    /// Of times and sizes: the interval of the ratio has to lie beyond 1 and beyond the interval of
    /// the noise.
    pub fn of_times(question: &Question) -> Self {
        let enough = |found: &Interval| found.is_enough();
        match (
            ratio(question, AFTER).filter(enough),
            ratio(question, AGAIN).filter(enough),
        ) {
            (Some(after), Some(noise)) => Self::beyond(after, noise.low.min(1.0), noise.high.max(1.0)),
            _ => Self::Unknown,
        }
    }

    /// Of counts, for which few pairs do.
    pub fn of_counts(question: &Question) -> Self {
        match (ratio(question, AFTER), ratio(question, AGAIN)) {
            (Some(after), Some(noise)) => Self::beyond(
                after,
                noise.low.min(1.0) * (1.0 - TOLERANCE),
                noise.high.max(1.0) * (1.0 + TOLERANCE),
            ),
            _ => Self::Unknown,
        }
    }

    fn beyond(after: Interval, low: f64, high: f64) -> Self {
        if after.low > high {
            Self::Worse
        } else if after.high < low {
            Self::Better
        } else {
            Self::Same
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Worse => "**worse**",
            Self::Same => "same",
            Self::Better => "better",
            Self::Unknown => "too few runs",
        }
    }
}

/// How many times worse the new value is than the old: of rates too.
fn ratio(question: &Question, variant: &str) -> Option<Interval> {
    let rows = question.rows(AGAIN).into_iter();
    let of = |row: &Row| row.variants.is_some_and(|variants| variants.found == variant);
    let found = rows.filter(of).find_map(|row| row.comparison?.ratio_p50)?;
    Some(match question.unit.better {
        Better::Lower => found,
        Better::Higher => found.inverse(),
    })
}

/// All lines as a table, then the missing ones.
pub fn text(lines: &[Line], gaps: &[String]) -> String {
    let cells = |Line { question, verdict }: &Line| {
        let value = |name: &str| {
            let of = question.variants.iter().find(|(variant, _)| *variant == name);
            of.map_or_else(String::new, |(_, found)| number(found.summary().p50, question.unit))
        };
        let ratio = |name| ratio(question, name).map_or_else(String::new, |found| interval(found, 3));
        vec![
            question.what.clone(),
            question.unit.name.to_owned(),
            value(super::BEFORE),
            value(AFTER),
            ratio(AFTER),
            ratio(AGAIN),
            verdict.word().to_owned(),
        ]
    };
    let headers = [
        "what",
        "unit",
        "before",
        "after",
        "times worse (95 %)",
        "the noise (95 %)",
        "verdict",
    ];
    let mut text = grid(&headers, &lines.iter().map(cells).collect::<Vec<_>>(), 2);
    for gap in gaps {
        text += &format!("* **not measured**: {gap}\n");
    }
    let count = |verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    text + &format!(
        "\n{} worse, {} better, {} the same\n",
        count(Verdict::Worse),
        count(Verdict::Better),
        count(Verdict::Same)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regress::SIDES;
    use crate::stats::{Measured, Unit};

    fn question(sides: [&[u64]; 3], unit: Unit) -> Question {
        let of = |(name, samples): (&'static str, &[u64])| {
            let batches: Vec<Vec<u64>> = samples.iter().map(|sample| vec![*sample]).collect();
            (name, Measured::of(&batches, unit).unwrap())
        };
        Question {
            what: "x".to_owned(),
            unit,
            variants: SIDES.into_iter().zip(sides).map(of).collect(),
        }
    }

    #[test]
    fn a_time_is_worse_only_beyond_interval_and_noise() {
        let unit = Unit::MICROSECONDS;
        let of = |again: &[u64], after: &[u64]| Verdict::of_times(&question([&[1_000; 9], again, after], unit));
        let noisy = [800, 900, 900, 1_000, 1_000, 1_000, 1_100, 1_200, 1_300];
        assert_eq!(of(&[1_000; 9], &[1_050; 9]), Verdict::Worse);
        assert_eq!(of(&noisy, &[1_050; 9]), Verdict::Same);
        assert_eq!(of(&noisy, &[1_500; 9]), Verdict::Worse);
        assert_eq!(of(&[1_000; 9], &noisy), Verdict::Same);
        assert_eq!(of(&[1_000; 9], &[900; 9]), Verdict::Better);
        let few = question([&[1_000; 2], &[1_000; 2], &[9_000; 2]], unit);
        assert_eq!(Verdict::of_times(&few), Verdict::Unknown);
    }

    #[test]
    fn a_rate_is_worse_when_it_is_lower() {
        let unit = Unit::REQUESTS_PER_SECOND;
        let slower = question([&[100; 9], &[100; 9], &[90; 9]], unit);
        assert_eq!(Verdict::of_times(&slower), Verdict::Worse);
    }

    #[test]
    fn a_count_is_told_from_one_pair_but_not_by_one_call() {
        let of = |after: u64| Verdict::of_counts(&question([&[1_000], &[1_001], &[after]], Unit::CALLS));
        assert_eq!(of(1_002), Verdict::Same);
        assert_eq!(of(1_100), Verdict::Worse);
        assert_eq!(of(900), Verdict::Better);
    }
}
