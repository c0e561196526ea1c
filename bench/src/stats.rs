//! Distributions, and their comparison.
//!
//! Samples come in batches, native and imsup alternately. Each batch is compared with the batch of
//! the other variant taken right after it, so that a disturbance longer than a batch affects both.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Four digits: quantiles are exact to 0.01 %.
const DIGITS: u8 = 4;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, sizes.
    Lower,
    /// Rates.
    Higher,
}

/// A unit, and the conversion of raw samples to it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Unit {
    /// Its name.
    pub name: &'static str,
    /// The factor for raw samples.
    #[serde(skip)]
    pub scale: f64,
    /// Decimals shown.
    #[serde(skip)]
    pub decimals: usize,
    /// Which way is better.
    pub better: Better,
}

impl Unit {
    /// Of samples in nanoseconds.
    pub const MICROSECONDS: Self = Self::lower("µs", 1e-3, 1);
    /// Of samples in nanoseconds.
    pub const MILLISECONDS: Self = Self::lower("ms", 1e-6, 2);
    /// Of samples that are the nanoseconds of a thousand calls.
    pub const NANOSECONDS_PER_CALL: Self = Self::lower("ns", 1e-3, 1);
    /// Of samples in bytes.
    pub const KIB: Self = Self::lower("KiB", 1.0 / 1024.0, 2);
    /// Of samples that are the nanoseconds of processor time in a second.
    pub const SHARE: Self = Self::lower("% of a core", 1e-7, 4);
    /// Of counted system calls.
    pub const CALLS: Self = Self::lower("calls", 1.0, 0);
    /// Of counted instructions.
    pub const INSTRUCTIONS: Self = Self::lower("million", 1e-6, 3);
    /// Of samples in bytes a second.
    pub const MIB_PER_SECOND: Self = Self::higher("MiB/s", 1.0 / (1024.0 * 1024.0));
    /// Of samples in requests a second.
    pub const REQUESTS_PER_SECOND: Self = Self::higher("req/s", 1.0);

    /// Of samples in thousandths of the unit.
    pub const MIB_SECONDS: Self = Self::lower("MiB·s", 1e-3, 1);
    /// Of samples in thousandths of the unit.
    pub const CPU_SECONDS: Self = Self::lower("CPU·s", 1e-3, 3);
    /// Of samples in connections a second.
    pub const CONNECTIONS_PER_SECOND: Self = Self::higher("conn/s", 1.0);
    /// Of samples in datagrams a second.
    pub const DATAGRAMS_PER_SECOND: Self = Self::higher("dgram/s", 1.0);

    const fn lower(name: &'static str, scale: f64, decimals: usize) -> Self {
        Self {
            name,
            scale,
            decimals,
            better: Better::Lower,
        }
    }

    const fn higher(name: &'static str, scale: f64) -> Self {
        Self {
            name,
            scale,
            decimals: 0,
            better: Better::Higher,
        }
    }
}

/// The measurements of one variant.
#[derive(Clone, Debug)]
pub struct Measured {
    p50: f64,
    p99: f64,
    /// Of each batch.
    p50s: Vec<f64>,
    p99s: Vec<f64>,
    samples: usize,
}

impl Measured {
    /// From raw samples in batches. For rates, the 99th percentile is the rate that 99 % exceed.
    ///
    /// # Errors
    /// There are no samples.
    pub fn of(batches: &[Vec<u64>], unit: Unit) -> Result<Self> {
        let all = quantiles(batches.iter().flatten(), unit)?;
        let each: Vec<(f64, f64)> = batches
            .iter()
            .map(|batch| quantiles(batch, unit))
            .collect::<Result<_>>()?;
        let (p50s, p99s) = each.into_iter().unzip();
        Ok(Self {
            p50: all.0,
            p99: all.1,
            p50s,
            p99s,
            samples: batches.iter().map(Vec::len).sum(),
        })
    }

    /// From percentiles that another tool reported, a pair for each of its runs: their medians.
    ///
    /// # Errors
    /// There are none.
    pub fn reported(p50s: &[u64], p99s: &[u64], unit: Unit) -> Result<Self> {
        let scaled = |values: &[u64]| {
            values
                .iter()
                .map(|value| *value as f64 * unit.scale)
                .collect::<Vec<f64>>()
        };
        Ok(Self {
            p50: quantiles(p50s, unit)?.0,
            p99: quantiles(p99s, unit)?.0,
            p50s: scaled(p50s),
            p99s: scaled(p99s),
            samples: p50s.len(),
        })
    }

    /// For the report.
    pub fn summary(&self) -> Summary {
        Summary {
            p50: self.p50,
            p99: self.p99,
            samples: self.samples,
            batches: self.p50s.len(),
        }
    }
}

