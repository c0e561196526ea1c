//! Compares two builds of imsup. Both take turns in one run, and the earlier build twice, whose
//! difference is the noise.

mod counts;
mod measures;
mod verdict;

use std::path::Path;

use anyhow::Result;

use crate::context::Context;
use crate::report::{Question, Section};
use crate::sandbox::Sandbox;
pub use verdict::Verdict;

/// The earlier build.
const BEFORE: &str = "before";
/// The same once more: the difference between these two is noise.
const AGAIN: &str = "before again";
/// The build under judgement.
const AFTER: &str = "after";
/// In this order.
const SIDES: [&str; 3] = [BEFORE, AGAIN, AFTER];

/// One of the two builds.
struct Side<'a> {
    name: &'static str,
    sandbox: &'a Sandbox,
}

/// One compared measure.
pub struct Line {
    question: Question,
    verdict: Verdict,
}

/// The result.
pub struct Outcome {
    /// The lines.
    pub lines: Vec<Line>,
    /// Measures that failed, and why.
    pub section: Section,
}

impl Outcome {
    /// True if any measure is surely worse.
    pub fn is_worse(&self) -> bool {
        self.lines.iter().any(|line| line.verdict == Verdict::Worse)
    }

    /// The result as text.
    pub fn text(&self) -> String {
        verdict::text(&self.lines, &self.section.gaps)
    }
}

/// Compares the context's imsup with this one.
///
/// # Errors
/// There is no such imsup, one of the two fails, or a signal came.
pub fn run(context: &Context, before: &Path) -> Result<Outcome> {
    let before = crate::context::executable(before)?;
    let (first, second) = (Sandbox::new(before.clone())?, Sandbox::new(before)?);
    let sides = [
        Side {
            name: BEFORE,
            sandbox: &first,
        },
        Side {
            name: AGAIN,
            sandbox: &second,
        },
        Side {
            name: AFTER,
            sandbox: &context.sandbox,
        },
    ];
    let mut section = Section::default();
    let mut lines = Vec::new();
    for measure in [
        measures::trapped,
        measures::connecting,
        measures::booting,
        measures::sleeping,
        measures::up,
    ] {
        let questions = measure(context, &sides, &mut section)?.into_iter();
        lines.extend(questions.map(|question| Line {
            verdict: Verdict::of_times(&question),
            question,
        }));
    }
    let questions = counts::all(context, &sides, &mut section)?.into_iter();
    lines.extend(questions.map(|question| Line {
        verdict: Verdict::of_counts(&question),
        question,
    }));
    Ok(Outcome { lines, section })
}
