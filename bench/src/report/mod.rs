//! The measurements as values, and their output.

pub mod goal;
pub mod markdown;
pub mod plot;
pub mod question;
pub mod row;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::command;
use crate::machine::Machine;
use crate::rounds::Turn;
pub use goal::Goal;
pub use plot::Plot;
pub use question::Question;
pub use row::{Bound, Row, Variants};

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// True for a run at full length.
    pub full: bool,
    /// The suites.
    pub sections: Vec<Section>,
}

/// The content of a table.
#[derive(Debug, Serialize)]
struct Written<'a> {
    machine: &'a Machine,
    sections: &'a [&'a Section],
}

/// The heading of a table of suites.
#[derive(Debug)]
pub struct Heading {
    /// The name that selects all suites of a table, and the name of the committed file in
    /// `bench/results/`.
    pub name: &'static str,
    /// The file's heading.
    pub title: &'static str,
    /// The command that writes the file.
    pub command: &'static str,
    /// True if the table compares imsup with the baselines, and is judged by the goals.
    pub beside_others: bool,
}

/// One suite.
#[derive(Debug, Default, Serialize)]
pub struct Section {
    /// The suite's name.
    pub name: &'static str,
    /// The measured quantity.
    pub about: &'static str,
    /// The compared variants; native and imsup if `None`.
    pub columns: Option<[&'static str; 2]>,
    /// Its lines.
    pub rows: Vec<Row>,
    /// Its pictures.
    pub plots: Vec<Plot>,
    /// How to read the lines.
    pub notes: Vec<String>,
    /// Measures that failed, and why.
    pub gaps: Vec<String>,
    /// The reason for an early end, or for missing lines.
    pub failure: Option<String>,
    /// The duration, in seconds.
    pub took_s: u64,
}

impl Section {
    /// A failed suite.
    pub fn failed(why: String) -> Self {
        Self {
            failure: Some(why),
            ..Self::default()
        }
    }

    /// The same, with a name.
    pub fn named(mut self, name: &'static str, about: &'static str) -> Self {
        self.name = name;
        self.about = about;
        self
    }

    /// Notes a failed measurement.
    pub fn gap(&mut self, what: &str, why: impl std::fmt::Display) {
        eprintln!("  gap: {what}: {why}");
        self.gaps.push(format!("{what}: {why}"));
    }

    /// Notes which baselines failed.
    pub fn gaps_of(&mut self, what: &str, turns: &[Turn<'_>]) {
        for turn in turns {
            if let Some(why) = &turn.failed {
                self.gap(&format!("{what}: {}", turn.variant), format!("{why:#}"));
            }
        }
    }

    /// Adds how to read the lines.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// Writes `latest.md` and `latest.json`, and each table all of whose suites ran at full length:
/// `TABLE.md`, the same as `TABLE.json`, and its pictures in a directory `TABLE`.
///
/// # Errors
/// A file cannot be written.
pub fn write(report: &Report, directory: &Path, tables: &[(&Heading, Vec<&str>)]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let json = serde_json::to_string_pretty(report)?;
    let latest = directory.join("latest.json");
    command::write_file(&latest, &json)?;
    command::write_file(&latest.with_extension("md"), &markdown::latest(report))?;
    eprintln!("written: {}", latest.display());
    if !report.full {
        return Ok(());
    }
    for (table, suites) in tables {
        let section = |suite: &&str| report.sections.iter().find(|section| section.name == *suite);
        let Some(sections) = suites.iter().map(section).collect::<Option<Vec<_>>>() else {
            continue;
        };
        draw(&directory.join(table.name), &sections)?;
        if sections.iter().any(|section| !section.plots.is_empty()) {
            let json = serde_json::to_string_pretty(&Written {
                machine: &report.machine,
                sections: &sections,
            })?;
            command::write_file(&directory.join(format!("{}.json", table.name)), &json)?;
        }
        let path = directory.join(format!("{}.md", table.name));
        command::write_file(&path, &markdown::whole(table, &report.machine, &sections))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

/// The pictures of a table; earlier ones are removed.
fn draw(directory: &Path, sections: &[&Section]) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    for plot in sections.iter().flat_map(|section| &section.plots) {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        command::write_file(&directory.join(format!("{}.svg", plot.name)), &plot.svg()?)?;
    }
    Ok(())
}
