//! Layers as directories for overlayfs.
//!
//! A layer comes from strangers. Every path is resolved by the kernel with the layer's directory as
//! the root (openat2(2), RESOLVE_IN_ROOT), so nothing outside is read or written whatever the paths
//! and links of the layer say. What a layer may use is bounded by [`Limits`].

mod attributes;
mod content;
mod limits;
mod root;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::tar::{Entry, Kind, TarError, TarReader};
use attributes::{Attributes, Directories};
use limits::{BoundedReader, Counter};
use root::{Place, Root};

pub(crate) use attributes::is_opaque;
pub use limits::Limits;

/// Before a name: the name is deleted by this layer (image-spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Before the names of marks: files that speak of the layer itself.
const MARK: &[u8] = b".wh..wh.";
/// The mark that hides all that lower layers have in this directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whose the unpacked files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Those whom the layer names. The process is root, on the machine or in a user namespace to
    /// which the ids are mapped.
    Recorded,
    /// The user of this process, as whom an ordinary user without subordinate ids runs everything.
    Own,
}

/// A layer that cannot be unpacked. What was unpacked of it is to be removed.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged, or its stream failed.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A path that leads out of the layer, or nowhere.
    #[error("the entry '{path}' {problem}")]
    Entry {
        /// The path, printable.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The layer is larger than any honest one.
    #[error("the layer has more than {limit} {of}: it is refused")]
    Limit {
        /// The limit.
        limit: u64,
        /// What is counted.
        of: &'static str,
    },
    /// The disk is full.
    #[error("there is no space left on the disk of {}", .0.display())]
    DiskFull(PathBuf),
    /// An owner that the user namespace does not have (chown(2), EINVAL).
    #[error(
        "'{path}' belongs to user {uid} and group {gid}, which are beyond this user's subordinate ids (/etc/subuid, /etc/subgid)"
    )]
    Owner {
        /// The path in the layer, printable.
        path: String,
        /// The owner.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The file system refuses something.
    #[error("{what} '{path}': {source}")]
    File {
        /// What was done.
        what: &'static str,
        /// The path in the layer, printable.
        path: String,
        /// The reason.
        source: io::Error,
    },
}

/// Unpacks a layer, given as tar, into `directory`, which exists and is empty. Directories that an
/// entry replaces are moved to `discarded`, an empty directory of the same file system. The layer is
/// read to its end. Returns the number of bytes of the files.
///
/// # Errors
/// See [`UnpackError`].
pub fn unpack(
    layer: impl Read,
    directory: &Path,
    discarded: &Path,
    owners: Owners,
    limits: Limits,
) -> Result<u64, UnpackError> {
    let mut unpacker = Unpacker {
        root: Root::open(directory, discarded)?,
        directory: directory.to_owned(),
        owners,
        counter: Counter::new(limits),
        directories: Directories::default(),
    };
    let mut entries = TarReader::new(BoundedReader::new(layer, limits));
    while let Some(entry) = entries.next_entry()? {
        unpacker.place(&entry, &mut entries)?;
    }
    // The digest of a layer is that of all its bytes, and archives are filled up with zeros.
    io::copy(&mut entries.into_inner(), &mut io::sink()).map_err(TarError::Read)?;
    unpacker.directories.apply(&unpacker.root, owners)?;
    Ok(unpacker.counter.bytes())
}

struct Unpacker {
    root: Root,
    directory: PathBuf,
    owners: Owners,
    counter: Counter,
    /// What directories get at the end: a file that is put into a directory changes its time, and
    /// an ordinary user could put none into one without the permission to write.
    directories: Directories,
}

impl Unpacker {
    fn place(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), UnpackError> {
        let path = inside(&entry.path).map_err(|problem| refused(&entry.path, problem))?;
        self.counter.entry()?;
        let Some(name) = path.last() else {
            return match entry.kind {
                Kind::Directory => self
                    .directories
                    .set(Vec::new(), Attributes::of(entry), &mut self.counter),
                _ => Err(refused(&entry.path, "would replace the root itself")),
            };
        };
        // Skipped before a directory is made for it.
        let is_mark = |word: &&[u8]| word.starts_with(MARK);
        if entry.kind == Kind::Device || (path.iter().any(is_mark) && *name != OPAQUE) {
            return Ok(());
        }
        let place = self.root.place(&path, &mut self.counter)?;
        if *name == OPAQUE {
            return self.make_opaque(&place);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return match hidden {
                b"" | b"." | b".." => Err(refused(&entry.path, "deletes a name that is none")),
                hidden => self.white_out(&place.sibling(hidden)),
            };
        }
        match &entry.kind {
            Kind::File => self.file(entry, &place, content),
            Kind::Directory => self.directory(entry, &place),
            Kind::HardLink(target) => self.hard_link(&entry.path, target, &place),
            Kind::SymbolicLink(target) => self.symbolic_link(entry, target, &place),
            Kind::Fifo => self.fifo(entry, &place),
            Kind::Device => Ok(()),
        }
    }

