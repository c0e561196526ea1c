//! The files being loaded: text, and the places that messages show.

use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::MAX_FILE_BYTES;
use indexmap::IndexMap;

use super::error::{ComposeError, Fault, Notice, Place, Site, Warning, WarningKind};
use super::tree::{Location, Node};
use super::yaml;

/// The name of standard input as a file.
pub(super) const STDIN: &str = "-";

/// The files of a single load, by the number in locations.
#[derive(Default)]
pub(super) struct Sources {
    files: Vec<(PathBuf, String)>,
    /// The content of standard input.
    stdin: Option<Arc<[u8]>>,
}

impl Sources {
    pub fn new(stdin: Option<Arc<[u8]>>) -> Self {
        Self {
            files: Vec::new(),
            stdin,
        }
    }

    /// Reads a file, and returns the documents. Messages show the file's name as `shown`.
    pub fn read(&mut self, file: &Path, shown: &Path) -> Result<Vec<Node>, ComposeError> {
        let failed = |source| ComposeError::Read {
            file: shown.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        match &self.stdin {
            Some(stdin) if file.as_os_str() == STDIN => bytes.extend_from_slice(stdin),
            _ => {
                let opened = std::fs::File::open(file).map_err(failed)?;
                opened
                    .take(MAX_FILE_BYTES + 1)
                    .read_to_end(&mut bytes)
                    .map_err(failed)?;
            }
        }
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ComposeError::TooLarge { file: shown.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            ComposeError::NotText {
                file: shown.to_owned(),
                line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            }
        })?;
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push((shown.to_owned(), text));
        yaml::parse(&self.files[self.files.len() - 1].1, number).map_err(|error| ComposeError::Malformed {
            site: Box::new(self.site(error.at)),
            message: error.message,
        })
    }

    /// A fault with its place.
    pub fn explain(&self, fault: Fault) -> ComposeError {
        ComposeError::Invalid {
            site: Box::new(self.site(fault.at)),
            path: fault.path,
            problem: fault.problem,
            also: Vec::new(),
        }
    }

    /// Faults with their places; the same fault at several places once.
    pub fn explain_all(&self, faults: Vec<Fault>) -> ComposeError {
        let mut groups: IndexMap<String, (Fault, Vec<Place>)> = IndexMap::new();
        for fault in faults {
            match groups.get_mut(&fault.problem.to_string()) {
                Some((_, also)) => also.push(self.place(fault.at, fault.path)),
                None => {
                    groups.insert(fault.problem.to_string(), (fault, Vec::new()));
                }
            }
        }
        let explained = groups.into_values().map(|(fault, others)| match self.explain(fault) {
            ComposeError::Invalid {
                site, path, problem, ..
            } => ComposeError::Invalid {
                site,
                path,
                problem,
                also: others,
            },
            other => other,
        });
        let mut explained: Vec<ComposeError> = explained.collect();
        match explained.len() {
            1 => explained.remove(0),
            _ => ComposeError::Several(explained),
        }
    }

    /// Warnings with their places; the same warning at several places once.
    pub fn warnings(&self, mut notices: Vec<Notice>) -> Vec<Warning> {
        // The stages of loading notice things in an order of their own.
        notices.sort_by_key(|notice| (notice.at.file, notice.at.line, notice.at.column));
        let mut groups: IndexMap<(WarningKind, String), Vec<Place>> = IndexMap::new();
        for notice in notices {
            let place = self.place(notice.at, notice.path);
            let places = groups.entry((notice.kind, notice.message)).or_default();
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let warning = |((kind, message), places)| Warning { kind, message, places };
        groups.into_iter().map(warning).collect()
    }

    fn place(&self, at: Location, path: String) -> Place {
        let file = self.files.get(at.file as usize).map(|(file, _)| file.clone());
        Place {
            path,
            file: file.unwrap_or_default(),
            line: at.line as usize,
        }
    }

    fn site(&self, at: Location) -> Site {
        let (file, text) = self
            .files
            .get(at.file as usize)
            .map_or((Path::new(""), ""), |(f, t)| (f, t));
        let line = (at.line as usize).max(1);
        Site {
            file: file.to_owned(),
            line,
            column: (at.column as usize).max(1),
            text: text.lines().nth(line - 1).unwrap_or_default().to_owned(),
        }
    }
}

/// `path` without `.` and `..`, by its text alone: the directory's name as known to the user, also
/// through a link.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}
