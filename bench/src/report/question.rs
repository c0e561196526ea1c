//! One question: the measurements of all variants that take turns.

use anyhow::{Context as _, Result};

use super::row::{Bound, IMSUP, Row, Variants};
use super::{Goal, row};
use crate::rounds::Batches;
use crate::stats::{Measured, Unit};

/// One question; the first variant is the base of all comparisons.
#[derive(Clone, Debug)]
pub struct Question {
    /// The measurements.
    pub what: String,
    /// In which unit.
    pub unit: Unit,
    /// Of each variant.
    pub variants: Vec<(&'static str, Measured)>,
}

impl Question {
    /// One series of these variants. A variant without measurements is left out: the section's gaps
    /// say why.
    ///
    /// # Errors
    /// The base was not measured.
    pub fn of(
        batches: &Batches,
        variants: &[&'static str],
        series: &str,
        what: impl Into<String>,
        unit: Unit,
    ) -> Result<Self> {
        let of = |variant: &&'static str| Ok((*variant, batches.measured(variant, series, unit)?));
        let (first, others) = variants.split_first().context("a question without variants")?;
        let there = others.iter().filter(|variant| batches.has(variant, series));
        Ok(Self {
            what: what.into(),
            unit,
            variants: [first].into_iter().chain(there).map(of).collect::<Result<_>>()?,
        })
    }

    /// Every variant against the first, and imsup's against each baseline's. `again` is the first
    /// once more, whose difference is noise.
    pub fn rows(&self, again: &str) -> Vec<Row> {
        let Some((first, others)) = self.variants.split_first() else {
            return Vec::new();
        };
        let row = |base: &(&'static str, Measured), found: &(&'static str, Measured)| {
            Row::compare(self.what.clone(), self.unit, &base.1, &found.1).of(base.0, found.0)
        };
        let mut rows: Vec<Row> = others.iter().map(|found| row(first, found)).collect();
        for found in others.iter().filter(|(name, _)| *name == IMSUP) {
            let is_baseline = |name: &str| !row::is_imsup(name) && name != again;
            let baselines = others.iter().filter(|(name, _)| is_baseline(name));
            rows.extend(baselines.map(|baseline| row(baseline, found)));
        }
        rows
    }

    /// The same with the expectation of each variant, and its goal.
    pub fn judged(&self, again: &str, judge: impl Fn(Variants) -> Option<(Bound, Goal)>) -> Vec<Row> {
        let rows = self.rows(again).into_iter();
        rows.map(|row| match row.variants.and_then(&judge) {
            Some((bound, goal)) => row.expect(bound).goal(goal),
            None => row,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_all_against_the_first_and_imsup_against_its_peers() {
        let unit = Unit::MICROSECONDS;
        let of = |name, value| (name, Measured::of(&vec![vec![value]; 9], unit).unwrap());
        let variants = vec![
            of("native", 1_000),
            of("native again", 1_000),
            of("imsup, awake", 1_000),
            of("imsup", 2_000),
            of("docker", 9_000),
        ];
        let what = "x".to_owned();
        let rows = Question { what, unit, variants }.judged("native again", |variants| {
            (variants.base == "docker").then_some((Bound::Times(5.0), Goal::PathBesideDocker))
        });
        let found: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((row.variants?.found, row.variants?.base, row.is_worse(), row.met)))
            .collect();
        assert_eq!(
            found,
            [
                ("native again", "native", false, None),
                ("imsup, awake", "native", false, None),
                ("imsup", "native", true, None),
                ("docker", "native", true, None),
                ("imsup", "docker", false, Some(false)),
            ]
        );
    }
}
