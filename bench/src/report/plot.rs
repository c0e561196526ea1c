//! Distributions as curves: which share of the samples is no greater than a value.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde::Serialize;

use crate::rounds::Batches;
use crate::stats::Unit;

/// The size of a picture, in pixels.
const SIZE: (u32, u32) = (800, 420);
/// Points of a curve.
const POINTS: usize = 200;

/// One picture.
#[derive(Debug, Serialize)]
pub struct Plot {
    /// The file's name, without its extension.
    pub name: String,
    /// The subject of the picture.
    pub title: String,
    /// The unit of the values.
    pub unit: Unit,
    /// Its curves.
    pub curves: Vec<Curve>,
}

/// The distribution of one variant: its quantiles from 0 to 1, evenly spaced.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// The variant.
    pub name: &'static str,
    /// The quantiles, in the plot's unit.
    pub quantiles: Vec<f64>,
}

impl Plot {
    /// The distributions of one series of these variants, as far as measured.
    ///
    /// # Errors
    /// No variant was measured.
    pub fn of(
        name: impl Into<String>,
        title: impl Into<String>,
        unit: Unit,
        batches: &Batches,
        series: &str,
        variants: &[&'static str],
    ) -> Result<Self> {
        let curve = |variant: &&'static str| {
            let mut samples = batches.of(variant, series)?.concat();
            samples.sort_unstable();
            let last = samples.len().saturating_sub(1);
            let at = |point: usize| {
                samples
                    .get(point * last / POINTS)
                    .map(|sample| *sample as f64 * unit.scale)
            };
            Ok(Curve {
                name: variant,
                quantiles: (0..=POINTS).filter_map(at).collect(),
            })
        };
        let there = variants.iter().filter(|variant| batches.has(variant, series));
        let curves: Vec<Curve> = there.map(curve).collect::<Result<_>>()?;
        anyhow::ensure!(!curves.is_empty(), "nothing was measured of {series}");
        Ok(Self {
            name: name.into(),
            title: title.into(),
            unit,
            curves,
        })
    }

    /// The picture as SVG.
    ///
    /// # Errors
    /// There are no samples above zero: the axis of values is logarithmic.
    pub fn svg(&self) -> Result<String> {
        let values = || self.curves.iter().flat_map(|curve| curve.quantiles.iter().copied());
        let low = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let high = values().fold(0.0, f64::max);
        anyhow::ensure!(low.is_finite() && high > 0.0, "{}: nothing to draw", self.name);
        let mut text = String::new();
        self.draw(&mut text, low / 1.1, high * 1.1)
            .map_err(|error| anyhow!("drawing {}: {error}", self.name))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String, low: f64, high: f64) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d((low..high).log_scale(), 0.0..1.0)?;
        chart
            .configure_mesh()
            .x_desc(self.unit.name)
            .y_desc("share of samples no greater")
            .draw()?;
        for (number, curve) in self.curves.iter().enumerate() {
            let color = Palette99::pick(number);
            let points = (0_u32..).zip(&curve.quantiles).map(|(point, value)| {
                let share = f64::from(point) / POINTS as f64;
                (value.max(low), share)
            });
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches() -> Batches {
        let mut batches = Batches::default();
        batches.add("native", vec![("time".to_owned(), (1_000..2_000).collect())]);
        batches.add("imsup", vec![("time".to_owned(), (2_000..9_000).collect())]);
        batches
    }

    #[test]
    fn a_curve_goes_from_the_least_to_the_greatest() {
        let plot = Plot::of("x", "X", Unit::MICROSECONDS, &batches(), "time", &["native", "imsup"]).unwrap();
        let quantiles = &plot.curves[0].quantiles;
        assert_eq!(quantiles.len(), POINTS + 1);
        assert!((quantiles[0] - 1.0).abs() < 1e-9 && (quantiles[POINTS] - 1.999).abs() < 1e-9);
        assert!((quantiles[POINTS / 2] - 1.5).abs() < 0.01);
    }

    #[test]
    fn a_picture_names_its_variants_and_unit() {
        let plot = Plot::of(
            "x",
            "How long",
            Unit::MICROSECONDS,
            &batches(),
            "time",
            &["native", "imsup"],
        )
        .unwrap();
        let svg = plot.svg().unwrap();
        for part in ["<svg", "How long", "native", "imsup", "µs"] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(Plot::of("x", "X", Unit::MICROSECONDS, &batches(), "other", &["native"]).is_err());
        let empty = Plot {
            curves: Vec::new(),
            ..plot
        };
        assert!(empty.svg().is_err());
    }
}
