//! The files of a source: those of a directory, or the members of an archive.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::manifest::MOST_DOCUMENT_BYTES;

/// Files by relative path.
pub(super) trait Files: Sync {
    /// A file and its length; `None` if there is none.
    fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send + '_>, u64)>>;

    /// Where the files are, for messages.
    fn place(&self) -> &Path;

    /// A document's text; `None` if there is none.
    fn text(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some((file, length)) = self.open(path)? else {
            return Ok(None);
        };
        if length > MOST_DOCUMENT_BYTES {
            return Err(io::Error::other(format!(
                "{path} has {length} bytes, too many for a document"
            )));
        }
        let mut text = Vec::new();
        file.take(length).read_to_end(&mut text)?;
        Ok(Some(text))
    }
}

/// The files of a directory.
pub(super) struct Directory(pub(super) PathBuf);

impl Files for Directory {
    fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send + '_>, u64)>> {
        let path = self.0.join(path);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some((Box::new(File::open(&path)?), found.len()))),
            Ok(_) => Err(io::Error::other(format!("{} is no file", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn place(&self) -> &Path {
        &self.0
    }
}
