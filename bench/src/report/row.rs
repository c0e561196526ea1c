//! One line of a report: the measurement of one variant, its base, and the expectation.

use serde::Serialize;

use super::Goal;
use crate::stats::{Better, Comparison, Interval, Measured, Summary, Unit};

/// The variant that is imsup.
pub const IMSUP: &str = "imsup";

/// True if a variant is imsup in one of its states, such as 'imsup, awake'.
pub fn is_imsup(variant: &str) -> bool {
    variant.starts_with(IMSUP)
}

/// The expectation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The base's median times this; for rates, at least.
    Ratio(f64),
    /// At least this many times better than the base, which is a baseline: a time that is this part
    /// of it, or a rate that is so much higher.
    Times(f64),
    /// The base's median and this more, in the line's unit.
    More(f64),
    /// The base's 99th percentile and this more, in the line's unit.
    TailMore(f64),
    /// This, in the line's unit.
    Value(f64),
    /// This, in the line's unit, for the 99th percentile.
    Tail(f64),
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The measurements.
    pub what: String,
    /// The variant and its base; `None` if `what` names them, or if the line is imsup's.
    pub variants: Option<Variants>,
    /// In which unit.
    pub unit: Unit,
    /// The base: native, unless another is named.
    pub base: Option<Summary>,
    /// The measurement.
    pub found: Summary,
    /// A variant against its base.
    pub comparison: Option<Comparison>,
    /// The expectation.
    pub expected: Option<Bound>,
    /// True if the expectation was met: a bound is missed if the whole 95 % interval lies beyond
    /// it. For the 99th percentile all samples count: batches are too short for a percentile each.
    /// `None` without an expectation, or with too few pairs.
    pub met: Option<bool>,
    /// Which goal that is.
    pub goal: Option<Goal>,
}

/// The comparison of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Variants {
    /// The measurement.
    pub found: &'static str,
    /// The base.
    pub base: &'static str,
}

impl Row {
    /// Native against imsup, or as `what` says.
    pub fn compare(what: impl Into<String>, unit: Unit, base: &Measured, found: &Measured) -> Self {
        Self {
            base: Some(base.summary()),
            comparison: Comparison::of(base, found),
            ..Self::alone(what, unit, found)
        }
    }

    /// imsup alone.
    pub fn alone(what: impl Into<String>, unit: Unit, found: &Measured) -> Self {
        Self {
            what: what.into(),
            variants: None,
            unit,
            base: None,
            found: found.summary(),
            comparison: None,
            expected: None,
            met: None,
            goal: None,
        }
    }

    /// The same with the variants' names: lines with the same `what` are one table.
    pub fn of(mut self, base: &'static str, found: &'static str) -> Self {
        self.variants = Some(Variants { found, base });
        self
    }

    /// The same with an expectation.
    pub fn expect(mut self, bound: Bound) -> Self {
        self.expected = Some(bound);
        self.met = match (bound, self.comparison) {
            (Bound::Value(limit), _) => Some(self.found.p50 <= limit),
            (Bound::Tail(limit), _) => Some(self.found.p99 <= limit),
            (Bound::TailMore(limit), _) => self.base.map(|base| self.found.p99 - base.p99 <= limit),
            (_, Some(comparison)) if !comparison.difference_p50.is_enough() => None,
            (Bound::Ratio(limit), Some(comparison)) => comparison.ratio_p50.map(|ratio| self.within(ratio, limit)),
            (Bound::Times(least), Some(comparison)) => {
                comparison.ratio_p50.map(|ratio| self.better(ratio).high >= least)
            }
            (Bound::More(limit), Some(comparison)) => Some(self.within(comparison.difference_p50, limit)),
            (_, None) => None,
        };
        self
    }

    /// With the goal that this is.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// True if the line measures imsup.
    pub fn is_imsups(&self) -> bool {
        self.variants.is_none_or(|variants| is_imsup(variants.found))
    }

    /// True if the line is surely worse than its base.
    pub fn is_worse(&self) -> bool {
        let ratio = self.comparison.and_then(|comparison| comparison.ratio_p50);
        ratio.is_some_and(|ratio| ratio.is_enough() && !self.within(ratio, 1.0))
    }

