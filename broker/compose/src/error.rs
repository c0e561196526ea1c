//! Faults of a compose file, shown with the place and a remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::problem::Problem;
use super::tree::Location;
pub use super::trust::Distrust;

/// Longest piece of a source line shown in a message, in characters.
const EXCERPT_CHARS: usize = 120;

/// Why a compose file was not taken.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum ComposeError {
    /// There is no compose file here.
    #[error(
        "no compose file: looked for {names} in {} and the directories above it.\n\
         Name one with '-f FILE', or write a compose.yaml; for example\n\n\
         services:\n  web:\n    command: python3 -m http.server 80\n    ports: [\"8080:80\"]",
        directory.display(),
        names = super::DEFAULT_NAMES.join(", ")
    )]
    NotFound { directory: PathBuf },
    /// A file could not be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: io::Error },
    /// A found file may belong to another user.
    #[error(
        "{} {why}, and what it says would run as you; name it where it is meant:  -f {}",
        file.display(),
        named.display()
    )]
    Untrusted {
        file: PathBuf,
        why: Distrust,
        named: PathBuf,
    },
    /// A file is not text.
    #[error("{}:{line}: not UTF-8 text: a compose file is YAML", file.display())]
    NotText {
        file: PathBuf,
        /// The first line that isn't text, from 1.
        line: usize,
    },
    /// A file is larger than [`super::MAX_FILE_BYTES`].
    #[error("{}: larger than {} MiB, which no compose file should be", file.display(), super::MAX_FILE_BYTES >> 20)]
    TooLarge { file: PathBuf },
    /// A file is not YAML.
    #[error("{site}: malformed YAML: {}{}", clean(message), site.excerpt())]
    Malformed { site: Box<Site>, message: String },
    /// A key has a value that cannot be used.
    #[error("{site}: {}: {}{}{}", clean(path), clean(problem), site.excerpt(), same(also))]
    Invalid {
        site: Box<Site>,
        /// The key, for example `services.web.ports[0]`.
        path: String,
        problem: Box<Problem>,
        /// The same problem elsewhere.
        also: Vec<Place>,
    },
    /// Several values cannot be used.
    #[error("{}", lines(.0))]
    Several(Vec<ComposeError>),
    /// An environment file (`.env`, `env_file`) has a line that cannot be used.
    #[error("{}:{line}: {}", file.display(), clean(message))]
    EnvFile {
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        message: String,
    },
    /// The name is not possible for a project.
    #[error(
        "'{name}' ({origin}) cannot be a project's name: use 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter \
         or digit{}",
        suggestion.as_ref().map(|s| format!("; for example '{s}'")).unwrap_or_default()
    )]
    Project {
        name: String,
        origin: &'static str,
        suggestion: Option<String>,
    },
    /// `--strict`, and there are keys that are unknown or not honoured.
    #[error("{}", strict_message(.0))]
    Strict(Vec<Warning>),
}

fn strict_message(warnings: &[Warning]) -> String {
    format!(
        "{}\n{} of the file's keys would have no effect, which --strict refuses: take them out, or run without --strict",
        lines(warnings),
        warnings.iter().map(|warning| warning.places.len()).sum::<usize>()
    )
}

fn lines<T: fmt::Display>(items: &[T]) -> String {
    let lines: Vec<String> = items.iter().map(T::to_string).collect();
    lines.join("\n")
}

/// The other places of a problem, each on its line.
fn same(also: &[Place]) -> String {
    if also.is_empty() {
        return String::new();
    }
    let lines: String = also.iter().map(|place| format!("\n    {place}")).collect();
    format!("\n  the same:{lines}")
}

/// The place of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key, for example `services.web.volumes`.
    pub path: String,
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, clean(&self.path))
    }
}

/// A place in a compose file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The line itself.
    pub text: String,
}

impl Site {
    /// The line with a mark below the column, on separate lines; empty if the line does not exist.
    fn excerpt(&self) -> String {
        if self.text.trim().is_empty() {
            return String::new();
        }
        let start = (self.column - 1).saturating_sub(EXCERPT_CHARS / 2);
        let shown: String = self
            .text
            .chars()
            .skip(start)
            .take(EXCERPT_CHARS)
            .map(printable)
            .collect();
        let before = self.column - 1 - start;
        let number = self.line.to_string();
        format!(
            "\n  {number} | {shown}\n  {:width$} | {:before$}^",
            "",
            "",
            width = number.len()
        )
    }
}

/// Text of the file inside a message, on one line.
fn clean(text: &impl fmt::Display) -> String {
    text.to_string().chars().map(printable).collect()
}

/// The replacement of a character in a message: control characters could drive the reader's
/// terminal.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A problem and a place, before the sources are at hand to show the place.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: Location,
    pub path: String,
    pub problem: Box<Problem>,
}

impl Fault {
    pub fn new(at: Location, path: impl fmt::Display, problem: impl Into<Problem>) -> Self {
        Self {
            at,
            path: path.to_string(),
            problem: Box::new(problem.into()),
        }
    }
}

/// A part of a compose file without effect, before the sources are at hand to show the place.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub kind: WarningKind,
    pub at: Location,
    pub path: String,
    pub message: String,
}

/// Parts of a compose file without effect, for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The kind of the warning.
    pub kind: WarningKind,
    /// The explanation.
    pub message: String,
    /// The parts, at least one.
    pub places: Vec<Place>,
}

/// Kinds of [`Warning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WarningKind {
    /// Compose defines the key, but imsup has no support. An error if strict.
    NotHonoured,
    /// Compose does not define the key. An error if strict.
    UnknownKey,
    /// The key is not needed here: an image beside a command.
    NotUsed,
    /// A variable that is not set was taken as empty.
    UnsetVariable,
}

impl WarningKind {
    /// True if `strict` makes this an error.
    pub fn is_strict(self) -> bool {
        matches!(self, Self::NotHonoured | Self::UnknownKey)
    }
}

/// Most places that a warning names.
const MAX_PLACES: usize = 8;

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.places.split_first() else {
            return f.write_str(&clean(&self.message));
        };
        write!(f, "{first}: {}", clean(&self.message))?;
        for (index, place) in others.iter().take(MAX_PLACES - 1).enumerate() {
            let before = if index == 0 { "; the same: " } else { ", " };
            write!(f, "{before}{} (", clean(&place.path))?;
            if place.file != first.file {
                write!(f, "{} ", place.file.display())?;
            }
            write!(f, "line {})", place.line)?;
        }
        match others.len().saturating_sub(MAX_PLACES - 1) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
