//! The members of a tar archive that can be read at any place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::Files;
use crate::tar::{Kind, TarError, TarReader};

/// The most members: an image has two or three for each layer.
const MOST_MEMBERS: usize = 100_000;
/// The most links from one to the next.
const MOST_LINKS: usize = 8;

/// An archive, with the places of its members.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    place: PathBuf,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File { offset: u64, length: u64 },
    Link(String),
}

impl Archive {
    /// Finds the members of an archive that is not compressed.
    pub(super) fn open(file: File, place: &Path) -> Result<Self, TarError> {
        let end = file.metadata()?.len();
        let mut members = HashMap::new();
        let mut offset = 0;
        loop {
            let mut reader = TarReader::new(Slice {
                file: &file,
                offset,
                end,
            });
            let Some(entry) = reader.next_entry()? else {
                break;
            };
            if members.len() >= MOST_MEMBERS {
                return Err(TarError::Damaged("it has too many members for an archive of images"));
            }
            let content = reader.into_inner().offset;
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let path = joined("", &path);
            offset = content.saturating_add(entry.size.div_ceil(512).saturating_mul(512));
            if content.saturating_add(entry.size) > end {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            let member = match entry.kind {
                Kind::File => Member::File {
                    offset: content,
                    length: entry.size,
                },
                // Older versions of Docker link equal layers.
                Kind::SymbolicLink(target) => Member::Link(joined(above, &String::from_utf8_lossy(&target))),
                Kind::HardLink(target) => Member::Link(joined("", &String::from_utf8_lossy(&target))),
                _ => continue,
            };
            members.insert(path, member);
        }
        Ok(Self {
            file,
            place: place.to_owned(),
            members,
        })
    }
}

impl Files for Archive {
    fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send + '_>, u64)>> {
        let mut path = joined("", path);
        for _ in 0..MOST_LINKS {
            match self.members.get(&path) {
                Some(Member::Link(target)) => path = target.clone(),
                Some(&Member::File { offset, length }) => {
                    let slice = Slice {
                        file: &self.file,
                        offset,
                        end: offset + length,
                    };
                    return Ok(Some((Box::new(slice), length)));
                }
                None => return Ok(None),
            }
        }
        Err(io::Error::other(format!("{path} is a link to a link without end")))
    }

    fn place(&self) -> &Path {
        &self.place
    }
}

/// A path from a directory of the archive, without `.` and `..`.
fn joined(directory: &str, path: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in directory.split('/').chain(path.split('/')) {
        match word {
            "" | "." => (),
            ".." => drop(words.pop()),
            word => words.push(word),
        }
    }
    words.join("/")
}

/// A part of a file.
struct Slice<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.offset);
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_archive() {
        for (directory, path, expected) in [
            ("", "./a//b", "a/b"),
            ("a", "../c/layer.tar", "c/layer.tar"),
            ("a", "../../../etc/passwd", "etc/passwd"),
            ("", "/a", "a"),
        ] {
            assert_eq!(joined(directory, path), expected);
        }
    }
}