    /// The factor of improvement, if the line is that many times better.
    pub fn better(&self, ratio: Interval) -> Interval {
        match self.unit.better {
            Better::Lower => ratio.inverse(),
            Better::Higher => ratio,
        }
    }

    fn within(&self, found: Interval, limit: f64) -> bool {
        match self.unit.better {
            Better::Lower => found.low <= limit,
            Better::Higher => found.high >= limit,
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn measured(samples: &[u64], unit: Unit) -> Measured {
        let batches: Vec<Vec<u64>> = samples.iter().map(|sample| vec![*sample]).collect();
        Measured::of(&batches, unit).unwrap()
    }

    fn met(native: &[u64], imsup: &[u64], unit: Unit, bound: Bound) -> Option<bool> {
        Row::compare("x", unit, &measured(native, unit), &measured(imsup, unit))
            .expect(bound)
            .met
    }

    #[test]
    fn a_time_is_missed_when_it_is_surely_longer() {
        let unit = Unit::MICROSECONDS;
        let native = [10_000; 9];
        assert_eq!(met(&native, &[12_000; 9], unit, Bound::Ratio(1.25)), Some(true));
        assert_eq!(met(&native, &[13_000; 9], unit, Bound::Ratio(1.25)), Some(false));
        assert_eq!(met(&native, &[13_000; 9], unit, Bound::More(2.0)), Some(false));
        let noisy = [9_000, 9_500, 9_900, 10_000, 10_100, 10_200, 10_900, 11_000, 12_000];
        assert_eq!(met(&native, &noisy, unit, Bound::Ratio(1.0)), Some(true));
    }

    #[test]
    fn a_tail_is_bounded_for_itself() {
        let unit = Unit::MICROSECONDS;
        let native = [10_000; 9];
        let mut samples = [11_000; 9];
        let bound = Bound::TailMore(5.0);
        assert_eq!(met(&native, &samples, unit, bound), Some(true));
        samples[4] = 16_000;
        assert_eq!(met(&native, &samples, unit, bound), Some(false));
        assert_eq!(met(&native, &samples, unit, Bound::Tail(15.0)), Some(false));
        assert_eq!(met(&native, &samples, unit, Bound::Value(15.0)), Some(true));
    }

    #[test]
    fn a_rate_is_missed_when_it_is_surely_lower() {
        let unit = Unit::REQUESTS_PER_SECOND;
        assert_eq!(met(&[100; 9], &[105; 9], unit, Bound::Ratio(1.0)), Some(true));
        assert_eq!(met(&[100; 9], &[90; 9], unit, Bound::Ratio(1.0)), Some(false));
    }

    #[test]
    fn a_peer_is_to_be_beaten_by_so_many_times() {
        let (time, rate) = (Unit::MICROSECONDS, Unit::REQUESTS_PER_SECOND);
        assert_eq!(met(&[32_000; 9], &[2_000; 9], time, Bound::Times(15.0)), Some(true));
        assert_eq!(met(&[28_000; 9], &[2_000; 9], time, Bound::Times(15.0)), Some(false));
        assert_eq!(met(&[100; 9], &[120; 9], rate, Bound::Times(1.15)), Some(true));
        assert_eq!(met(&[100; 9], &[110; 9], rate, Bound::Times(1.15)), Some(false));
    }

    #[test]
    fn a_value_needs_no_native_one() {
        let unit = Unit::KIB;
        let row = Row::alone("x", unit, &measured(&[9 * 1024], unit)).expect(Bound::Value(8.0));
        assert_eq!(row.met, Some(false));
    }

    #[test]
    fn a_few_pairs_tell_nothing() {
        let unit = Unit::MICROSECONDS;
        assert_eq!(met(&[10_000; 4], &[90_000; 4], unit, Bound::Ratio(1.0)), None);
        assert_eq!(met(&[10_000; 5], &[90_000; 5], unit, Bound::Ratio(1.0)), Some(false));
    }
}
