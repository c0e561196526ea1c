//! The files being loaded: text, and the places that messages show.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::MAX_FILE_BYTES;
use super::error::{ComposeError, Fault, Site};
use super::tree::{Location, Node};
use super::yaml;

/// The files of a single load, by the number in locations.
#[derive(Default)]
pub(super) struct Sources {
    files: Vec<(PathBuf, String)>,
}

impl Sources {
    /// Reads a file, and returns the documents. Messages show the file's name as `shown`.
    pub fn read(&mut self, file: &Path, shown: &Path) -> Result<Vec<Node>, ComposeError> {
        let failed = |source| ComposeError::Read {
            file: shown.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
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
