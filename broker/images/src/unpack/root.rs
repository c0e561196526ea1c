//! Paths in the directory of a layer.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::limits::Counter;
use super::{UnpackError, attributes, file_error, refused};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The mode of directories that no entry names, as with Docker.
const IMPLIED_MODE: Mode = Mode::from_bits_retain(0o755);
/// A rename anywhere on the machine makes the kernel give up a path with `..` (openat2(2), EAGAIN).
const TRIES: usize = 128;

/// The directory of a layer, and the directory to which replaced directories are moved.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    fd: OwnedFd,
    discarded: OwnedFd,
    moved: u64,
    /// The directory of the last place: files of a directory follow each other.
    last: Option<(Vec<u8>, OwnedFd)>,
}

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct Place {
    parent: OwnedFd,
    name: CString,
    path: Vec<u8>,
}

impl Place {
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(super) fn name(&self) -> &CString {
        &self.name
    }

    /// The whole path in the layer, with which the place was asked for.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Another name in the same directory.
    pub(super) fn sibling(self, name: &[u8]) -> Self {
        let length = self.path.len() - self.name.as_bytes().len();
        Self {
            path: [&self.path[..length], name].concat(),
            name: c_string(name),
            parent: self.parent,
        }
    }
}

impl Root {
    pub(super) fn open(path: &Path, discarded: &Path) -> Result<Self, UnpackError> {
        let open = |directory: &Path| {
            rustix::fs::open(directory, DIRECTORY, Mode::empty())
                .map_err(|error| file_error(path, "opening", directory.as_os_str().as_encoded_bytes(), error))
        };
        Ok(Self {
            fd: open(path)?,
            discarded: open(discarded)?,
            path: path.to_owned(),
            moved: 0,
            last: None,
        })
    }

    /// The place of a path, whose directories are made if they do not exist.
    pub(super) fn place(&mut self, words: &[&[u8]], counter: &mut Counter) -> Result<Place, UnpackError> {
        let (name, parents) = words.split_last().expect("the root has no place");
        let path = words.join(&b'/');
        let parent = path[..path.len() - name.len()].to_vec();
        let known = self.last.as_ref().filter(|(last, _)| *last == parent);
        let fd = match known {
            Some((_, fd)) => duplicate(fd).map_err(|error| self.failed("opening", &path, error))?,
            None => self.open_or_make(parents, counter)?,
        };
        if known.is_none() {
            let again = duplicate(&fd).map_err(|error| self.failed("opening", &path, error))?;
            self.last = Some((parent, again));
        }
        Ok(Place {
            parent: fd,
            name: c_string(name),
            path,
        })
    }

    /// The place of a path whose directory exists.
    pub(super) fn existing(&self, words: &[&[u8]]) -> Result<Place, UnpackError> {
        let (name, parents) = words.split_last().expect("the root has no place");
        let path = words.join(&b'/');
        let parent = self.resolve(&parents.join(&b'/'), DIRECTORY);
        Ok(Place {
            parent: parent.map_err(|error| self.failed("opening the directory of", &path, error))?,
            name: c_string(name),
            path,
        })
    }

