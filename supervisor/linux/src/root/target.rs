//! The place of a mount in a root that may be hostile.
//!
//! The steps run after pivot_root(2), so that a symbolic link of the image cannot lead out of the
//! root. Magic links of /proc lead to what other processes have open and are refused (openat2(2),
//! RESOLVE_NO_MAGICLINKS).

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::socket::errno_of;

/// The mode of directories that are made on the way, as under docker.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// The kind of a target: only a directory can be mounted over a directory (mount(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// An absolute path in a root: the paths of all its parents and its own, each absolute.
#[derive(Debug)]
pub(super) struct Target {
    /// From the first component down; empty for the root itself.
    ways: Vec<Way>,
    /// Whether symbolic links of the image are followed.
    follow: bool,
}

#[derive(Debug)]
struct Way {
    path: CString,
    name: CString,
}

impl Target {
    /// The place that `path` names; `None` if the path is not absolute, or leads up, or has a NUL.
    pub(super) fn new(path: &Path, follow: bool) -> Option<Self> {
        let mut ways = Vec::new();
        let mut so_far = Vec::new();
        let mut components = path.components();
        if components.next() != Some(Component::RootDir) {
            return None;
        }
        for component in components {
            let Component::Normal(name) = component else {
                return None;
            };
            so_far.push(b'/');
            so_far.extend_from_slice(name.as_bytes());
            ways.push(Way {
                path: CString::new(so_far.clone()).ok()?,
                name: CString::new(name.as_bytes()).ok()?,
            });
        }
        Some(Self { ways, follow })
    }

    /// The path.
    pub(super) fn path(&self) -> &CStr {
        self.ways.last().map_or(c"/", |way| way.path.as_c_str())
    }

    /// Opens the place (O_PATH), and makes what is missing on the way.
    pub(super) fn open(&self, kind: Kind) -> Result<OwnedFd, Errno> {
        let mut at = self.look_up(c"/")?;
        for (index, way) in self.ways.iter().enumerate() {
            let is_last = index + 1 == self.ways.len();
            at = match self.look_up(&way.path) {
                Err(Errno::ENOENT) => {
                    make(&at, &way.name, if is_last { kind } else { Kind::Directory })?;
                    self.look_up(&way.path)?
                }
                found => found?,
            };
        }
        Ok(at)
    }

    fn look_up(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        if !self.follow {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(errno_of)
    }
}

/// Makes a directory or an empty file. A dangling symbolic link is there already, and is an error
/// of the next look.
fn make(parent: &OwnedFd, name: &CStr, kind: Kind) -> Result<(), Errno> {
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, DIRECTORY_MODE),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, FILE_MODE).map(drop)
        }
    };
    match made {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno_of(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_that_lead_down_are_targets() {
        let path = |text: &str| Target::new(Path::new(text), true).map(|target| target.path().to_owned());
        assert_eq!(path("/a/b//c/"), Some(c"/a/b/c".to_owned()));
        assert_eq!(path("/a/./b"), Some(c"/a/b".to_owned()));
        assert_eq!(path("/"), Some(c"/".to_owned()));
        assert_eq!(path("a"), None);
        assert_eq!(path("/a/../b"), None);
        assert_eq!(path("/a\0b"), None);
    }
}