    fn file(&mut self, entry: &Entry, place: &Place, content: &mut impl Read) -> Result<(), UnpackError> {
        self.root.clear(place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(place.parent(), place.name(), flags, Mode::RUSR | Mode::WUSR);
        let file = std::fs::File::from(file.map_err(|error| self.failed("creating", place, error))?);
        content::copy(content, &file, entry.size, &mut self.counter).map_err(|error| error.at(self, place))?;
        let attributes = Attributes::of(entry);
        let applied = attributes.apply_to(file.as_fd(), self.owners);
        applied.map_err(|error| attributes.failed(&self.root, place.path(), error))
    }

    fn directory(&mut self, entry: &Entry, place: &Place) -> Result<(), UnpackError> {
        match self.root.kind(place)? {
            Some(FileType::Directory) => (),
            before => {
                self.root.clear(place)?;
                rustix::fs::mkdirat(place.parent(), place.name(), Mode::RWXU)
                    .map_err(|error| self.failed("making", place, error))?;
                // Deleted and made again: nothing of the lower layers shows through.
                if before == Some(FileType::CharacterDevice) {
                    self.set_opaque(place)?;
                }
            }
        }
        self.directories
            .set(place.path().to_vec(), Attributes::of(entry), &mut self.counter)
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8], place: &Place) -> Result<(), UnpackError> {
        let words = inside(target).map_err(|problem| refused(target, problem))?;
        if words.is_empty() || words == inside(path).unwrap_or_default() {
            return Err(refused(path, "is a link to itself or to the root"));
        }
        let target = self.root.existing(&words)?;
        self.root.clear(place)?;
        rustix::fs::linkat(
            target.parent(),
            target.name(),
            place.parent(),
            place.name(),
            AtFlags::empty(),
        )
        .map_err(|error| self.failed("linking", place, error))
    }

    fn symbolic_link(&mut self, entry: &Entry, target: &[u8], place: &Place) -> Result<(), UnpackError> {
        if target.is_empty() {
            return Err(refused(&entry.path, "is a symbolic link to nothing"));
        }
        self.root.clear(place)?;
        rustix::fs::symlinkat(target, place.parent(), place.name())
            .map_err(|error| self.failed("making the link", place, error))?;
        self.attributes_at(entry, place)
    }

    fn fifo(&mut self, entry: &Entry, place: &Place) -> Result<(), UnpackError> {
        self.root.clear(place)?;
        rustix::fs::mknodat(place.parent(), place.name(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|error| self.failed("making the pipe", place, error))?;
        self.attributes_at(entry, place)
    }

    fn attributes_at(&self, entry: &Entry, place: &Place) -> Result<(), UnpackError> {
        let attributes = Attributes::of(entry);
        let applied = attributes.apply_at(place, self.owners);
        applied.map_err(|error| attributes.failed(&self.root, place.path(), error))
    }

    /// Hides what lower layers have under this name. The layer's own file is not affected: a
    /// whiteout speaks of lower layers (image-spec), and a directory hides lower ones if opaque.
    fn white_out(&mut self, place: &Place) -> Result<(), UnpackError> {
        match self.root.kind(place)? {
            Some(FileType::Directory) => self.set_opaque(place),
            Some(_) => Ok(()),
            // Not for root only, as other devices are: mknod(2), Linux 5.8.
            None => rustix::fs::mknodat(
                place.parent(),
                place.name(),
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .map_err(|error| self.failed("marking as deleted", place, error)),
        }
    }

    fn make_opaque(&self, mark: &Place) -> Result<(), UnpackError> {
        attributes::make_opaque(mark.parent()).map_err(|error| self.failed("marking the directory of", mark, error))
    }

    fn set_opaque(&self, place: &Place) -> Result<(), UnpackError> {
        let directory = self.root.open_directory(place)?;
        attributes::make_opaque(directory.as_fd()).map_err(|error| self.failed("marking", place, error))
    }

    fn failed(&self, what: &'static str, place: &Place, error: rustix::io::Errno) -> UnpackError {
        file_error(&self.directory, what, place.path(), error)
    }
}

/// The words of a path in the layer. Absolute paths are meant in the layer too (some builders write
/// them), and `.` is no word.
///
/// # Errors
/// What is wrong with the path.
fn inside(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let words = path.split(|byte| *byte == b'/');
    let words: Vec<&[u8]> = words.filter(|word| !word.is_empty() && *word != b".").collect();
    match words.iter().any(|word| *word == b"..") {
        true => Err("leads out of its directory ('..')"),
        false => Ok(words),
    }
}

fn printable(path: &[u8]) -> String {
    let text = path.escape_ascii().to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn refused(path: &[u8], problem: &'static str) -> UnpackError {
    UnpackError::Entry {
        path: printable(path),
        problem,
    }
}

fn file_error(directory: &Path, what: &'static str, path: &[u8], error: rustix::io::Errno) -> UnpackError {
    match error {
        rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT => UnpackError::DiskFull(directory.to_owned()),
        error => UnpackError::File {
            what,
            path: printable(path),
            source: error.into(),
        },
    }
}