    fn open_or_make(&self, parents: &[&[u8]], counter: &mut Counter) -> Result<OwnedFd, UnpackError> {
        let path = parents.join(&b'/');
        let failed = |error| self.failed("opening the directory", &path, error);
        match self.resolve(&path, DIRECTORY) {
            Err(Errno::NOENT) => (),
            Err(Errno::NOTDIR) if self.replace_whiteout(parents)? => return self.open_or_make(parents, counter),
            found => return found.map_err(failed),
        }
        let (name, above) = parents.split_last().ok_or_else(|| failed(Errno::NOENT))?;
        // The nearest directory that exists, by bisection: a path has up to 2,048 words.
        let prefix = |words: usize| self.resolve(&parents[..words].join(&b'/'), DIRECTORY);
        let (mut exists, mut missing) = (0, parents.len());
        while missing - exists > 1 {
            let middle = exists.midpoint(missing);
            match prefix(middle) {
                Err(Errno::NOENT) => missing = middle,
                _ => exists = middle,
            }
        }
        let mut directory = prefix(exists).map_err(failed)?;
        for word in above[exists..].iter().chain([name]) {
            counter.entry()?;
            let word = c_string(word);
            match rustix::fs::mkdirat(&directory, &word, Mode::RWXU) {
                // A link to something that does not exist.
                Err(Errno::EXIST) => return Err(refused(&path, "has a parent that is a dangling link")),
                made => made.map_err(failed)?,
            }
            let opened = rustix::fs::openat(&directory, &word, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
            rustix::fs::chmodat(&directory, &word, IMPLIED_MODE, AtFlags::empty()).map_err(failed)?;
            directory = opened.map_err(failed)?;
        }
        Ok(directory)
    }

    /// Makes a directory of the first whiteout on the way: the layer deletes it from lower layers
    /// and puts files into it, which nothing else need mention. `false` if there is no whiteout.
    fn replace_whiteout(&self, parents: &[&[u8]]) -> Result<bool, UnpackError> {
        for end in 1..=parents.len() {
            let place = self.existing(&parents[..end])?;
            match self.kind(&place)? {
                Some(FileType::CharacterDevice) => {
                    let (parent, name) = (place.parent(), place.name());
                    let replaced = rustix::fs::unlinkat(parent, name, AtFlags::empty())
                        .and_then(|()| rustix::fs::mkdirat(parent, name, Mode::RWXU))
                        .and_then(|()| rustix::fs::chmodat(parent, name, IMPLIED_MODE, AtFlags::empty()));
                    replaced.map_err(|error| self.failed("replacing", place.path(), error))?;
                    let directory = self.open_directory(&place)?;
                    attributes::make_opaque(directory.as_fd())
                        .map_err(|error| self.failed("marking", place.path(), error))?;
                    return Ok(true);
                }
                Some(FileType::Directory | FileType::Symlink) => (),
                _ => break,
            }
        }
        Ok(false)
    }

    /// What is at a place; `None` if nothing is.
    pub(super) fn kind(&self, place: &Place) -> Result<Option<FileType>, UnpackError> {
        match rustix::fs::statat(place.parent(), place.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("looking at", place.path(), error)),
        }
    }

    /// Removes whatever is at a place. A directory is moved away whole: to remove it takes as long
    /// as its content is large, and may go deeper than there are descriptors.
    pub(super) fn clear(&mut self, place: &Place) -> Result<(), UnpackError> {
        let failed = |root: &Self, error| Err(root.failed("replacing", place.path(), error));
        match rustix::fs::unlinkat(place.parent(), place.name(), AtFlags::empty()) {
            Ok(()) => self.last = None,
            Err(Errno::NOENT) => (),
            Err(Errno::ISDIR) => {
                self.last = None;
                self.moved += 1;
                let name = self.moved.to_string();
                if let Err(error) = rustix::fs::renameat(place.parent(), place.name(), &self.discarded, name) {
                    return failed(self, error);
                }
            }
            Err(error) => return failed(self, error),
        }
        Ok(())
    }

    /// The directory at a place, not one to which a link at the place leads.
    pub(super) fn open_directory(&self, place: &Place) -> Result<OwnedFd, UnpackError> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        rustix::fs::openat(place.parent(), place.name(), flags, Mode::empty())
            .map_err(|error| self.failed("opening", place.path(), error))
    }

    /// The directory at a path, open for changes of its attributes; `None` if there is none any
    /// more.
    pub(super) fn directory(&self, path: &[u8]) -> Result<Option<OwnedFd>, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.resolve(path, flags) {
            Ok(directory) => Ok(Some(directory)),
            // Access: the way leads through a link to a directory that is closed already.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
            Err(error) => Err(self.failed("opening", path, error)),
        }
    }

    /// Opens a path, for which the layer's directory is the root: neither `..` nor a link leads out.
    fn resolve(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b"." } else { path };
        let mut tries = 0..TRIES;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => (),
                result => return result,
            }
        }
    }

    pub(super) fn failed(&self, what: &'static str, path: &[u8], error: Errno) -> UnpackError {
        file_error(&self.path, what, path, error)
    }
}

/// The reader of archives refuses paths with a NUL.
fn c_string(word: &[u8]) -> CString {
    CString::new(word).expect("a path without a NUL")
}

fn duplicate(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}