fn quantiles<'a>(values: impl IntoIterator<Item = &'a u64>, unit: Unit) -> Result<(f64, f64)> {
    let mut histogram = Histogram::<u64>::new(DIGITS).context("making a histogram")?;
    for value in values {
        histogram.record(*value).context("a sample out of range")?;
    }
    anyhow::ensure!(!histogram.is_empty(), "nothing was measured");
    let tail = if unit.better == Better::Lower { 0.99 } else { 0.01 };
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 * unit.scale;
    Ok((at(0.5), at(tail)))
}

/// Quantiles of one variant.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// The median of all samples.
    pub p50: f64,
    /// The 99th percentile of all samples; for rates, the value that 99 % exceed.
    pub p99: f64,
    /// How many samples.
    pub samples: usize,
    /// In how many batches.
    pub batches: usize,
}

/// The median of a value over the pairs of batches, and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// The value is not below this.
    pub low: f64,
    /// Nor above this.
    pub high: f64,
    /// Of how many pairs.
    pub pairs: usize,
}

/// As few pairs as an interval can be told from: the least and the greatest of five enclose the
/// median with 94 % confidence.
const ENOUGH: usize = 5;

impl Interval {
    /// The median of `values`, with the order statistics that enclose it (the binomial's normal
    /// approximation): no distribution is assumed. `None` without values, or if a value is no
    /// number.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        if !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let last = count.checked_sub(1)?;
        let half_width = 0.98 * (count as f64).sqrt();
        let middle = count as f64 / 2.0;
        let low = (middle - half_width).floor().max(0.0) as usize;
        let high = ((middle + half_width).ceil() as usize).min(last);
        let median = (values[last / 2] + values[count / 2]) / 2.0;
        Some(Self {
            median,
            low: values[low],
            high: values[high],
            pairs: count,
        })
    }

    /// True if there are enough pairs for an interval.
    pub fn is_enough(&self) -> bool {
        self.pairs >= ENOUGH
    }

    /// The inverse. Exact for an odd number of values; else the median is that of the middle two.
    pub fn inverse(self) -> Self {
        Self {
            median: self.median.recip(),
            low: self.high.recip(),
            high: self.low.recip(),
            pairs: self.pairs,
        }
    }
}

/// One variant against another, by pairs of batches.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
    /// The variant divided by the base, medians; `None` if the base was zero.
    pub ratio_p50: Option<Interval>,
    /// The same of the 99th percentiles.
    pub ratio_p99: Option<Interval>,
    /// The variant less the base, medians.
    pub difference_p50: Interval,
}

impl Comparison {
    /// Compares; `None` without pairs.
    pub fn of(base: &Measured, found: &Measured) -> Option<Self> {
        let pairs = |base: &[f64], found: &[f64], by: fn(f64, f64) -> f64| {
            let pairs = base.iter().zip(found);
            Interval::of(pairs.map(|(base, found)| by(*found, *base)).collect())
        };
        Some(Self {
            ratio_p50: pairs(&base.p50s, &found.p50s, |found, base| found / base),
            ratio_p99: pairs(&base.p99s, &found.p99s, |found, base| found / base),
            difference_p50: pairs(&base.p50s, &found.p50s, |found, base| found - base)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_has_no_width() {
        let interval = Interval::of(vec![2.0; 30]).unwrap();
        assert_eq!((interval.low, interval.median, interval.high), (2.0, 2.0, 2.0));
        assert!(interval.is_enough());
        assert!(!Interval::of(vec![2.0; 4]).unwrap().is_enough());
    }

    #[test]
    fn the_interval_encloses_the_median_and_narrows() {
        let few = Interval::of((0..9).map(f64::from).collect()).unwrap();
        assert_eq!((few.low, few.median, few.high), (1.0, 4.0, 8.0));
        let many = Interval::of((0..900).map(|i| f64::from(i) / 100.0).collect()).unwrap();
        assert!(many.low > few.low && many.high < few.high, "{many:?}");
        assert_eq!(Interval::of(Vec::new()), None);
        assert_eq!(Interval::of(vec![1.0, f64::INFINITY]), None);
    }

    #[test]
    fn batches_are_compared_in_pairs() {
        // A disturbance that triples both of a pair leaves the ratio alone.
        let native = Measured::of(&[vec![1_000], vec![3_000], vec![1_000]], Unit::MICROSECONDS).unwrap();
        let imsup = Measured::of(&[vec![2_000], vec![6_000], vec![2_000]], Unit::MICROSECONDS).unwrap();
        let comparison = Comparison::of(&native, &imsup).unwrap();
        let ratio = comparison.ratio_p50.unwrap();
        assert!((ratio.low - 2.0).abs() < 1e-3);
        assert!((ratio.high - 2.0).abs() < 1e-3);
    }

    #[test]
    fn the_tail_of_a_rate_is_its_low_end() {
        let rates: Vec<u64> = (1..=100).collect();
        let measured = Measured::of(&[rates], Unit::REQUESTS_PER_SECOND).unwrap();
        assert!(measured.summary().p99 < 3.0);
    }
}
